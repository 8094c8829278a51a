"""Commands about training and data: ``train``, ``evaluate``, ``label`` and ``import``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from consistent_calc.console import (
    Charge,
    Checkpoint,
    Device,
    Level,
    Precision,
    check_target,
    clear_errors,
    err,
    load,
    new_table,
    out,
)
from consistent_calc.errors import ConfigurationError, DataError
from consistent_calc.labelling.names import EngineName

if TYPE_CHECKING:
    from consistent_calc.train.finetune import FineTuning
    from consistent_calc.train.trainer import Trainer


class Source(StrEnum):
    """Data sets that can be imported."""

    organic = "organic"
    rdb7 = "rdb7"
    small_molecules = "small-molecules"
    qm9 = "qm9"
    extxyz = "extxyz"


class Side(StrEnum):
    """Sides of the split."""

    train = "train"
    validation = "validation"
    test = "test"


def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="TOML file, such as checkpoints/base.toml.")] = None,
    from_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Instead of a TOML file: fine-tune this checkpoint (base: the shipped one) on the frames of --data."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Extended XYZ with energies, forces or both (eV, Å), for --from-checkpoint.")
    ] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory of --data, such as PBE0/def2-SVP.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", "--out", help="Fine-tuned checkpoint.")] = Path("model"),
    charge: Charge = None,
    members: Annotated[int, typer.Option(min=1, help="Fine-tuned models, of which an ensemble can be made.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fine-tuning.")] = 1000,
    replay: Annotated[
        bool,
        typer.Option(help="Hold the default level to what it was; without it narrow data are fitted more closely."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the fine-tuning.")] = 0,
    device: Device = "cpu",
) -> None:
    """Trains a model by a TOML file, or fine-tunes one on your own frames.

    Started again with the same TOML file, training continues where it was stopped. The README explains both.
    """
    with clear_errors():
        if (config is None) == (from_checkpoint is None):
            raise ConfigurationError("Give either a TOML file, or --from-checkpoint with --data and --level.")
        if config is not None:
            _reject_options(context)
            _train(config)
            return
        assert from_checkpoint is not None
        if data is None or level is None:
            raise ConfigurationError("--from-checkpoint needs --data FRAMES.xyz and --level, its level of theory.")
        from consistent_calc.train.finetune import FineTuning

        settings = FineTuning(steps=steps, replay=replay, seed=seed)
        _fine_tune(from_checkpoint, data, level, output, charge, members, device, settings)


def _reject_options(context: typer.Context) -> None:
    """A TOML file holds the whole run, so an option beside it would be ignored without a word."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        # By name: typer brings its own copy of click, with its own enum.
        if parameter.name != "config" and source is not None and source.name == "COMMANDLINE":
            given.append("/".join([*parameter.opts, *parameter.secondary_opts]))
    if given:
        raise ConfigurationError(
            f"Options that belong to --from-checkpoint: {', '.join(given)}. A run takes all its settings from the TOML "
            "file; set what you need there."
        )


