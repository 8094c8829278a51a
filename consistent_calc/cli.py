"""The command line: ``consistent-calc energy | relax | conformers | check | train | evaluate | import``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from consistent_calc import __version__
from consistent_calc.errors import ConsistentCalcError, DataError, InvalidStructureError

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit.Chem import Mol

    from consistent_calc.conformers import ConformerEnsemble, ConformerResult
    from consistent_calc.model import ConsistentModel

# Heavy packages (torch, ase, rdkit) are imported inside the commands, so that --help answers at once.

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
out, err = Console(), Console(stderr=True)


class Source(StrEnum):
    """Data sets that can be imported."""

    organic = "organic"
    rdb7 = "rdb7"
    small_molecules = "small-molecules"
    qm9 = "qm9"
    extxyz = "extxyz"


class Precision(StrEnum):
    """Precision of the network."""

    float32 = "float32"
    float64 = "float64"


Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint card or weights; by default the shipped one.")]
Level = Annotated[str | None, typer.Option(help="Level of theory; by default the checkpoint's first.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Charge = Annotated[int | None, typer.Option(help="Total charge; by default the one in the file, else 0.")]
Dtype = Annotated[Precision, typer.Option(help="Precision of the network.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turns the package's errors into one line and exit status 1; a bug keeps its traceback."""
    try:
        yield
    except ConsistentCalcError as error:
        err.print(f"[bold red]Error[/] ({error.reason}): {error}", highlight=False)
        raise typer.Exit(1) from None


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """One trained model: an ASE calculator and a molecular structure predictor at once."""
    if version:
        out.print(__version__)
        raise typer.Exit


# ---------------------------------------------------------------------- energies and relaxation


