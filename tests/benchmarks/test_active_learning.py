"""Active learning: what is turned stays a molecule, and what is kept is what was asked for."""

from __future__ import annotations

import active
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from consistent_calc.data import MoleculeRecord
from consistent_calc.structures import StructureBatch


def record(smiles: str) -> MoleculeRecord:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    batch = StructureBatch.from_rdkit(mol)
    return MoleculeRecord(
        numbers=batch.numbers.numpy(),
        positions=batch.positions.numpy()[None],
        smiles=smiles,
        bonds=batch.bonds.numpy(),
        stereo=batch.stereo.numpy(),
    )


def test_a_turned_molecule_has_its_bonds_and_another_shape() -> None:
    start = record("CC(=O)NCCO")
    found = active.turned(start, np.random.default_rng(0))
    x, y = start.positions[0], found.positions[0]
    i, j, _ = start.bonds.T
    np.testing.assert_allclose(np.linalg.norm(y[i] - y[j], axis=1), np.linalg.norm(x[i] - x[j], axis=1))
    assert np.abs(np.linalg.norm(y[:, None] - y, axis=2) - np.linalg.norm(x[:, None] - x, axis=2)).max() > 0.3


@pytest.mark.parametrize("smiles", ["C1CCCCC1", "C#N", "C"])
def test_without_a_single_bond_to_turn_about(smiles: str) -> None:
    assert active.turned(record(smiles), np.random.default_rng(0)) is None


def test_choice() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    scores[:20] = 2.0  # of one molecule
    visits = [
        active.Visit(molecule=k // 20, positions=np.zeros((1, 3)), way=0, score=s, changed=k >= 190)
        for k, s in enumerate(scores)
    ]
    kept = active.choose(visits, 0.1, rng)
    reasons = np.array([kept.get(k, -1) for k in range(200)])
    assert (reasons == active.RANDOM).sum() == (reasons == active.DISAGREE).sum() == 20
    assert (reasons[:20] == active.DISAGREE).sum() == 2
    disagree = np.flatnonzero(reasons == active.DISAGREE)
    others = [
        k for k in range(20, 190) if reasons[k] == -1 and (reasons[k // 20 * 20 :][:20] == active.DISAGREE).sum() < 2
    ]
    assert scores[disagree].min() > max(scores[others], default=0)
    assert (reasons[190:] != active.DISAGREE).all()
    assert (reasons[:190] != active.CHANGED).all()
