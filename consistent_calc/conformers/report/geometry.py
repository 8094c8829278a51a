"""What the 3D view needs of an ensemble, as compact JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdMolAlign import AlignMolConformers
from rdkit.Chem.rdMolTransforms import CanonicalizeConformer

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.conformers.result import ConformerEnsemble


def superimposed(mol: Mol) -> Mol:
    """A copy whose conformers lie on the first one by their heavy atoms, that one with its long axis along x.

    With fewer than three heavy atoms, which leave rotations free, all atoms count.
    """
    mol = Chem.Mol(mol)
    conformers = list(mol.GetConformers())
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    fitted = heavy if len(heavy) > 2 else list(range(mol.GetNumAtoms()))
    if conformers and len(fitted) > 1:
        CanonicalizeConformer(conformers[0], ignoreHs=len(heavy) > 2)
        AlignMolConformers(mol, atomIds=fitted)
    return mol


def viewer_data(ensemble: ConformerEnsemble, colors: list[str]) -> str:
    """JSON that is safe inside a script element: elements, bonds, superimposed coordinates and colours.

    ``bonds`` lists first atom, second atom and order, one bond after the other; ``coordinates`` holds for every
    conformer x, y, z of one atom after the other, in thousandths of an Angstrom.

    Args:
        ensemble: its molecule stays as it is.
        colors: one CSS colour a conformer.
    """
    mol = superimposed(ensemble.mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    bonds: list[int] = []
    for bond in mol.GetBonds():
        bonds += bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), max(1, round(bond.GetBondTypeAsDouble()))
    data = {
        "elements": [atom.GetSymbol() for atom in mol.GetAtoms()],
        "bonds": bonds,
        "coordinates": [np.rint(c.GetPositions() * 1000).astype(int).ravel().tolist() for c in mol.GetConformers()],
        "colors": colors,
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