@app.command()
def energy(
    file: Annotated[Path, typer.Argument(help="Any structure file that ASE reads; all its frames are evaluated.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Extended XYZ with energies and forces.")
    ] = None,
    checkpoint: Checkpoint = None,
    level: Level = None,
    charge: Charge = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Energies, forces and charges of all structures in a file."""
    with clear_errors():
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.io import write

        from consistent_calc.structures import StructureBatch

        model, images = _load(checkpoint, device, dtype), _read(file)
        table = _table("structure", "formula", "charge", "energy (eV)", "max force (eV/Å)")
        failures = 0
        for k, atoms in enumerate(images):
            try:
                batch = StructureBatch.from_ase(atoms, charge=charge).validate(model.elements)
                prediction = model.predict(batch, level=level)
            except InvalidStructureError as error:
                failures += 1
                table.add_row(str(k), atoms.get_chemical_formula(), "", f"[red]{error.reason}: {error}[/]", "")
                continue
            assert prediction.forces is not None
            value, forces = float(prediction.energy[0]), prediction.forces.double().cpu().numpy()
            atoms.calc = SinglePointCalculator(
                atoms, energy=value, forces=forces, charges=prediction.charges.double().cpu().numpy()
            )
            largest = f"{float(prediction.forces.norm(dim=1).max()):.4f}"
            table.add_row(str(k), atoms.get_chemical_formula(), f"{batch.charge[0]:+.0f}", f"{value:.5f}", largest)
        out.print(table)
        if output is not None:
            write(output, images, format="extxyz")
        _exit_on(failures, len(images))


@app.command()
def relax(
    file: Annotated[Path, typer.Argument(help="Any structure file that ASE reads; all its frames are relaxed.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the relaxed structures.")],
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 500,
    checkpoint: Checkpoint = None,
    level: Level = None,
    charge: Charge = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Relaxes all structures of a file in one batch; cells stay fixed."""
    with clear_errors():
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.io import write

        from consistent_calc.relaxation import relax as relax_batch
        from consistent_calc.structures import StructureBatch

        model, images = _load(checkpoint, device, dtype), _read(file)
        batch = StructureBatch.from_ase(images, charge=charge)
        with out.status(f"Relaxing {len(images)} structures"):
            result = relax_batch(model, batch, level=level, fmax=fmax, max_steps=steps)
        table = _table("structure", "formula", "energy (eV)", "change (eV)", "max force (eV/Å)", "steps", "outcome")
        relaxed = []
        for k, (before, after) in enumerate(zip(images, result.batch.to_ase(), strict=True)):
            failed = result.failed[k]
            outcome = (
                f"[red]{failed}[/]" if failed else "converged" if result.converged[k] else "[yellow]not converged[/]"
            )
            values = float(result.energy[k]), float(result.energy[k] - result.initial_energy[k])
            table.add_row(
                str(k), before.get_chemical_formula(), *(f"{v:.5f}" for v in values), f"{float(result.fmax[k]):.4f}",
                str(int(result.steps[k])), outcome,
            )  # fmt: skip
            if not failed:
                before.positions = after.positions
                before.calc = SinglePointCalculator(before, energy=values[0])
                relaxed.append(before)
        out.print(table)
        if relaxed:
            write(output, relaxed)
        _exit_on(len(images) - len(relaxed), len(images))


# ---------------------------------------------------------------------- conformers


@app.command()
def conformers(
    sources: Annotated[list[str], typer.Argument(help="SMILES, or files: .smi, .csv (column SMILES), .sdf.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Largest number of conformers of a molecule.")] = 20,
    output: Annotated[Path, typer.Option("-o", "--output", help="SDF file to write.")] = Path("conformers.sdf"),
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    window: Annotated[float | None, typer.Option(help="Drop conformers this far above the lowest, kcal/mol.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the Boltzmann weights, K.")] = 298.15,
    fmax: Annotated[float, typer.Option(help="Largest force after relaxation, eV/Å.")] = 0.01,
    checkpoint: Checkpoint = None,
    level: Level = None,
    device: Device = "cpu",
) -> None:
    """Generates, relaxes and ranks conformers; results are written as they come."""
    with clear_errors():
        from consistent_calc.conformers import generate_many

        model = _load(checkpoint, device, Precision.float32)
        results = generate_many(
            sources, n, seed=seed, level=level, model=model, window=window, temperature=temperature, fmax=fmax
        )
        total = 0
        failures: list[ConformerResult] = []
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", encoding="utf-8") as sdf, err.status("Generating conformers") as status:
            for result in results:
                total += 1
                status.update(f"Generating conformers: {total} molecules done, {len(failures)} failed")
                if result.ensemble is None:
                    failures.append(result)
                    continue
                result.ensemble.write_sdf(sdf)
                sdf.flush()
                out.print(_conformer_table(result.ensemble))
                for note in result.ensemble.notes:
                    out.print(f"  [dim]{note}[/]", highlight=False)
        if failures:
            table = _table("input", "reason", "message", title="Failed")
            for result in failures:
                assert result.failure is not None
                table.add_row(result.name or result.smiles or result.id, result.failure.reason, result.failure.message)
            err.print(table)
        out.print(f"{total - len(failures)} of {total} molecules written to {output}", highlight=False)
        _exit_on(len(failures), total)


def _conformer_table(ensemble: ConformerEnsemble) -> Table:
    name = ensemble.name or ensemble.smiles
    table = _table(
        "#", "ΔE (kcal/mol)", "weight", "energy (eV)", "relaxed by (kcal/mol)", "moved (Å)", "converged",
        title=f"{name} at {ensemble.level}",
    )  # fmt: skip
    for k in range(len(ensemble)):
        relative, weight, energy = ensemble.relative_energies[k], ensemble.weights[k], ensemble.energies[k]
        figures = [f"{relative:.2f}", f"{weight:.3f}", f"{energy:.4f}", f"{ensemble.gaps[k]:.2f}"]
        table.add_row(str(k + 1), *figures, f"{ensemble.moved[k]:.2f}", "yes" if ensemble.converged[k] else "no")
    return table


# ---------------------------------------------------------------------- checks


@app.command()
def check(
    molecule: Annotated[str, typer.Argument(help="A structure file that ASE reads, or a SMILES.")],
    checkpoint: Checkpoint = None,
    charge: Charge = None,
    device: Device = "cpu",
) -> None:
    """Physics checks on a molecule of yours: derivatives, symmetries, smoothness, energy conservation."""
    with clear_errors():
        from consistent_calc.checks import run_checks

        model = _load(checkpoint, device, Precision.float64)
        source: Atoms | Mol
        if Path(molecule).exists():
            source = _read(Path(molecule))[0]
            if charge is not None:
                source.info["charge"] = charge
        else:
            source = _embedded(molecule)
        with out.status("Checking"):
            results = run_checks(model, source)
        table = _table("check", "value", "threshold", "unit", "result", "detail")
        for r in results:
            verdict = "[green]pass[/]" if r.passed else "[bold red]FAIL[/]"
            table.add_row(r.name, f"{r.value:.2e}", f"{r.threshold:.0e}", r.unit, verdict, r.detail)
        out.print(table)
        _exit_on(sum(not r.passed for r in results), len(results))


def _embedded(smiles: str) -> Mol:
    """A molecule with one ETKDG geometry."""
    from consistent_calc.conformers import read_molecules
    from consistent_calc.conformers.generate import ConformerOptions, embed
    from consistent_calc.errors import MoleculeInputError

    entry = next(read_molecules(smiles))
    if entry.failure is not None:
        raise MoleculeInputError(f"{smiles!r} is neither a file nor a usable SMILES: {entry.failure.message}")
    mol = embed(entry, ConformerOptions(n=1)).mol
    for conformer in list(mol.GetConformers())[1:]:
        mol.RemoveConformer(conformer.GetId())
    return mol


# ---------------------------------------------------------------------- training and data


@app.command()
def train(config: Annotated[Path, typer.Argument(help="TOML file, such as checkpoints/base.toml.")]) -> None:
    """Trains a model; started again, it continues where it was stopped. The README explains the configuration."""
    with clear_errors():
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
        out.print(f"{'Stopped' if trainer.stop_requested else 'Finished'} at step {trainer.step}; model: {card}")


@app.command()
def evaluate(
    store: Annotated[Path, typer.Argument(help="HDF5 store of labelled structures.")],
    test: Annotated[bool, typer.Option("--test", help="The test side instead of the validation side.")] = False,
    limit: Annotated[int | None, typer.Option(help="Evaluate a fixed sample of about this many structures.")] = None,
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

        data = Store(store).read(Split.TEST if test else Split.VALIDATION)
        model = _load(checkpoint, device, Precision.float32)
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
            table = _table(part.replace("_", " "), *names)
            for label, row in rows.items():
                table.add_row(label, *(f"{row[k]:.4g}" if k in row else "" for k in names))
            out.print(table)
        if output is not None:
            output.write_text(json.dumps(figures, indent=2) + "\n")


@app.command("import")
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
        out.print(f"{output}: {report}", highlight=False)
        for entry, reason in report.failures[:20]:
            err.print(f"  skipped {entry}: {reason}", highlight=False)


# ---------------------------------------------------------------------- shared


def _load(checkpoint: Path | None, device: str, dtype: Precision) -> ConsistentModel:
    import torch

    from consistent_calc.checkpoint import load_model

    return load_model(checkpoint, device=device, dtype=getattr(torch, dtype.value))


def _read(file: Path) -> list[Atoms]:
    """All frames of a structure file."""
    from ase.io import read

    try:
        images = cast("list[Atoms]", read(file, index=":"))
    except Exception as error:  # ASE's readers raise anything, down to StopIteration
        raise InvalidStructureError(f"ASE cannot read {file}: {type(error).__name__}: {error}") from None
    if not images:
        raise InvalidStructureError(f"{file} holds no structures.")
    return images


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    return table


def _exit_on(failures: int, total: int) -> None:
    """Exit status 1 if anything failed; the rest of the batch is done."""
    if failures:
        err.print(f"[bold red]{failures} of {total} failed[/]", highlight=False)
        raise typer.Exit(1)
