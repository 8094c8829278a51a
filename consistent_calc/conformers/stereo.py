"""Checks that a geometry still is the molecule asked for: its stereochemistry and its bonds, read from 3D."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from consistent_calc.conformers.stereoisomers import TETRAHEDRAL
from consistent_calc.elements import covalent_radii
from consistent_calc.molgraph import bond_table, signed_volumes, stereo_satisfied, stereo_table

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: A bond longer than this multiple of the sum of the covalent radii is broken.
BROKEN = 1.35
#: A bond shorter than this multiple has collapsed, to where the energy was never trained. The shortest true bonds,
#: triple ones, are at 0.77.
COLLAPSED = 0.6
#: Atoms closer than this multiple that share no bond have formed one. Bridgeheads of bicyclo[1.1.1]pentane: 1.23.
FORMED = 1.15

_CIS_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOZ)


def perceived_smiles(mol: Mol) -> list[str]:
    """Canonical SMILES with the stereochemistry of each conformer, read from its positions alone."""
    out = []
    with rdBase.BlockLogs():
        for conformer in mol.GetConformers():
            seen = Chem.Mol(mol, confId=conformer.GetId())
            Chem.AssignStereochemistryFrom3D(seen, conformer.GetId(), replaceExistingTags=True)
            for atom in seen.GetAtoms():
                # RDKit also tells how the neighbors of PF5 or an SF5 group are numbered, which is no isomer.
                if atom.GetChiralTag() not in TETRAHEDRAL:
                    atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
            out.append(Chem.MolToSmiles(Chem.RemoveHs(seen)))
    return out


def _inverted(positions: Tensor, center: int, neighbors: list[int]) -> bool:
    """Whether a center lies outside the tetrahedron of its four neighbors."""
    if len(neighbors) != 4:
        return False
    corners = [[center if k == moved else other for k, other in enumerate(neighbors)] for moved in range(4)]
    volumes = signed_volumes(positions, torch.tensor([neighbors, *corners]))
    return bool((volumes[1:] * volumes[0] <= 0).any())


class GeometryCheck:
    """Compares geometries with one molecule.

    Args:
        mol: with explicit hydrogens and the wanted stereochemistry; its conformers are not used.
    """

    def __init__(self, mol: Mol) -> None:
        self.mol = Chem.Mol(mol)
        self.mol.RemoveAllConformers()
        self._stereo = stereo_table(mol)
        self._centers = [
            (atom.GetIdx(), [n.GetIdx() for n in atom.GetNeighbors()])
            for atom in mol.GetAtoms()
            if atom.GetChiralTag() in TETRAHEDRAL and atom.GetDegree() in (3, 4)
        ]
        self._tags = {a.GetIdx(): a.GetChiralTag() for a in mol.GetAtoms() if a.GetChiralTag() in TETRAHEDRAL}
        self._labels = {b.GetIdx(): b.GetStereo() for b in mol.GetBonds() if b.GetStereo() in _CIS_TRANS}
        n = mol.GetNumAtoms()
        radii = torch.from_numpy(covalent_radii(a.GetAtomicNum() for a in mol.GetAtoms()))
        self._sums = radii[:, None] + radii[None, :]
        self._bonded = torch.zeros(n, n, dtype=torch.bool)
        i, j = bond_table(mol)[:, :2].unbind(1)
        self._bonded[i, j] = self._bonded[j, i] = True
        self._other = ~self._bonded & ~torch.eye(n, dtype=torch.bool)

    def problem(self, positions: Tensor) -> str | None:
        """``"bonds_changed"``, ``"stereo_changed"`` or None if the geometry is the molecule's.

        Args:
            positions: ``[n_atoms, 3]``, Angstrom.
        """
        positions = positions.detach().cpu().double()
        if not bool(torch.isfinite(positions).all()) or not self.bonds_kept(positions):
            return "bonds_changed"
        return None if self.stereo_kept(positions) else "stereo_changed"

    def bonds_kept(self, positions: Tensor) -> bool:
        """Whether no bond of the molecule is broken or collapsed and no other one formed, judged by distances."""
        ratio = torch.linalg.norm(positions[:, None] - positions[None, :], dim=-1) / self._sums
        changed = (ratio > BROKEN) | (ratio < COLLAPSED)
        return not bool((changed & self._bonded).any() or ((ratio < FORMED) & self._other).any())

    def stereo_kept(self, positions: Tensor) -> bool:
        """Whether every specified centre and double bond has its label.

        Two independent readings must agree: the signs of volumes and dihedral angles
        (:func:`consistent_calc.molgraph.stereo_satisfied`), and RDKit's perception from 3D. Bridgeheads of strained
        cages may be inverted, with all neighbors on one side of them; the first reading tells nothing about those.
        """
        met = stereo_satisfied(positions, self._stereo)
        met[: len(self._centers)] |= torch.tensor([_inverted(positions, *c) for c in self._centers], dtype=torch.bool)
        return bool(met.all()) and self._rdkit_agrees(positions)

    def _rdkit_agrees(self, positions: Tensor) -> bool:
        if not self._tags and not self._labels:
            return True
        seen = Chem.Mol(self.mol)
        conformer = Chem.Conformer(seen.GetNumAtoms())
        conformer.Set3D(True)
        conformer.SetPositions(positions.numpy())
        seen.AddConformer(conformer, assignId=True)
        with rdBase.BlockLogs():
            Chem.AssignStereochemistryFrom3D(seen, replaceExistingTags=True)
        # A label that RDKit does not assign from 3D (it knows fewer kinds of centres there) contradicts nothing.
        tags = ((tag, seen.GetAtomWithIdx(i).GetChiralTag(), TETRAHEDRAL) for i, tag in self._tags.items())
        labels = ((label, seen.GetBondWithIdx(i).GetStereo(), _CIS_TRANS) for i, label in self._labels.items())
        return not any(found in known and found != wanted for wanted, found, known in (*tags, *labels))
