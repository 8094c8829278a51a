"""Deduplication and ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from rdkit.Geometry import Point3D

from consistent_calc.conformers.deduplicate import best_rmsd, different_basins, heavy_atoms, unique_conformers
from consistent_calc.conformers.rank import boltzmann_weights, relative_energies
from consistent_calc.units import KCAL_PER_MOL


def permuted_copies(smiles: str, heavy_order: list[int]) -> Chem.Mol:
    """Two conformers: one geometry, and the same with equivalent heavy atoms exchanged, rotated and shifted."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=3)
    # The hydrogens stay behind, which a heavy-atom comparison must not notice.
    order = heavy_order + list(range(len(heavy_order), mol.GetNumAtoms()))
    x = mol.GetConformer().GetPositions()[order]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for i, point in enumerate(x @ turn.T + [1.0, -2.0, 3.0]):
        conformer.SetAtomPosition(i, Point3D(*point))
    mol.AddConformer(conformer, assignId=True)
    return mol


@pytest.mark.parametrize(
    ("smiles", "order"),
    [
        ("CC(C)(C)C", [2, 1, 0, 4, 3]),
        ("c1ccccc1", [1, 2, 3, 4, 5, 0]),
        ("[O-][N+](=O)c1ccccc1", [2, 1, 0, 3, 8, 7, 6, 5, 4]),
    ],
)
def test_equivalent_atoms_may_be_exchanged(smiles, order):
    mol = permuted_copies(smiles, order)
    assert best_rmsd(heavy_atoms(mol), 0, 1) < 1e-3
    assert unique_conformers(mol, [0.0, 1e-4]) == [0]


def test_different_minima_and_energies_are_kept():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=1)
    x = mol.GetConformer(0).GetPositions()
    mol.GetConformer(1).SetPositions(x)
    assert unique_conformers(mol, [0.02, 0.0200001]) == [0]
    assert unique_conformers(mol, [0.02, 0.0]) == [1, 0]  # same heavy atoms, other energy
    wide = unique_conformers(mol, [0.02, 0.0], energy_window=10.0)
    assert wide == [1]


def test_turned_hydroxyl_groups_are_conformers_and_turned_methyl_groups_are_not():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMultipleConfs(mol, 5, randomSeed=1)
    first, *others = list(mol.GetConformers())
    hydroxyl, methyl = (0, 1, 2, 8), (2, 1, 0, 3)
    rdMolTransforms.SetDihedralDeg(first, *hydroxyl, 180.0)
    turns = [(hydroxyl, 60.0), (hydroxyl, -60.0), (methyl, 30.0), (hydroxyl, 185.0)]
    for conformer, (torsion, angle) in zip(others, turns, strict=True):
        conformer.SetPositions(first.GetPositions())
        rdMolTransforms.SetDihedralDeg(conformer, *torsion, angle)
    assert unique_conformers(mol, [0.0, 1e-6, 2e-6, 3e-6, 4e-6]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("smiles", "order"),
    [
        ("CC(N)=[NH2+]", [0, 1, 3, 2, 4, 5, 6, 9, 10, 7, 8]),  # the formula has its double bond at one of two
        ("C[N+](C)(CC[NH3+])CC[NH3+]", None),
        ("OC(C(F)(F)F)(C(F)(F)F)C(O)(C(F)(F)F)C(F)(F)F", None),  # 10,368 permutations
    ],
)
def test_equivalent_groups_may_be_exchanged_however_many_there_are(smiles, order):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=1)
    first, second = list(mol.GetConformers())
    if order is None:
        matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=100_000)
        order = matches[-1]
    second.SetPositions(first.GetPositions()[list(order)])
    assert unique_conformers(mol, [0.0, 1e-5]) == [0]


def test_the_lowest_of_a_chain_of_duplicates_stays():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=1)
    for conformer in list(mol.GetConformers())[1:]:
        conformer.SetPositions(mol.GetConformer(0).GetPositions())
    assert unique_conformers(mol, [2e-3, 0.0, 1e-3]) == [1]


def test_what_was_not_compared_in_time_is_kept():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=1)
    for conformer in list(mol.GetConformers())[1:]:
        conformer.SetPositions(mol.GetConformer(0).GetPositions())
    assert different_basins(mol, [0.0] * 3) == [0]
    assert different_basins(mol, [0.0] * 3, deadline=0.0) == [0, 1, 2]


def test_molecules_without_heavy_bonds():
    for smiles in ("O", "[H][H]", "[NH4+]", "[H-]", "[H+]"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=1)
        assert unique_conformers(mol, [0.0, 1e-6]) == [0]
        assert different_basins(mol, [0.0, 1e-6])[0] == 0


def test_weights():
    energies = torch.tensor([-1000.0, -1000.0 + KCAL_PER_MOL, -1000.0 + 2 * KCAL_PER_MOL], dtype=torch.float64)
    assert torch.allclose(relative_energies(energies), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), atol=1e-9)
    weights = boltzmann_weights(energies, 298.15)
    assert float(weights.sum()) == pytest.approx(1.0)
    # exp(-1 kcal/mol / RT), R = 1.98720425864e-3 kcal/mol/K
    assert float(weights[1] / weights[0]) == pytest.approx(np.exp(-1 / (1.98720425864e-3 * 298.15)), rel=1e-6)
    assert float(boltzmann_weights(energies, 1e9)[0]) == pytest.approx(1 / 3, abs=1e-3)
