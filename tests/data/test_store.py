"""The store: what goes in comes out, only the sides asked for, and damage is noticed."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from data_examples import LEVEL, random_record, write_store

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter, bucket_of_smiles
from consistent_calc.errors import DataError


def test_round_trip_of_every_molecule(store_path: Path, records: list[MoleculeRecord]) -> None:
    store = Store(store_path)
    data = store.read(*Split)
    assert (store.level, store.licence, store.kinds) == (LEVEL, "MIT", {0: "a", 2: "c"})
    assert len(data) == sum(len(r.positions) for r in records)
    assert data.n_molecules == len(records)
    for m, record in enumerate(records):
        c, n = record.positions.shape[:2]
        indices = np.flatnonzero(data.molecule == m)
        batch, labels = data.batch(indices, with_graph=True)
        assert batch.n_graphs == c
        assert data.smiles[m] == record.smiles
        assert data.source[m] == "synthetic"
        assert batch.charge.tolist() == [record.charge] * c
        np.testing.assert_array_equal(batch.numbers.reshape(c, n)[-1], record.numbers)
        np.testing.assert_array_equal(batch.positions.reshape(c, n, 3), record.positions)
        np.testing.assert_array_equal(batch[c - 1].bonds, np.reshape(record.bonds, (-1, 3)))
        np.testing.assert_array_equal(batch[c - 1].stereo, np.reshape(record.stereo, (-1, 5)))
        np.testing.assert_array_equal(data.kind[indices], record.kind)
        np.testing.assert_array_equal(data.equilibrium[indices], record.equilibrium)
        np.testing.assert_array_equal(labels.energy, record.energy)
        np.testing.assert_array_equal(labels.forces.reshape(c, n, 3), record.forces)
        np.testing.assert_array_equal(labels.partial_charges.reshape(c, n), record.partial_charges)
        np.testing.assert_array_equal(labels.dipole, record.dipole)


def test_batch_joins_molecules_in_the_order_asked_for(store_path: Path) -> None:
    data = Store(store_path).read(Split.TRAIN)
    batch, labels = data.batch([40, 3, 40], with_graph=True)
    assert batch.counts.tolist() == data.n_atoms[[40, 3, 40]].tolist()
    assert labels.molecule.tolist() == data.molecule[[40, 3, 40]].tolist()
    assert labels.level == LEVEL
    assert torch.equal(batch[0].positions, batch[2].positions)
    assert torch.equal(batch[0].bonds, batch[2].bonds)
    assert (batch.positions.dtype, labels.energy.dtype, labels.forces.dtype) == (
        torch.float32,
        torch.float64,
        torch.float32,
    )
    assert data.batch([3])[0].bonds is None
    assert torch.equal(labels.to("cpu").forces, labels.forces)


@pytest.mark.parametrize("split", list(Split))
def test_a_side_yields_its_buckets_only(store_path: Path, split: Split) -> None:
    store = Store(store_path)
    data = store.read(split)
    assert sorted(set(data.bucket.tolist())) == list(split.buckets)
    assert store.count(split) == (data.n_molecules, len(data))
    assert all(int(s.split()[-1]) in split.buckets for s in data.smiles)


def test_nothing_is_read_without_naming_a_side(store_path: Path) -> None:
    with pytest.raises(DataError, match="Name the sides"):
        Store(store_path).read()
    both = Store(store_path).read(Split.TRAIN, Split.VALIDATION)
    assert both.bucket.max() == 94


def test_a_label_may_be_absent_or_partly_absent(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    first = [random_record(rng, 1, energy=None, dipole=None, partial_charges=None) for _ in range(300)]
    late = random_record(rng, 2, partial_charges=None)
    data = Store(write_store(tmp_path / "a.h5", [*first, late])).read(*Split)
    _, labels = data.batch(range(len(data)))
    n_late = len(late.positions)
    assert labels.partial_charges is None
    assert labels.energy[:-n_late].isnan().all()
    assert not labels.energy[-n_late:].isnan().any()
    assert labels.dipole[:-n_late].isnan().all()
    assert not labels.dipole[-n_late:].isnan().any()


def test_periodic_cells_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    crystal = random_record(rng, 1, numbers=[6], positions=np.zeros((1, 1, 3)), bonds=None, stereo=None)
    labels = {"kind": 0, "equilibrium": True, "energy": [1.0], "forces": None, "partial_charges": None, "dipole": None}
    cell = np.diag([3.0, 4.0, 5.0])[None]
    crystal = replace(crystal, **labels, cell=cell, pbc=[[True, True, False]])
    batch, _ = Store(write_store(tmp_path / "a.h5", [crystal])).read(Split.TRAIN).batch([0])
    np.testing.assert_array_equal(batch.cell, cell)
    assert batch.pbc.tolist() == [[True, True, False]]


def test_half_precision_comes_back_as_float32(tmp_path: Path) -> None:
    record = random_record(np.random.default_rng(3), 1)
    data = Store(write_store(tmp_path / "a.h5", [record], half_precision=True)).read(Split.TRAIN)
    _, labels = data.batch([0])
    assert data.forces.dtype == np.float16
    assert labels.forces.dtype == torch.float32
    np.testing.assert_allclose(labels.forces, record.forces[0], rtol=1e-3, atol=1e-6)


def test_the_bucket_comes_from_the_smiles_or_the_entry_is_rejected(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    bad = [
        random_record(rng, None, smiles=""),
        random_record(rng, None, smiles="nonsense"),
        random_record(rng, 100),
        random_record(rng, 0, positions=np.full((1, 2, 3), np.nan), numbers=[1, 1]),
        random_record(rng, 0, numbers=[1], bonds=[(0, 1, 2)], positions=np.zeros((1, 1, 3))),
        random_record(rng, 0, energy=np.zeros(99)),
        random_record(rng, 0, numbers=[]),
    ]
    with StoreWriter(tmp_path / "a.h5", level=LEVEL, provenance="", licence="") as writer:
        for record in bad:
            with pytest.raises(DataError):
                writer.add(record)
        writer.add(random_record(rng, None, smiles="OCC"))
    assert Store(tmp_path / "a.h5").read(*Split).bucket.tolist() == [bucket_of_smiles("CCO")]


@pytest.mark.parametrize("size", [0, 100, 3000, -500])
def test_a_truncated_file_is_a_data_error(store_path: Path, size: int) -> None:
    content = store_path.read_bytes()
    store_path.write_bytes(content[:size])
    with pytest.raises(DataError, match="import"):
        Store(store_path).read(Split.TRAIN)


def test_damaged_chunks_are_a_data_error(store_path: Path) -> None:
    with h5py.File(store_path, "r") as file:
        chunk = file["positions"].id.get_chunk_info(0)
    content = bytearray(store_path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    store_path.write_bytes(content)
    with pytest.raises(DataError, match="positions cannot be read"):
        Store(store_path).read(Split.TRAIN)


def test_foreign_files_are_a_data_error(tmp_path: Path, store_path: Path) -> None:
    with pytest.raises(DataError, match="no data store"):
        Store(tmp_path / "absent.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["energy"] = [1.0]
    with pytest.raises(DataError, match="not a consistent_calc data store"):
        Store(tmp_path / "foreign.h5")
    with h5py.File(store_path, "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(DataError, match="schema version 99"):
        Store(store_path)


def test_a_wrong_schema_is_a_data_error(store_path: Path) -> None:
    with h5py.File(store_path, "a") as file:
        energy = file["energy"][:-1]
        del file["energy"]
        file["energy"] = energy
    with pytest.raises(DataError, match="energy has"):
        Store(store_path).read(Split.TRAIN)
    with h5py.File(store_path, "a") as file:
        del file["bucket"]
    with pytest.raises(DataError, match="lacks the datasets bucket"):
        Store(store_path)


def test_an_error_leaves_an_older_store_untouched(store_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(store_path, level=LEVEL, provenance="", licence="") as writer:
            writers.append(writer)
            writer.add(random_record(np.random.default_rng(0), 1))
            raise RuntimeError("interrupted")

    writers: list[StoreWriter] = []
    before = store_path.read_bytes()
    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert store_path.read_bytes() == before
    assert list(store_path.parent.iterdir()) == [store_path]
    with pytest.raises(DataError, match="with"):
        writers[0].add(random_record(np.random.default_rng(0), 1))


def test_a_killed_writer_leaves_nothing_at_the_target(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np\n"
        "from consistent_calc.data import MoleculeRecord, StoreWriter\n"
        "with StoreWriter(sys.argv[1], level='a', provenance='', licence='') as w:\n"
        "    for _ in range(1000): w.add(MoleculeRecord([1], np.zeros((1, 1, 3)), bucket=1))\n"
        "    os._exit(9)\n"
    )
    target = tmp_path / "a.h5"
    assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode == 9
    assert not target.exists()
    write_store(target, [random_record(np.random.default_rng(0), 1)])  # what was left behind does not disturb
    assert list(tmp_path.iterdir()) == [target]


def test_batches_are_fast(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    record = MoleculeRecord(
        rng.integers(1, 9, 30),
        rng.normal(size=(500, 30, 3)),
        bucket=1,
        bonds=[(i, i + 1, 2) for i in range(29)],
        energy=np.zeros(500),
        forces=rng.normal(size=(500, 30, 3)),
    )
    data = Store(write_store(tmp_path / "a.h5", [record] * 4)).read(Split.TRAIN)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        data.batch(rng.integers(0, len(data), 32), with_graph=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 5e-3