def _train(config: Path) -> None:
    """Trains by a TOML file, with a progress bar."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from consistent_calc.train.configuration import read_config
    from consistent_calc.train.trainer import Trainer

    trainer = Trainer(*read_config(config))
    columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[losses]}"), console=err, disable=trainer.rank != 0) as bar:
        task = bar.add_task("train", total=1.0, step=trainer.step, losses="")

        def show(trainer: Trainer, losses: dict[str, float]) -> None:
            text = " ".join(f"{k} {v:.3g}" for k, v in losses.items() if k in ("energy", "forces", "structure"))
            bar.update(task, completed=trainer.progress, step=trainer.step, losses=text)

        card = trainer.run(show)
    verb = "Stopped" if trainer.stop_requested else "Finished"
    if trainer.rank == 0:
        out.print(escape(f"{verb} at step {trainer.step}; model: {card}"))


def _fine_tune(
    start: str,
    data: Path,
    level: str,
    output: Path,
    charge: int | None,
    members: int,
    device: str,
    settings: FineTuning,
) -> None:
    """Fine-tunes with a progress bar, and prints the report."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    from consistent_calc.finetuning import fine_tune

    check_target(output)
    with Progress("fine-tuning", BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task("", total=members * settings.steps)
        report = fine_tune(
            data,
            level,
            output,
            start=start,
            charge=charge,
            members=members,
            device=device,
            settings=settings,
            on_step=lambda member, step, losses: bar.update(task, completed=member * settings.steps + step),
        )
    for entry, reason in report.skipped[:20]:
        err.print(escape(f"  skipped {entry}: {reason}"), highlight=False)
    for note in report.notes:
        out.print(escape(note), highlight=False)
    held = f"{report.n_held_out} frames set aside ({report.held_out})"
    table = new_table(f"errors on {held}", "before", "after")
    for name in report.after:
        table.add_row(name, *(f"{side[name]:.4g}" for side in (report.before, report.after)))
    out.print(table)
    table = new_table("how far the default level moved", "molecules it knew", "frames set aside")
    for name in report.drift_known | report.drift_own:
        sides = (report.drift_known, report.drift_own)
        table.add_row(name, *(f"{side[name]:.4g}" if name in side else "" for side in sides))
    out.print(table)
    if report.forces is not None:
        out.print(
            f"forces_std of the ensemble: rank correlation with the force error {report.forces.spearman:.2f}; errors "
            f"are {report.forces.scale:.1f} times as large.",
            highlight=False,
        )
    models = ", ".join(report.checkpoints)
    out.print(escape(f"Trained on {report.n_training} frames; level {report.level!r} of {models}"), highlight=False)


def evaluate(
    store: Annotated[Path, typer.Argument(help="HDF5 store of labelled structures.")],
    test: Annotated[bool, typer.Option("--test", help="The test side instead of the validation side.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate a fixed sample of about this many structures.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file of all figures.")] = None,
    checkpoint: Checkpoint = None,
    level: Level = None,
    device: Device = "cpu",
) -> None:
    """Errors on the validation side of a data store, per kind of structure and per element."""
    with clear_errors():
        from consistent_calc.data.split import Split
        from consistent_calc.data.store import Store
        from consistent_calc.train.evaluation import evaluate_energy

        check_target(output)
        data = Store(store).read(Split.TEST if test else Split.VALIDATION)
        model = load(checkpoint, device, Precision.float32)
        with out.status(f"Evaluating {len(data)} structures"):
            errors = evaluate_energy(model, data, limit=limit, level=level)
        figures: dict[str, Any] = {
            "all": errors.summary() | {"n": len(errors.energy)},
            "by_kind": errors.by_kind(dict(data.kinds)),
            "by_element": errors.by_element(),
        }
        for part in figures:
            rows = {"all": figures["all"]} if part == "all" else figures[part]
            names = list(dict.fromkeys(k for row in rows.values() for k in row))
            table = new_table(part.replace("_", " "), *names)
            for label, row in rows.items():
                table.add_row(label, *(f"{row[k]:.4g}" if k in row else "" for k in names))
            out.print(table)
        if output is not None:
            output.write_text(json.dumps(figures, indent=2) + "\n")


def label(
    source: Annotated[Path, typer.Argument(help="HDF5 store with the molecules and their starting geometries.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 store to write.")],
    engine: Annotated[EngineName, typer.Option(help="Program that makes the labels.")],
    method: Annotated[str | None, typer.Option(help="Method, by default the engine's first.")] = None,
    model_file: Annotated[Path | None, typer.Option(help="TorchScript file of aimnet2.")] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="Relax first; label the minima.")] = False,
    split: Annotated[
        list[Side] | None, typer.Option(help="Sides of the split (repeat); by default train and validation.")
    ] = None,
    molecules: Annotated[int | None, typer.Option(help="A fixed random choice of so many molecules.")] = None,
    max_atoms: Annotated[int | None, typer.Option(help="Leave out larger molecules.")] = None,
    fmax: Annotated[float, typer.Option(help="Largest force at a minimum, eV/Angstrom.")] = 0.01,
    timeout: Annotated[float, typer.Option(help="Seconds a structure may take.")] = 600.0,
    chunk: Annotated[int, typer.Option(help="Molecules that are written together.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 1,
) -> None:
    """Labels molecules with quantum chemistry; started again, it continues where it was stopped."""
    with clear_errors():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        from consistent_calc.data.split import Split
        from consistent_calc.labelling.job import LabellingJob, run_job

        job = LabellingJob(
            source=str(source),
            output=str(output),
            engine=engine,
            method=method,
            model_file=None if model_file is None else str(model_file),
            minimize=minimize,
            splits=tuple(Split(side) for side in split or (Side.train, Side.validation)),
            molecules=molecules,
            max_atoms=max_atoms,
            fmax=fmax,
            timeout=timeout,
            chunk=chunk,
        )
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as bar:
            task = bar.add_task("label", total=None)
            report = run_job(
                job, workers=workers, on_progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        out.print(escape(f"{output}: {report}"), highlight=False)
        if report.failures:
            err.print(escape(f"Failures: {job.failures_table}"), highlight=False)


def import_data(
    source: Annotated[Source, typer.Argument(help="Which data set.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Its files (none for qm9, which comes from qm9pack).")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 store to write.")] = Path("store.h5"),
    level: Annotated[str | None, typer.Option(help="Level of theory of an extended-XYZ file.")] = None,
) -> None:
    """Makes a data store of this package from other people's files."""
    with clear_errors():
        from consistent_calc.data import importers

        paths = files or []
        if source is Source.qm9:
            report = importers.import_qm9(output)
        elif not paths:
            raise DataError(f"Give the files of {source.value} to import.")
        elif source is Source.organic:
            report = importers.import_organic_wb97m(paths, output)
        elif source is Source.small_molecules:
            report = importers.import_small_molecules(paths, output)
        elif len(paths) > 1:
            raise DataError(f"{source.value} is imported from one file, got {len(paths)}.")
        elif source is Source.rdb7:
            report = importers.import_rdb7(paths[0], output)
        elif level is None:
            raise DataError("An extended-XYZ file does not name its level of theory; give --level.")
        else:
            report = importers.import_extxyz(paths[0], output, level)
        out.print(escape(f"{output}: {report}"), highlight=False)
        for entry, reason in report.failures[:20]:
            err.print(escape(f"  skipped {entry}: {reason}"), highlight=False)
