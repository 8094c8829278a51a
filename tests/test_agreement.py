"""Agreement of the two heads on a structure."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMultipleConfs

from consistent_calc import StructureBatch
from consistent_calc.agreement import check_agreement, score_force_cosines
from consistent_calc.checkpoint import load_model
from consistent_calc.model import ConsistentModel


@pytest.fixture
def mol() -> Chem.Mol:
    molecule = Chem.AddHs(Chem.MolFromSmiles("OCCO"))
    EmbedMultipleConfs(molecule, 3, randomSeed=1)
    return molecule


@pytest.fixture
def minima(mol: Chem.Mol) -> StructureBatch:
    return StructureBatch.from_rdkit(mol)


def along_the_force(model: ConsistentModel, sign: float):
    """A structure head that agrees with the force, or contradicts it."""
    return lambda batch, sigma: batch.positions + sign * 0.01 * model.predict(batch).forces


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_heads_that_agree_and_that_do_not(
    model: ConsistentModel, minima: StructureBatch, monkeypatch: pytest.MonkeyPatch, sign: float
) -> None:
    monkeypatch.setattr(model, "denoise", along_the_force(model, sign))
    torch.testing.assert_close(score_force_cosines(model, minima), torch.full((3,), sign).double())


def test_each_structure_counts_alone(model: ConsistentModel, minima: StructureBatch) -> None:
    # Whatever an untrained network says, it lies between -1 and 1 and does not depend on the company.
    together = score_force_cosines(model, minima)
    assert (together.abs() <= 1).all()
    alone = torch.cat([score_force_cosines(model, minima[k]) for k in range(3)])
    torch.testing.assert_close(together, alone)
    assert len(score_force_cosines(model, minima.select([]))) == 0


def test_the_shipped_model_agrees_with_itself(mol: Chem.Mol, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(dtype=torch.float64)
    one = StructureBatch.from_rdkit(mol)[0]
    assert all(check.passed for check in check_agreement(model, one))
    # A head that leaves the noise where it is has learned neither; one that goes the wrong way fails both.
    monkeypatch.setattr(model, "denoise", lambda batch, sigma: batch.positions + 1e-9)
    left, _ = check_agreement(model, one)
    assert left.value == pytest.approx(1.0, abs=1e-4)
    assert not left.passed
    real = load_model(dtype=torch.float64)
    monkeypatch.setattr(model, "denoise", lambda batch, sigma: 2 * batch.positions - real.denoise(batch, sigma))
    assert not any(check.passed for check in check_agreement(model, one))


def test_trainable_weights_are_no_obstacle(mol: Chem.Mol) -> None:
    model = load_model().requires_grad_(True)
    assert len(check_agreement(model, StructureBatch.from_rdkit(mol)[0])) == 2
    assert all(p.requires_grad for p in model.parameters())


def test_a_single_atom_has_no_structure(model: ConsistentModel) -> None:
    assert check_agreement(model, StructureBatch.from_arrays([8], [[0.0, 0.0, 0.0]], charge=-2, bonds=[])) == []
