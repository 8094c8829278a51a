"""The command ``conformers``: one molecule or thousands, streamed to disk."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from consistent_calc.console import Checkpoint, Device, Level, check_target, clear_errors, err, exit_on, new_table, out
from consistent_calc.errors import DataError

if TYPE_CHECKING:
    from consistent_calc.conformers import ConformerEnsemble, ConformerOptions, ConformerResult
    from consistent_calc.conformers.report import ReportWriter

#: Tables of single molecules are printed for jobs of up to this many.
TABLES = 20


class Method(StrEnum):
    """Where structures come from."""

    seeds = "seeds"
    noise = "noise"
    denoising = "denoising"


def conformers(
    sources: Annotated[list[str], typer.Argument(help="SMILES, or files: .smi, .csv (column SMILES), .sdf.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Largest number of conformers of a molecule.")] = 20,
    output: Annotated[Path, typer.Option("-o", "--output", help="SDF file to write.")] = Path("conformers.sdf"),
    report: Annotated[Path | None, typer.Option(help="HTML page with 3D views, energies and failures.")] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    window: Annotated[float | None, typer.Option(help="Drop conformers this far above the lowest, kcal/mol.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the Boltzmann weights, K.")] = 298.15,
    fmax: Annotated[float, typer.Option(help="Largest force after relaxation, eV/Å.")] = 0.01,
    method: Annotated[Method, typer.Option(help="ETKDG seeds, or noise in many steps or in one.")] = Method.seeds,
    max_time: Annotated[
        float | None, typer.Option(help="Seconds for the seeds of a molecule, and again for its relaxation.")
    ] = None,
    enumerate_stereo: Annotated[
        bool, typer.Option("--enumerate-stereo", help="Do all stereoisomers of what is unspecified.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, to use its workers.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the files of an interrupted job.")] = False,
    checkpoint: Checkpoint = None,
    level: Level = None,
    device: Device = "cpu",
) -> None:
    """Generates, relaxes and ranks conformers; results are written as they come."""
    with clear_errors(), ExitStack() as stack:
        from consistent_calc.conformers import ConformerOptions, run_conformer_job
        from consistent_calc.conformers.input import count_entries
        from consistent_calc.conformers.job import earlier_results, load
        from consistent_calc.conformers.report import ReportWriter

        _check_files(sources, output, report)
        options = ConformerOptions(
            n=n,
            seed=seed,
            level=level,
            window=window,
            temperature=temperature,
            fmax=fmax,
            method=method.value,
            max_time=max_time,
            enumerate_stereo=enumerate_stereo,
        )
        load(checkpoint, device).level_index(level)  # before an earlier page is replaced
        page = None
        if report is not None:
            kept = earlier_results(output, options, checkpoint=checkpoint, device=device) if resume else 0
            writer = ReportWriter(report, settings=_settings(options, checkpoint), resume=kept > 0, expected=kept)
            page = stack.enter_context(writer)
        display = stack.enter_context(_Display(count_entries(sources), page))
        try:
            done = run_conformer_job(
                sources,
                output,
                options,
                checkpoint=checkpoint,
                device=device,
                workers=workers,
                scheduler=scheduler,
                resume=resume,
                on_result=display.show,
            )
        except KeyboardInterrupt:
            err.print(f"Interrupted. The results so far are in {escape(str(output))}; --resume goes on with the rest.")
            raise typer.Exit(130) from None
        display.bar.stop()
        if page is not None:
            page.close()  # before the exit status of failed molecules, which would mark the page as unfinished
        _print_failures(display.failures)
        skipped = f", {done.skipped} were there already" if done.skipped else ""
        n_all = done.written + done.n_failed
        out.print(f"{done.written} of {n_all} molecules written to {escape(str(output))}{skipped}", highlight=False)
        exit_on(done.n_failed, n_all)


def _settings(options: ConformerOptions, checkpoint: Path | None) -> dict[str, object]:
    """What the report tells of the job."""
    return {
        "Conformers at most": options.n,
        "Seed": options.seed,
        "Window": "none" if options.window is None else f"{options.window} kcal/mol",
        "Temperature": f"{options.temperature} K",
        "Force threshold": f"{options.fmax} eV/Å",
        "Method": options.method + (", all stereoisomers" if options.enumerate_stereo else ""),
        "Model": "shipped" if checkpoint is None else checkpoint.name,
    }


class _Display:
    """Progress, and the results as they come: on the terminal if there are few, and on the page if there is one.

    Args:
        total: number of molecules, if known.
        page: an open report.
    """

    def __init__(self, total: int | None, page: ReportWriter | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        self.bar = Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=err)
        self.failures: list[ConformerResult] = []
        self._task = self.bar.add_task("conformers", total=total)
        self._page = page
        self._tables = total is None or total <= TABLES

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, result: ConformerResult) -> None:
        """Takes one result."""
        self.bar.advance(self._task)
        if self._page is not None:
            self._page.add(result)
        if result.ensemble is None:
            self.failures.append(result)
        elif self._tables:
            out.print(_conformer_table(result.ensemble))
            for note in result.ensemble.notes:
                out.print(f"  [dim]{escape(note)}[/]", highlight=False)


def _check_files(sources: list[str], output: Path, report: Path | None) -> None:
    """Raises an error where an output would replace an input or another output, or is named as what it will not be."""
    from consistent_calc.conformers.input import source_files
    from consistent_calc.conformers.job import JobFiles

    if output.suffix.lower() not in (".sdf", ".sd"):
        raise DataError(f"The output is an SDF file, so its name must end in .sdf, not {output.name!r}.")
    files = JobFiles.of(output)
    files.check_sources(sources)
    check_target(output)
    check_target(report)
    if report and report.exists() and any(report.samefile(f) for f in source_files(sources)):
        raise DataError(f"{report} is an input and would be overwritten; give another report.")
    if report and report.resolve() in [f.resolve() for f in (files.output, files.failures, files.settings)]:
        raise DataError(f"{report} is written by the job already; give another report.")


def _print_failures(failures: list[ConformerResult]) -> None:
    if not failures:
        return
    table = new_table("input", "reason", "message", title="Failed")
    for result in failures:
        assert result.failure is not None
        label = result.name or result.smiles or result.id
        table.add_row(escape(label), result.failure.reason, escape(result.failure.message))
    err.print(table)


def _conformer_table(ensemble: ConformerEnsemble) -> Table:
    name = ensemble.name or ensemble.smiles
    table = new_table(
        "#", "ΔE (kcal/mol)", "weight", "energy (eV)", "relaxed by (kcal/mol)", "moved (Å)", "converged",
        title=escape(f"{name} at {ensemble.level}"),
    )  # fmt: skip
    for k in range(len(ensemble)):
        relative, weight, energy = ensemble.relative_energies[k], ensemble.weights[k], ensemble.energies[k]
        figures = [f"{relative:.2f}", f"{weight:.3f}", f"{energy:.4f}", f"{ensemble.gaps[k]:.2f}"]
        table.add_row(str(k + 1), *figures, f"{ensemble.moved[k]:.2f}", "yes" if ensemble.converged[k] else "no")
    return table
