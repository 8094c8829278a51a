"""The checks of a geometry against its molecule: real changes are seen, false alarms are not raised."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from consistent_calc.conformers.stereo import GeometryCheck, _inverted

STEREO = ["C[C@H](N)C(=O)O", "C[C@H](O)[C@@H](F)Cl", "C[S@](=O)c1ccccc1", "O[C@H]1CC[C@@H](C)C1", "C[C@@H]1CN1C"]
SOUND = [
    *STEREO,
    "CC(=O)Oc1ccccc1C(=O)O",
    "C1C2CC1C2",
    "C12C3C4C1C5C2C3C45",
    "C1CCC/C=C/CC1",
    "C/C=C/C=C\\C",
    "C[C@H]1CC[C@@H](C)CC1",
    "CS(=O)(=O)NC",
    "CC(=O)/C=C(/C)O",
    "FC(F)(F)C(F)(F)F",
    "OCC(O)CO",
    "C#CC",
    "O",
    "[H][H]",
    "C/C(=N\\O)c1ccccc1",
    "C1N2CC12",
]


def embedded(smiles: str, n: int = 3) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=5)
    return mol


def positions(mol: Chem.Mol) -> list[torch.Tensor]:
    return [torch.from_numpy(c.GetPositions()) for c in mol.GetConformers()]


@pytest.mark.parametrize("smiles", SOUND)
def test_no_false_alarm_for_etkdg_and_mmff(smiles):
    mol = embedded(smiles)
    check = GeometryCheck(mol)
    assert [check.problem(x) for x in positions(mol)] == [None] * mol.GetNumConformers()
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    assert [check.problem(x) for x in positions(mol)] == [None] * mol.GetNumConformers()


@pytest.mark.parametrize("smiles", STEREO)
def test_a_reflected_conformer_is_detected(smiles):
    mol = embedded(smiles, 1)
    check, (x,) = GeometryCheck(mol), positions(mol)
    mirror = x * torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype)
    assert check.problem(mirror) == "stereo_changed"
    assert not check._rdkit_agrees(mirror)


def test_one_inverted_centre_of_two_is_detected():
    wanted, other = embedded("C[C@H](O)[C@@H](F)Cl", 1), embedded("C[C@H](O)[C@H](F)Cl", 1)
    check, (x,) = GeometryCheck(wanted), positions(other)
    assert check.problem(x) == "stereo_changed"
    assert not check._rdkit_agrees(x)


@pytest.mark.parametrize("smiles", ["C/C=C/C", "C/C=C\\CO", "C/C(=N\\O)c1ccccc1"])
def test_a_flipped_double_bond_is_detected(smiles):
    mol = embedded(smiles, 1)
    check = GeometryCheck(mol)
    bond = next(b for b in mol.GetBonds() if len(b.GetStereoAtoms()) == 2)
    first, last = bond.GetStereoAtoms()
    path = (first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last)
    conformer = mol.GetConformer()
    turned = rdMolTransforms.GetDihedralDeg(conformer, *path) + 180
    rdMolTransforms.SetDihedralDeg(conformer, *path, turned)
    (x,) = positions(mol)
    assert not check.stereo_kept(x)
    assert not check._rdkit_agrees(x)


def test_unspecified_stereo_is_free():
    mol = embedded("CC(N)C(=O)O", 1)
    (x,) = positions(mol)
    assert GeometryCheck(mol).problem(-x) is None


def test_broken_formed_and_collapsed_bonds_are_detected():
    mol = embedded("OCCO", 1)
    check, (x,) = GeometryCheck(mol), positions(mol)
    hydrogen = next(a.GetIdx() for a in mol.GetAtoms() if a.GetSymbol() == "H" and a.GetNeighbors()[0].GetIdx() == 0)
    transferred = x.clone()
    transferred[hydrogen] = x[3] + (x[3] - x[2]) / (x[3] - x[2]).norm()
    assert check.problem(transferred) == "bonds_changed"
    formed = x.clone()
    formed[hydrogen] = x[0] + 0.75 * (x[hydrogen] - x[0])
    assert check.problem(formed) is None  # a short bond is still that bond
    collapsed = x.clone()
    collapsed[hydrogen] = x[0] + 0.4 * (x[hydrogen] - x[0])
    assert check.problem(collapsed) == "bonds_changed"
    formed[3] = x[0] + torch.tensor([0.0, 0.0, 1.3], dtype=x.dtype)
    assert check.problem(formed) == "bonds_changed"
    assert check.problem(x * torch.nan) == "bonds_changed"


def test_the_outer_reading_is_not_asked_about_an_inverted_center():
    mol = Chem.AddHs(Chem.MolFromSmiles("F[C@](Cl)(Br)I"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    x = torch.from_numpy(mol.GetConformer().GetPositions())
    neighbors = [0, 2, 3, 4]
    assert not _inverted(x, 1, neighbors)
    pushed = x.clone()
    pushed[1] = 1.3 * x[[2, 3, 4]].mean(0) - 0.3 * x[0]  # through the face of the other three
    assert _inverted(pushed, 1, neighbors)
    assert not _inverted(x, 1, neighbors[:3])
