"""A relaxed structure must still be its molecule."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from consistent_calc.data import MoleculeRecord
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.basin import check_basin
from consistent_calc.molgraph import bond_table, stereo_table


@pytest.fixture
def record(mol: Chem.Mol) -> MoleculeRecord:
    numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]
    x = mol.GetConformer().GetPositions()
    return MoleculeRecord(numbers, x[None], bonds=bond_table(mol).numpy(), stereo=stereo_table(mol).numpy())


def test_a_molecule_moved_and_turned_is_the_same(record: MoleculeRecord) -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    check_basin(record, record.positions[0] @ (turn * np.linalg.det(turn)) + 5)


def test_changed_bonds(record: MoleculeRecord) -> None:
    i, j = next((i, j) for i, j, _ in record.bonds if 1 in (record.numbers[i], record.numbers[j]))
    hydrogen, heavy = (i, j) if record.numbers[i] == 1 else (j, i)
    x = record.positions[0]
    for target in (x[heavy] + 1.6 * (x[hydrogen] - x[heavy]), x[record.numbers.index(8)] + 0.6):
        moved = x.copy()
        moved[hydrogen] = target
        with pytest.raises(LabellingError) as raised:
            check_basin(record, moved)
        assert raised.value.reason == "changed_bonds"


def test_the_mirror_image_has_changed_stereo(record: MoleculeRecord) -> None:
    with pytest.raises(LabellingError) as raised:
        check_basin(record, record.positions[0] * [-1, 1, 1])
    assert raised.value.reason == "changed_stereo"


def test_a_molecule_without_graph_passes() -> None:
    check_basin(MoleculeRecord([1, 1], np.zeros((1, 2, 3))), np.zeros((2, 3)))
