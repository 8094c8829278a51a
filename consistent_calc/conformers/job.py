"""Conformers of many molecules to a file: streamed, resumable, on one process, many, or a Dask cluster.

Results reach the disk as they come. Every molecule leaves exactly one trace: its conformers in the SDF, or a row in the
table of failures; a resumed job skips the molecules that have left one. They are known by name and SMILES, without a
name by their place in the input, so molecules may be added at its end. Until a job has ended, its settings lie beside
its output, so that it is not resumed with others.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from consistent_calc.checkpoint import find_card, read_card
from consistent_calc.conformers.generate import ConformerOptions
from consistent_calc.conformers.input import Failure, MoleculeInput, read_molecules, source_files
from consistent_calc.conformers.result import ConformerResult
from consistent_calc.conformers.stream import stream
from consistent_calc.errors import ConfigurationError, DataError, MissingDependencyError
from consistent_calc.files import replacing

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

#: Molecules that are worked on together: they share batches, and their results reach the disk together.
CHUNK = 4
#: Chunks on their way for each worker.
AHEAD = 3

_COLUMNS = ("id", "name", "smiles", "reason", "message")


@dataclass
class JobReport:
    """What a job did.

    Attributes:
        skipped: molecules that an earlier run had done.
        written: molecules with conformers.
        failed: molecules without, by reason.
    """

    skipped: int = 0
    written: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def n_failed(self) -> int:
        """Molecules without conformers."""
        return sum(self.failed.values())


def run_conformer_job(
    sources: str | Path | Mol | Iterable[str | Path | Mol],
    output: str | Path,
    options: ConformerOptions,
    *,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    on_result: Callable[[ConformerResult], None] | None = None,
) -> JobReport:
    """Makes conformers of all molecules and writes them as they come.

    Args:
        sources: see :func:`consistent_calc.conformers.read_molecules`.
        output: SDF file; the failures go to the file with ``.failures.csv`` appended to its name.
        options: of the generation.
        checkpoint: None is the shipped one.
        device: of every process.
        workers: processes on this machine, each with one thread; one means this process.
        scheduler: address of a running Dask scheduler, whose workers do the work instead.
        resume: keep what an earlier run of the same job has written, and do the rest.
        on_result: called with each result after it was written.

    Returns:
        Counts. Interrupted by an exception, all results so far are on disk.

    Raises:
        ConfigurationError: impossible options, an unreachable scheduler, the files of another job, or an output that
            is one of the inputs.
        DataError: the files of the earlier run cannot be continued.
        MissingDependencyError: several workers need Dask.
    """
    files = JobFiles.of(output)
    if workers < 1:
        raise ConfigurationError(f"workers must be at least 1, got {workers}.")
    files.check_sources(sources)
    report = JobReport()
    model = load(checkpoint, device)
    settings = _settings(model, options, checkpoint)
    done = files.earlier(settings) if resume else {}
    entries = read_molecules(
        sources, elements=model.level_elements(options.level), enumerate_stereo=options.enumerate_stereo
    )
    waiting = _waiting(entries, done, files.output, report)
    with ExitStack() as stack:
        if workers == 1 and scheduler is None:
            results: Iterator[ConformerResult] = itertools.chain.from_iterable(
                stream(model, part, options) for part in _chunks(waiting)
            )
        else:
            client = stack.enter_context(_client(workers, scheduler))
            results = _distributed(client, waiting, options, checkpoint, device)
        with replacing(files.settings) as new:
            new.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        mode = "a" if done else "w"
        sdf: TextIO = stack.enter_context(files.output.open(mode, encoding="utf-8"))  # type: ignore[assignment]
        table: TextIO = stack.enter_context(files.failures.open(mode, encoding="utf-8", newline=""))  # type: ignore[assignment]
        for result in results:
            _write(result, sdf, table, report)
            sdf.flush()
            table.flush()
            if on_result is not None:
                on_result(result)
    if files.failures.stat().st_size == 0:
        files.failures.unlink()
    files.settings.unlink(missing_ok=True)
    return report


def earlier_results(
    output: str | Path, options: ConformerOptions, *, checkpoint: str | Path | None = None, device: str = "cpu"
) -> int:
    """Number of molecules that :func:`run_conformer_job` with these arguments would find done, and skip, on resuming.

    Raises:
        ConfigurationError: the files of a job with other settings.
        DataError: files that cannot be continued.
    """
    return len(JobFiles.of(output).earlier(_settings(load(checkpoint, device), options, checkpoint)))


def _chunks(entries: Iterator[MoleculeInput]) -> Iterator[list[MoleculeInput]]:
    return iter(lambda: list(itertools.islice(entries, CHUNK)), [])


def _write(result: ConformerResult, sdf: TextIO, table: TextIO, report: JobReport) -> None:
    if result.ensemble is not None:
        result.ensemble.write_sdf(sdf)
        report.written += 1
        return
    assert result.failure is not None
    rows = csv.writer(table)
    if table.tell() == 0:
        rows.writerow(_COLUMNS)
    # A row is one line, so that a resumed job sees whether it is whole.
    message = " ".join(result.failure.message.split())
    rows.writerow((result.id, result.name, result.smiles, result.failure.reason, message))
    report.failed[result.failure.reason] = report.failed.get(result.failure.reason, 0) + 1


@lru_cache(maxsize=2)
def load(checkpoint: str | Path | None, device: str) -> ConsistentModel:
    """The model, once a process."""
    from consistent_calc.checkpoint import load_model

    return load_model(checkpoint, device=device)


# ---------------------------------------------------------------------- resuming


@dataclass(frozen=True)
class JobFiles:
    """What a job writes: results, failures and settings."""

    output: Path
    failures: Path
    settings: Path

    @classmethod
    def of(cls, output: str | Path) -> JobFiles:
        """Those that belong to an SDF file."""
        path = Path(output)
        return cls(path, *(path.with_name(path.name + end) for end in (".failures.csv", ".job.json")))

    def check_sources(self, sources: object) -> None:
        """Raises ConfigurationError if a file would be overwritten before it is read."""
        targets = [path for path in (self.output, self.failures, self.settings) if path.exists()]
        for source in source_files(sources):
            if any(source.samefile(target) for target in targets):
                raise ConfigurationError(f"{source} is an input and would be overwritten; give another output file.")

    def earlier(self, settings: dict[str, Any]) -> dict[str, str]:
        """SMILES, by id, of the molecules that an earlier job has finished; what it left half-written is cut off.

        Raises:
            ConfigurationError: an interrupted job had other settings, or a finished one another level of theory.
            DataError: the files were not written by a job.
        """
        done: dict[str, str] = {}
        if self.output.exists():
            done, levels, end = _complete_molecules(self.output)
            if others := levels - {settings["level"]}:
                raise ConfigurationError(
                    f"{self.output} holds conformers at {', '.join(sorted(others))}, not at {settings['level']}: "
                    "choose another output."
                )
        if done or (self.failures.exists() and self.failures.stat().st_size > 0):
            _check_settings(self.settings, settings)
        if self.output.exists():
            os.truncate(self.output, end)
        if self.failures.exists():
            # A row that was cut short has no line end.
            os.truncate(self.failures, self.failures.read_bytes().rfind(b"\n") + 1)
            with self.failures.open(encoding="utf-8", newline="") as table:
                done |= {row["id"]: row["smiles"] for row in csv.DictReader(table) if row.get("message")}
        return done


def _settings(model: ConsistentModel, options: ConformerOptions, checkpoint: str | Path | None) -> dict[str, Any]:
    """What the results depend on, as it looks when read back from JSON."""
    model.level_index(options.level)  # which raises an error if there is no such level
    settings = asdict(options) | {"level": options.level or model.levels[0]}
    del settings["max_atoms_per_batch"]  # which may have to be smaller to go on
    settings["checkpoint_sha256"] = read_card(checkpoint)["sha256"]
    return json.loads(json.dumps(settings, default=float))  # NumPy's numbers


def _check_settings(record: Path, settings: dict[str, Any]) -> None:
    """Raises ConfigurationError if an unfinished job of other settings has left its record."""
    if not record.exists():
        return
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        earlier = None
    if not isinstance(earlier, dict):
        raise DataError(f"{record} is not the record of a job; remove it to go on without a check of the settings.")
    names = sorted(earlier.keys() | settings.keys())
    changed = [f"{k} was {earlier.get(k)!r}" for k in names if earlier.get(k) != settings.get(k)]
    if changed:
        raise ConfigurationError(
            f"The interrupted job had other settings ({', '.join(changed)}): go on with these, or start anew without "
            f"resuming, or choose another output. They are kept in {record}."
        )


def _waiting(
    entries: Iterator[MoleculeInput], done: dict[str, str], output: Path, report: JobReport
) -> Iterator[MoleculeInput]:
    """The molecules that are still to do; raises ConfigurationError at an id under which another molecule was done."""
    for entry in entries:
        if entry.id not in done:
            yield entry
        elif entry.smiles == done[entry.id]:
            report.skipped += 1
        else:
            raise ConfigurationError(
                f"{output} belongs to another job: its {entry.id!r} is {done[entry.id]!r}, not {entry.smiles!r}. "
                "Remove it, or choose another output."
            )


def _complete_molecules(path: Path) -> tuple[dict[str, str], set[str], int]:
    """Molecules all of whose conformers are in an SDF: SMILES by id, levels, and the byte where the last one ends."""
    done: dict[str, str] = {}
    levels: set[str] = set()
    end = position = 0
    tags: dict[str, str] = {}
    name = ""
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            text = line.decode("utf-8", errors="replace").rstrip("\r\n")
            if name:
                tags[name], name = text, ""
            elif text.startswith(">"):
                name = text.partition("<")[2].partition(">")[0]
            elif text == "$$$$" and line.endswith(b"\n"):
                if not {"id", "smiles", "level", "conformer", "n"} <= set(tags):
                    raise DataError(
                        f"{path} was not written by such a job, so it cannot be continued; use another file."
                    )
                if tags["conformer"] == tags["n"]:
                    done[tags["id"]] = tags["smiles"]
                    levels.add(tags["level"])
                    end = position
                tags = {}
    return done, levels, end


# ---------------------------------------------------------------------- many workers


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A Dask client: of a running scheduler, or of worker processes on this machine."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingDependencyError("Several workers need Dask: pip install 'consistent_calc[dask]'.") from None
    if scheduler is not None:
        try:
            with Client(scheduler, timeout="20s") as client:
                yield client
        except (OSError, TimeoutError) as error:
            raise ConfigurationError(f"No Dask scheduler answers at {scheduler!r}: {error}") from None
        return
    with (
        # A molecule that kills its worker does so again; every death takes seconds.
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        # A worker that dies while it starts is not restarted by itself.
        cluster.adapt(minimum=workers, maximum=workers)
        yield client


def _distributed(
    client: Any,
    entries: Iterator[MoleculeInput],
    options: ConformerOptions,
    checkpoint: str | Path | None,
    device: str,
) -> Iterator[ConformerResult]:
    """Results in the order in which they come.

    Dask runs the tasks of a dead worker again elsewhere. A chunk that takes down one worker after another is cut into
    its molecules. Those that fail once more are tried at the end, one at a time: a dying worker takes along what waits
    on it, so only alone is a molecule proven to be the cause.
    """
    from distributed import as_completed

    where = None if checkpoint is None else str(find_card(checkpoint))

    def submit(chunk: list[MoleculeInput]) -> Any:
        future = client.submit(_work, chunk, options, where, device, pure=False, retries=1)
        chunks[future.key] = chunk
        return future

    chunks: dict[str, list[MoleculeInput]] = {}
    suspects: list[MoleculeInput] = []
    parts = _chunks(entries)
    n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    running = as_completed([submit(c) for c in itertools.islice(parts, AHEAD * n_workers)])
    for future in running:
        chunk = chunks.pop(future.key)
        error = future.exception()
        if error is None:
            yield from future.result()
        elif len(chunk) > 1:
            for entry in chunk:
                running.add(submit([entry]))
        else:
            suspects += chunk
        following = next(parts, None)
        if following is not None:
            running.add(submit(following))
    for entry in suspects:
        future = submit([entry])
        error = future.exception()
        if error is None:
            yield from future.result()
        else:
            message = f"The worker failed or died on this molecule: {error!r}"
            yield ConformerResult(entry.id, entry.name, entry.smiles, failure=Failure("worker_failed", message))


def _work(
    chunk: list[MoleculeInput], options: ConformerOptions, checkpoint: str | None, device: str
) -> list[ConformerResult]:
    """Runs on a worker."""
    import torch

    torch.set_num_threads(1)
    return list(stream(load(checkpoint, device), chunk, options))
