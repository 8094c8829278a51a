"""Bonds and stereo tags for geometries that come with a SMILES (imports RDKit inside the functions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.elements import covalent_radii
from consistent_calc.errors import MoleculeInputError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Largest length of a bond over the sum of its covalent radii, in a structure at a minimum.
BOND_STRETCH = 1.3

#: Smallest distance of two atoms without a bond over the sum of their radii (bicyclo[1.1.1]pentane has 1.2).
CONTACT = 1.05


def molecule_of_smiles(smiles: str) -> Mol:
    """Molecule with explicit hydrogens, heavy atoms in the order of the SMILES, hydrogens after them.

    Raises:
        MoleculeInputError: RDKit cannot read the SMILES.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise MoleculeInputError(f"RDKit cannot read the SMILES {smiles!r}.")
    return Chem.AddHs(mol)


def numbers_of(mol: Mol) -> NDArray[np.uint8]:
    """Atomic numbers, uint8 ``[n_atoms]``."""
    return np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.uint8)


def fits_geometry(mol: Mol, positions: NDArray[Any], stretch: float = BOND_STRETCH, contact: float = CONTACT) -> bool:
    """Whether the geometry has the bonds of the graph, atom by atom.

    Args:
        mol: graph with explicit hydrogens.
        positions: ``[n_atoms, 3]``, Angstrom, in the order of the graph's atoms.
        stretch: a bond may be this many times the sum of its covalent radii.
        contact: atoms without a bond must be farther apart than this many times the sum of their radii.
    """
    radii = covalent_radii(numbers_of(mol))
    ratio = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radii[:, None] + radii)
    bonded = np.zeros(ratio.shape, dtype=bool)
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonded[i, j] = bonded[j, i] = True
    apart = ~bonded & ~np.eye(len(radii), dtype=bool)
    return bool((ratio[bonded] < stretch).all() and (ratio[apart] > contact).all())


@dataclass(frozen=True)
class GeometryGraph:
    """Graph of a molecule with the stereo of one geometry.

    Attributes:
        mol: the molecule, its stereo perceived from the geometry.
        bonds: int64 ``[n_bonds, 3]``.
        stereo: int64 ``[n_stereo, 5]``.
        tags_met: whether the geometry fulfils all tags. A strained carbon outside the tetrahedron of its neighbors
            (bicyclobutane) has a sign opposite to the tag, and is therefore no target of the structure head.
    """

    mol: Mol
    bonds: NDArray[np.int64]
    stereo: NDArray[np.int64]
    tags_met: bool


def graph_of_geometry(mol: Mol, positions: NDArray[Any]) -> GeometryGraph:
    """Graph of the molecule, with all stereo perceived from one geometry.

    Args:
        mol: graph with explicit hydrogens.
        positions: ``[n_atoms, 3]``, Angstrom.
    """
    import torch
    from rdkit import Chem

    from consistent_calc.molgraph import bond_table, stereo_satisfied, stereo_table

    out = Chem.Mol(mol)
    conformer = Chem.Conformer(out.GetNumAtoms())
    conformer.SetPositions(np.asarray(positions, dtype=np.float64))
    out.RemoveAllConformers()
    out.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(out)
    stereo = stereo_table(out)
    met = stereo_satisfied(torch.as_tensor(positions, dtype=torch.float64), stereo)
    return GeometryGraph(out, bond_table(out).numpy(), stereo.numpy(), bool(met.all()))
