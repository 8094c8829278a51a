"""A labelling job: an engine over the molecules of a store, in parallel, resumable, failures kept beside the labels.

The molecules are cut into chunks. A worker process labels a chunk and writes it as a small store of its own, in one
step, into ``OUTPUT.parts/``; a job that is started again skips the chunks that are there. At the end the chunks are
joined to the output, next to a table of the failures.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from consistent_calc.data.dataset import Dataset
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store, StoreWriter
from consistent_calc.errors import ConfigurationError, DataError, LabellingError
from consistent_calc.files import replacing
from consistent_calc.labelling.engine import Engine, new_engine
from consistent_calc.labelling.molecule import label_molecule
from consistent_calc.labelling.names import EngineName
from consistent_calc.settings import positive

Failure = tuple[str, str, str, str]


@dataclass(frozen=True)
class LabellingJob:
    """What to label and how; two runs of the same job continue one another.

    Attributes:
        source: store with the molecules and their starting geometries.
        output: store to write.
        engine, method, model_file: see :func:`consistent_calc.labelling.engine.new_engine`.
        minimize: relax every structure and label the minimum, which becomes an equilibrium structure.
        splits: sides of the split that are labelled.
        molecules: a fixed random choice of so many molecules; None is all.
        max_atoms: larger molecules are left out.
        fmax: where a relaxation ends, eV/Angstrom.
        timeout: seconds a structure may take.
        chunk: molecules that are written together.
    """

    source: str
    output: str
    engine: EngineName
    method: str | None = None
    model_file: str | None = None
    minimize: bool = False
    splits: tuple[Split, ...] = (Split.TRAIN, Split.VALIDATION)
    molecules: int | None = None
    max_atoms: int | None = None
    fmax: float = 0.01
    timeout: float = 600.0
    chunk: int = 16

    def __post_init__(self) -> None:
        positive(self, "molecules", "max_atoms", "fmax", "timeout", "chunk")
        if not self.splits:
            raise ConfigurationError("Name at least one side of the split.")
        if Path(self.source).resolve() == Path(self.output).resolve():
            raise ConfigurationError("The output would replace the store that is labelled.")

    @property
    def parts(self) -> Path:
        """Folder of the finished chunks."""
        return Path(self.output + ".parts")

    @property
    def failures_table(self) -> Path:
        """CSV file of what could not be labelled."""
        return Path(self.output + ".failures.csv")


@dataclass
class LabellingReport:
    """Counts of a finished job.

    Attributes:
        n_molecules, n_structures: in the output.
        failures: (source, SMILES, reason code, message) of each structure that has no label.
    """

    n_molecules: int = 0
    n_structures: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.n_molecules} molecules, {self.n_structures} structures, {len(self.failures)} failed"


def run_job(
    job: LabellingJob, *, workers: int = 1, on_progress: Callable[[int, int], None] | None = None
) -> LabellingReport:
    """Labels everything that is not labelled yet, and joins the chunks.

    Interrupted (Ctrl-C, SIGTERM, a crash), at most the chunks in work are lost.

    Args:
        job: what to do.
        workers: processes, each with one thread.
        on_progress: called with the numbers of molecules done and of all molecules.

    Raises:
        ConfigurationError: the folder of chunks belongs to another job, or the output exists already.
        MissingDependencyError: the engine is not installed.
        DataError: the source cannot be read, is periodic, or holds no molecule that is to be labelled.
        LabellingError: the worker processes die at their start.
    """
    new_engine(job.engine, job.method, job.model_file)  # fails here rather than in every worker
    data = Store(job.source).read(*job.splits)
    if data.pbc is not None and data.pbc.any():
        raise DataError(f"{job.source} holds periodic structures; the engines label molecules only.")
    if not (chosen := select(data, job)):
        raise DataError(f"{job.source} holds no molecules on these sides of the split, or none small enough.")
    chunks = [chosen[i : i + job.chunk] for i in range(0, len(chosen), job.chunk)]
    _claim_parts(job)
    done = {i for i in range(len(chunks)) if _failures_path(job, i).exists()}

    def finished(*indices: int) -> None:
        done.update(indices)
        if on_progress is not None:
            on_progress(sum(len(chunks[i]) for i in done), len(chosen))

    finished()
    for mark in job.parts.glob("*.current"):  # of a run that was interrupted
        mark.unlink()
    while left := [i for i in range(len(chunks)) if i not in done]:
        try:
            _run_pool(job, chunks, left, workers, finished)
        except BrokenProcessPool:
            # The death of one worker ends its pool. Those that were at work are suspects, and tried one by one.
            suspects = sorted(int(mark.stem) for mark in job.parts.glob("*.current"))
            if not suspects:
                raise LabellingError("The worker processes die before they label a molecule.", "crashed") from None
            for i in suspects:
                _run_suspect(job, chunks, i)
            finished(*(i for i in left if _failures_path(job, i).exists()))
    return _join(job, len(chunks))


def select(data: Dataset, job: LabellingJob) -> list[int]:
    """The molecules of a job, in an order that does not depend on their number."""
    order = np.random.default_rng(0).permutation(data.n_molecules)
    if job.max_atoms is not None:
        order = order[np.diff(data.atom_offset)[order] <= job.max_atoms]
    return [int(i) for i in order[: job.molecules]]


# ---------------------------------------------------------------------- the pool


def _run_pool(
    job: LabellingJob, chunks: list[list[int]], left: list[int], workers: int, finished: Callable[[int], None]
) -> None:
    """Runs the chunks ``left``; raises BrokenProcessPool if a worker dies."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(job,)) as pool:
        try:
            futures = {pool.submit(_label_chunk, i, chunks[i]): i for i in left}
            for future in as_completed(futures):
                future.result()
                finished(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _run_suspect(job: LabellingJob, chunks: list[list[int]], index: int) -> None:
    """Labels a chunk alone, without the molecules at which its worker dies."""
    mark, crashed = _mark_path(job, index), _crashed_path(job, index)
    while not _failures_path(job, index).exists():
        mark.unlink(missing_ok=True)
        try:
            _run_pool(job, chunks, [index], 1, lambda i: None)
        except BrokenProcessPool:
            if not mark.exists():
                raise LabellingError("The worker processes die before they label a molecule.", "crashed") from None
            _write(crashed, json.dumps([*_crashed(job, index), int(mark.read_text())]))
    mark.unlink(missing_ok=True)


class _Worker:
    """What a worker process keeps between chunks."""

    job: LabellingJob
    data: Dataset
    engine: Engine


def _start_worker(job: LabellingJob) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the parent ends the workers, and they do not outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.job = job
    _Worker.data = Store(job.source).read(*job.splits)
    _Worker.engine = new_engine(job.engine, job.method, job.model_file)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _label_chunk(index: int, molecules: list[int]) -> None:
    """Labels a chunk and writes its store, then its failures: the second file says that the chunk is complete."""
    job, data, engine = _Worker.job, _Worker.data, _Worker.engine
    failures: list[Failure] = []
    crashed, mark = _crashed(job, index), _mark_path(job, index)
    with _new_store(job, engine, job.parts / f"{index:06d}.h5") as writer:
        for molecule in molecules:
            if molecule in crashed:
                failures.append((*_name(data, molecule), "crashed", "the engine took down its process"))
                continue
            _write(mark, str(molecule))
            record, failed = label_molecule(MoleculeRecord.from_dataset(data, molecule), engine, job)
            failures += [(*_name(data, molecule), *reason) for reason in failed]
            if record is not None:
                writer.add(record)
    _write(_failures_path(job, index), json.dumps(failures))
    mark.unlink(missing_ok=True)


# ---------------------------------------------------------------------- files


def _name(data: Dataset, molecule: int) -> tuple[str, str]:
    return str(data.source[molecule]), str(data.smiles[molecule])


def _failures_path(job: LabellingJob, index: int) -> Path:
    return job.parts / f"{index:06d}.failures.json"


def _mark_path(job: LabellingJob, index: int) -> Path:
    """Names the molecule of the chunk that is being worked on."""
    return job.parts / f"{index:06d}.current"


def _crashed_path(job: LabellingJob, index: int) -> Path:
    return job.parts / f"{index:06d}.crashed.json"


def _crashed(job: LabellingJob, index: int) -> list[int]:
    """Molecules of the chunk at which a worker died."""
    path = _crashed_path(job, index)
    return json.loads(path.read_text()) if path.exists() else []


def _write(path: Path, text: str) -> None:
    """Writes a file in one step."""
    with replacing(path) as new:
        new.write_text(text)


def _claim_parts(job: LabellingJob) -> None:
    """Makes the folder of chunks, or checks that it belongs to this job."""
    status = os.stat(job.source)
    wanted = json.dumps(asdict(job) | {"source_size": status.st_size}, indent=2)
    manifest = job.parts / "job.json"
    if manifest.exists():
        if json.loads(manifest.read_text()) != json.loads(wanted):
            raise ConfigurationError(f"{job.parts} holds an unfinished job with other settings; remove it or use them.")
        return
    if Path(job.output).exists():
        raise ConfigurationError(f"{job.output} exists already; remove it to label again.")
    job.parts.mkdir(parents=True, exist_ok=True)
    _write(manifest, wanted)


def _new_store(job: LabellingJob, engine: Engine, path: Path) -> StoreWriter:
    source = Store(job.source)
    action = "minima of" if job.minimize else "labels at the geometries of"
    return StoreWriter(
        path,
        level=engine.level,
        provenance=f"{engine.provenance}; {action}: {source.provenance}",
        licence=source.licence,
        kinds=source.kinds,
    )


def _join(job: LabellingJob, n_chunks: int) -> LabellingReport:
    """All chunks as one store, and the table of failures; the folder of chunks is removed."""
    report = LabellingReport()
    engine = new_engine(job.engine, job.method, job.model_file)
    with _new_store(job, engine, Path(job.output)) as writer:
        for i in range(n_chunks):
            part = Store(job.parts / f"{i:06d}.h5").read(*Split)
            for molecule in range(part.n_molecules):
                writer.add(MoleculeRecord.from_dataset(part, molecule))
            report.failures += [tuple(row) for row in json.loads(_failures_path(job, i).read_text())]
    report.n_molecules, report.n_structures = writer.n_molecules, writer.n_conformations
    with job.failures_table.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("source", "smiles", "reason", "message"))
        table.writerows(report.failures)
    shutil.rmtree(job.parts)
    return report
