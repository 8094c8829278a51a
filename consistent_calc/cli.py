"""The command line: ``consistent-calc energy | relax | conformers | check | train | evaluate | import``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape

from consistent_calc import __version__
from consistent_calc.conformer_commands import conformers
from consistent_calc.console import (
    Charge,
    Checkpoint,
    Device,
    Dtype,
    Level,
    Precision,
    check_target,
    clear_errors,
    exit_on,
    load,
    new_table,
    out,
)
from consistent_calc.errors import ConfigurationError, DataError, InvalidStructureError
from consistent_calc.training_commands import evaluate, import_data, label, train

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit.Chem import Mol


# Heavy packages (torch, ase, rdkit) are imported inside the commands, so that --help answers at once.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


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
        from ase.stress import full_3x3_to_voigt_6_stress

        from consistent_calc.calculator import has_volume
        from consistent_calc.structures import StructureBatch

        check_target(output)
        model, images = load(checkpoint, device, dtype), _read(file)
        table = new_table("structure", "formula", "charge", "energy (eV)", "max force (eV/Å)")
        failures = 0
        for k, atoms in enumerate(images):
            atoms.calc = None  # energies that came with the file must not pass for results
            try:
                batch = StructureBatch.from_ase(atoms, charge=charge).validate(model.elements)
                prediction = model.predict(batch, level=level, stress=has_volume(atoms))
            except InvalidStructureError as error:
                failures += 1
                message = f"[red]{error.reason}: {escape(str(error))}[/]"
                table.add_row(str(k), atoms.get_chemical_formula(), "", message, "")
                continue
            if charge is not None:
                atoms.info["charge"] = charge
            assert prediction.forces is not None
            value, forces = float(prediction.energy[0]), prediction.forces.double().cpu().numpy()
            results = {"energy": value, "forces": forces, "charges": prediction.charges.double().cpu().numpy()}
            if prediction.stress is not None:
                results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].double().cpu().numpy())
            atoms.calc = SinglePointCalculator(atoms, **results)
            largest = f"{float(prediction.forces.norm(dim=1).max()):.4f}"
            table.add_row(str(k), atoms.get_chemical_formula(), f"{batch.charge[0]:+.0f}", f"{value:.5f}", largest)
        out.print(table)
        if output is not None:
            write(output, images, format="extxyz")
        exit_on(failures, len(images))


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

        from consistent_calc.relaxation import relax as relax_batch
        from consistent_calc.structures import StructureBatch

        images = _read(file)
        check_target(output, n_images=len(images))
        model = load(checkpoint, device, dtype)
        if fixed := [k for k, atoms in enumerate(images) if atoms.constraints]:
            raise InvalidStructureError(
                f"Structure {fixed[0]} has constraints, which this command does not know. Remove them, or relax it "
                "with ASE's optimisers and ConsistentCalculator."
            )
        batch = StructureBatch.from_ase(images, charge=charge)
        for k in range(len(images)):
            with suppress(InvalidStructureError):  # of which the relaxation tells
                batch[k].validate()  # which warns of odd numbers of electrons
        with out.status(f"Relaxing {len(images)} structures"):
            result = relax_batch(model, batch, level=level, fmax=fmax, max_steps=steps)
        table = new_table("structure", "formula", "energy (eV)", "change (eV)", "max force (eV/Å)", "steps", "outcome")
        relaxed = []
        for k, (before, after) in enumerate(zip(images, result.batch.to_ase(), strict=True)):
            failed = result.failed[k]
            unfailed = "converged" if result.converged[k] else "[yellow]not converged[/]"
            outcome = f"[red]{escape(failed)}[/]" if failed else unfailed
            values = float(result.energy[k]), float(result.energy[k] - result.initial_energy[k])
            table.add_row(
                str(k), before.get_chemical_formula(), *(f"{v:.5f}" for v in values), f"{float(result.fmax[k]):.4f}",
                str(int(result.steps[k])), outcome,
            )  # fmt: skip
            if not failed:
                before.positions = after.positions
                before.calc = SinglePointCalculator(before, energy=values[0])
                if charge is not None:
                    before.info["charge"] = charge
                relaxed.append(before)
        out.print(table)
        if relaxed:
            _write(output, relaxed)
        exit_on(len(images) - len(relaxed), len(images))


# ---------------------------------------------------------------------- checks


@app.command()
def check(
    molecule: Annotated[str, typer.Argument(help="A structure file that ASE reads, or a SMILES.")],
    checkpoint: Checkpoint = None,
    charge: Charge = None,
    device: Device = "cpu",
) -> None:
    """Physics checks on a molecule of yours: derivatives, symmetries, smoothness, energy conservation.

    Of a SMILES also whether structure head and energy agree.
    """
    with clear_errors():
        from consistent_calc.agreement import check_agreement
        from consistent_calc.checks import run_checks

        model = load(checkpoint, device, Precision.float64)
        if os.path.exists(molecule):  # False, unlike Path.exists, for a SMILES too long for a path
            source, *others = _read(Path(molecule))
            if others:
                out.print(f"{molecule} holds {1 + len(others)} structures; the first one is checked.")
            if charge is not None:
                source.info["charge"] = charge
            with out.status("Checking"):
                results = run_checks(model, source)
        elif charge is not None:
            raise ConfigurationError("The charge of a SMILES is in the SMILES; --charge is for files.")
        else:
            mol = _embedded(molecule)
            with out.status("Checking"):
                results = run_checks(model, mol) + check_agreement(model, mol)
        table = new_table("check", "value", "threshold", "unit", "result", "detail")
        for r in results:
            verdict = "[green]pass[/]" if r.passed else "[bold red]FAIL[/]"
            table.add_row(r.name, f"{r.value:.2e}", f"{r.threshold:.0e}", r.unit, verdict, r.detail)
        out.print(table)
        exit_on(sum(not r.passed for r in results), len(results))


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

app.command()(conformers)
app.command()(train)
app.command()(evaluate)
app.command()(label)
app.command("import")(import_data)


# ---------------------------------------------------------------------- files


def _read(file: Path) -> list[Atoms]:
    """All frames of a structure file."""
    # Of an SDF ASE reads one molecule, and no charges.
    images = _read_sdf(file) if file.suffix.lower() in (".sdf", ".mol") else _read_frames(file)
    if not images:
        raise InvalidStructureError(f"{file} holds no structures.")
    return images


def _read_frames(file: Path) -> list[Atoms]:
    """All frames of a file in one of ASE's formats."""
    from ase.io import read

    try:
        return cast("list[Atoms]", read(file, index=":"))
    except Exception as error:  # ASE's readers raise anything, down to StopIteration
        raise InvalidStructureError(f"ASE cannot read {file}: {type(error).__name__}: {error}") from None


def _read_sdf(file: Path) -> list[Atoms]:
    """All molecules of an SDF, with their charges."""
    from rdkit.Chem import SDMolSupplier

    from consistent_calc.structures import StructureBatch

    images = []
    for k, mol in enumerate(SDMolSupplier(str(file), removeHs=False)):
        if mol is None:
            raise InvalidStructureError(f"RDKit cannot read molecule {k} of {file}.")
        images += StructureBatch.from_rdkit(mol).to_ase()
    return images


def _write(output: Path, images: list[Atoms]) -> None:
    """Writes structures; if ASE cannot do so in this format, as extended XYZ beside it, so that they are not lost."""
    from ase.io import write

    try:
        write(output, images)
    except OSError:
        raise
    except Exception as error:  # ASE's writers raise anything
        refuge = output.with_name(output.name + ".xyz")
        write(refuge, images, format="extxyz")
        message = f"ASE cannot write this to {output} ({type(error).__name__}: {error}); it is in {refuge}."
        raise DataError(message) from None
