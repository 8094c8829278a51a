"""MoleculeRecord.from_dataset gives back what was written."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
from harmonic import dihydrogen

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    full = {"equilibrium": [True, False], "kind": [1, 0], "energy": [-1.5, 2.5], "forces": rng.normal(size=(2, 2, 3))}
    full |= {"partial_charges": [[0.5, -0.5], [0.25, -0.25]], "dipole": rng.normal(size=(2, 3)), "barrier": 1.25}
    water = {"numbers": [8, 1, 1], "positions": rng.normal(size=(1, 3, 3)), "bonds": [(0, 1, 2), (0, 2, 2)]}
    written = [dihydrogen("a", 3), dihydrogen("b", 97, 2, **full), dihydrogen("c", 4, -1, **water)]
    with StoreWriter(tmp_path / "a.h5", level="l", provenance="p", licence="MIT") as writer:
        for record in written:
            writer.add(record)
    data = Store(tmp_path / "a.h5").read(*Split)
    for i, record in enumerate(written):
        found = MoleculeRecord.from_dataset(data, i)
        for field in fields(MoleculeRecord):
            expected, value = getattr(record, field.name), getattr(found, field.name)
            if expected is None:  # absent for this molecule only: NaN
                assert value is None or not np.size(value) or np.isnan(value).all(), field.name
            elif isinstance(expected, str):
                assert value == expected
            else:
                expected = np.broadcast_to(np.float32(expected), np.shape(value))
                np.testing.assert_array_equal(np.float32(value), expected, err_msg=field.name)
        assert found.columns()["n_conformations"] == len(record.positions)
