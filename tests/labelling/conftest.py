"""Three diatomic molecules on each side of the split, and jobs that label them without workers."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from harmonic import Died, Harmonic, dihydrogen

from consistent_calc.data import MoleculeRecord, Split
from consistent_calc.labelling import job as job_module
from consistent_calc.labelling.job import LabellingJob


@pytest.fixture
def records() -> list[MoleculeRecord]:
    return [dihydrogen(f"{s}{i}", s.buckets[i]) for s in Split for i in range(3)]


@pytest.fixture
def harmonic(monkeypatch: pytest.MonkeyPatch) -> Harmonic:
    """Jobs run with the harmonic engine, and in this process instead of in workers."""
    engine = Harmonic()

    def die() -> None:
        raise Died

    def run_here(job: LabellingJob, chunks: Any, left: Any, workers: int, finished: Any) -> None:
        job_module._Worker.job, job_module._Worker.engine = job, engine
        job_module._Worker.data = job_module.Store(job.source).read(*job.splits)
        for i in left:
            try:
                job_module._label_chunk(i, chunks[i])
            except Died:
                raise BrokenProcessPool from None
            finished(i)

    monkeypatch.setattr(engine, "die", die)
    monkeypatch.setattr(job_module, "new_engine", lambda *_: engine)
    monkeypatch.setattr(job_module, "_run_pool", run_here)
    return engine
