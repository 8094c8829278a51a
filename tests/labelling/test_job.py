"""Labelling jobs: what is labelled, what fails and how, interruption and crashes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harmonic import LENGTH, SPRING, Harmonic, dihydrogen, write_job

from consistent_calc.data import MoleculeRecord, Split, Store
from consistent_calc.errors import ConfigurationError, DataError, LabellingError
from consistent_calc.labelling import job as job_module
from consistent_calc.labelling.job import LabellingJob, run_job, select


def table(job: LabellingJob) -> list[dict[str, str]]:
    with job.failures_table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels_of_the_given_geometries(tmp_path: Path, records: list[MoleculeRecord], harmonic: Harmonic) -> None:
    job = write_job(tmp_path, records)
    steps: list[tuple[int, int]] = []
    report = run_job(job, on_progress=lambda done, total: steps.append((done, total)))
    assert (report.n_molecules, report.n_structures, report.failures) == (6, 12, [])
    assert steps == [(0, 6), (2, 6), (4, 6), (6, 6)]
    store = Store(job.output)
    assert (store.level, store.licence, store.kinds) == ("harmonic", "MIT", {0: "a"})
    data = store.read(*Split)
    stretch = np.tile([0.8 - LENGTH, 0.7 - LENGTH], 6)
    np.testing.assert_allclose(data.energy, SPRING / 2 * stretch**2, rtol=1e-5)
    assert not data.equilibrium.any()
    assert data.dipole is None
    assert table(job) == []
    assert not job.parts.exists()


def test_test_molecules_are_labelled_only_when_named(
    tmp_path: Path, records: list[MoleculeRecord], harmonic: Harmonic
) -> None:
    job = write_job(tmp_path, records)
    run_job(job)
    assert sorted(Store(job.output).read(*Split).smiles) == sorted(
        f"{s}{i}" for s in ("train", "validation") for i in range(3)
    )
    named = replace(job, splits=(Split.TEST,), output=str(tmp_path / "test.h5"))
    run_job(named)
    data = Store(named.output).read(*Split)
    assert sorted(data.smiles) == ["test0", "test1", "test2"]
    assert set(data.bucket) == {95, 96, 97}


def test_minima(tmp_path: Path, records: list[MoleculeRecord], harmonic: Harmonic) -> None:
    job = write_job(tmp_path, records, minimize=True, fmax=0.001)
    run_job(job)
    data = Store(job.output).read(*Split)
    assert data.equilibrium.all()
    assert np.abs(data.forces).max() < 0.001
    bonds = np.linalg.norm(np.diff(data.positions.reshape(-1, 2, 3), axis=1), axis=-1)
    np.testing.assert_allclose(bonds, LENGTH, atol=1e-4)


def test_failures_have_reason_codes_and_spare_the_rest(tmp_path: Path, harmonic: Harmonic) -> None:
    charges = {"fine": 0, "not_converged": 2, "timeout": 4, "linalg": 8, "nan": 10, "odd_electrons": 1}
    records = [dihydrogen(name, 0, charge) for name, charge in charges.items()]
    job = write_job(tmp_path, records, timeout=0.05)
    report = run_job(job)
    assert list(Store(job.output).read(*Split).smiles) == ["fine"]
    found = {row["smiles"]: row["reason"] for row in table(job)}
    assert found == {
        **{name: name for name in ("not_converged", "timeout", "odd_electrons")},
        **{name: "engine_failed" for name in ("linalg", "nan")},
    }
    assert len(report.failures) == len(table(job)) == 4 * 2 + 1


def test_an_interrupted_job_continues(tmp_path: Path, records: list[MoleculeRecord], harmonic: Harmonic) -> None:
    job = write_job(tmp_path, records)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, on_progress=interrupt)
    (job.parts / "000002.current").write_text("0")  # of the chunk in work
    before = {p.name: p.stat().st_mtime_ns for p in job.parts.glob("*.h5")}
    assert len(before) == 2
    assert not Path(job.output).exists()
    with pytest.raises(ConfigurationError, match="other settings"):
        run_job(replace(job, fmax=0.5))
    labelled: list[str] = []
    original = harmonic.single_point
    harmonic.single_point = lambda *a: (labelled.append("x"), original(*a))[1]
    report = run_job(job)
    assert len(labelled) == 4  # one chunk of two molecules in two structures
    assert (report.n_molecules, report.failures) == (6, [])
    with pytest.raises(ConfigurationError, match="exists already"):
        run_job(job)


def test_select_is_fixed_and_limited(tmp_path: Path, records: list[MoleculeRecord]) -> None:
    water = dihydrogen("water", 0, numbers=[8, 1, 1], positions=np.eye(3)[None])
    job = write_job(tmp_path, [*records, water], max_atoms=2)
    data = Store(job.source).read(Split.TRAIN)
    assert sorted(select(data, job)) == [0, 1, 2]
    assert select(data, replace(job, molecules=2)) == select(data, job)[:2]


def test_nothing_to_label(tmp_path: Path, records: list[MoleculeRecord], harmonic: Harmonic) -> None:
    job = write_job(tmp_path, records, max_atoms=1)
    with pytest.raises(DataError, match="holds no molecules"):
        run_job(job)
    assert not job.parts.exists()


def test_periodic_sources_are_refused(tmp_path: Path, harmonic: Harmonic) -> None:
    crystal = dihydrogen("crystal", 0, cell=[np.eye(3)] * 2, pbc=[[True] * 3] * 2)
    with pytest.raises(DataError, match="periodic"):
        run_job(write_job(tmp_path, [crystal]))


@pytest.mark.parametrize("changes", [{"chunk": 0}, {"fmax": -1.0}, {"timeout": 0.0}, {"splits": ()}])
def test_impossible_settings(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        write_job(tmp_path, [dihydrogen("a", 0)], **changes)


def spawn(job: LabellingJob, workers: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(Path(__file__).with_name("spawned.py")), job.source, job.output, str(workers)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_molecules_that_kill_their_worker_are_left_out(tmp_path: Path, harmonic: Harmonic) -> None:
    charges = [6, 0, 6, 0, 0, 6]
    job = write_job(tmp_path, [dihydrogen(f"{q} {i}", i, q) for i, q in enumerate(charges)], chunk=4)
    assert run_job(job).n_molecules == 3
    assert sorted((row["smiles"], row["reason"]) for row in table(job)) == [(f"6 {i}", "crashed") for i in (0, 2, 5)]


def test_workers_that_do_not_start_end_the_job(
    tmp_path: Path, harmonic: Harmonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(job_module, "_run_pool", broken)
    with pytest.raises(LabellingError, match="die before"):
        run_job(write_job(tmp_path, [dihydrogen("a", 0)]))


@pytest.mark.slow  # starts four processes; the logic is tested in one, above
def test_a_job_outlives_its_worker(tmp_path: Path) -> None:
    job = write_job(tmp_path, [dihydrogen("fine", 0), dihydrogen("deadly", 1, 6)])
    assert spawn(job, workers=1).communicate(timeout=120)[0].strip() == "1 molecules, 2 structures, 1 failed"
    assert [(row["smiles"], row["reason"]) for row in table(job)] == [("deadly", "crashed")]


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    job = write_job(tmp_path, [dihydrogen("slow", 0, 4), dihydrogen("fine", 1)], chunk=1)
    process = spawn(job, workers=2)
    end = time.monotonic() + 60
    while not list(job.parts.glob("*.current")) and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(p) for p in children(process.pid)]
    assert workers
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    while any(Path(f"/proc/{p}").exists() for p in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{p}").exists() for p in workers)
    assert json.loads((job.parts / "job.json").read_text())["chunk"] == 2


def children(pid: int) -> list[str]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("the children of a process are known on Linux only")
    return path.read_text().split()
