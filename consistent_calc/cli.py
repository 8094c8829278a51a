"""The command line: ``consistent-calc energy | relax | conformers | check | train | evaluate | import``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from consistent_calc import __version__
from consistent_calc.conformer_commands import conformers
from consistent_calc.console import (
    WITH_RESULTS,
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
from consistent_calc.errors import ConfigurationError, InvalidStructureError
from consistent_calc.training_commands import evaluate, import_data, label, train

if TYPE_CHECKING:
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
        Path | None, typer.Option("-o", "--output", help="Where to write them: .xyz, .traj, .db or .json.")
    ] = None,
    checkpoint: Checkpoint = None,
    level: Level = None,
    charge: Charge = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Energies, forces and charges of all structures in a file."""
    with clear_errors():
        import numpy as np
        from ase.calculators.singlepoint import SinglePointCalculator

        from consistent_calc.calculator import ase_results, has_volume
        from consistent_calc.structure_files import Unusable, read_structures, what_ions_need, write_images

        model = load(checkpoint, device, dtype)
        structures = read_structures(file, model.elements, charge)
        needs = what_ions_need(structures) | {"energies and forces": WITH_RESULTS}
        check_target(output, n_images=len(structures), needs=needs)
        table = new_table("structure", "formula", "charge", "energy (eV)", "max force (eV/Å)")
        evaluated = []
        for k, structure in enumerate(structures):
            if isinstance(structure, Unusable):
                table.add_row(str(k), structure.formula, "", _failure(structure.reason), "")
                continue
            atoms, batch = structure.atoms, structure.batch
            try:
                prediction = model.predict(batch, level=level, stress=has_volume(atoms))
            except InvalidStructureError as error:
                table.add_row(str(k), atoms.get_chemical_formula(), "", _failure(error), "")
                continue
            results = ase_results(atoms, prediction)
            atoms.calc = SinglePointCalculator(atoms, **results)
            evaluated.append(atoms)
            value, largest = f"{results['energy']:.5f}", f"{np.linalg.norm(results['forces'], axis=1).max():.4f}"
            charges = f"{batch.charge[0]:+.0f}"
            table.add_row(str(k), atoms.get_chemical_formula(), charges, value, largest)
        out.print(table)
        if output is not None and evaluated:
            write_images(output, evaluated)
        exit_on(len(structures) - len(evaluated), len(structures))


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
        from consistent_calc.structure_files import Unusable, read_structures, what_ions_need, write_images
        from consistent_calc.structures import StructureBatch

        model = load(checkpoint, device, dtype)
        structures = read_structures(file, model.elements, charge)
        check_target(output, n_images=len(structures), needs=what_ions_need(structures))
        rows: dict[int, tuple[str, ...]] = {}
        usable = {}
        for k, structure in enumerate(structures):
            if isinstance(structure, Unusable):
                rows[k] = structure.formula, "", "", "", "", _failure(structure.reason)
            elif structure.atoms.constraints:
                message = "this command knows no constraints; relax it with ASE's optimisers and ConsistentCalculator"
                rows[k] = structure.atoms.get_chemical_formula(), "", "", "", "", f"[red]constrained: {message}[/]"
            else:
                usable[k] = structure
        relaxed = []
        if usable:
            batch = StructureBatch.concatenate([s.batch for s in usable.values()])
            with out.status(f"Relaxing {len(usable)} structures"):
                result = relax_batch(model, batch, level=level, fmax=fmax, max_steps=steps)
            for row, (k, structure) in enumerate(usable.items()):
                atoms, energy, failed = structure.atoms, float(result.energy[row]), result.failed[row]
                unfailed = "converged" if result.converged[row] else "[yellow]not converged[/]"
                change = energy - float(result.initial_energy[row])
                figures = (
                    f"{energy:.5f}",
                    f"{change:.5f}",
                    f"{float(result.fmax[row]):.4f}",
                    str(int(result.steps[row])),
                )
                outcome = f"[red]{escape(failed)}[/]" if failed else unfailed
                rows[k] = atoms.get_chemical_formula(), *figures, outcome
                if not failed:
                    atoms.positions = result.batch[row].positions.numpy()
                    atoms.calc = SinglePointCalculator(atoms, energy=energy)
                    relaxed.append(atoms)
        table = new_table("structure", "formula", "energy (eV)", "change (eV)", "max force (eV/Å)", "steps", "outcome")
        for k, cells in sorted(rows.items()):
            table.add_row(str(k), *cells)
        out.print(table)
        if relaxed:
            write_images(output, relaxed)
        exit_on(len(structures) - len(relaxed), len(structures))


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
        from consistent_calc.structure_files import Unusable, read_structures

        model = load(checkpoint, device, Precision.float64)
        if os.path.exists(molecule):  # False, unlike Path.exists, for a SMILES too long for a path
            first, *others = read_structures(Path(molecule), model.elements, charge)
            if others:
                out.print(f"{molecule} holds {1 + len(others)} structures; the first one is checked.")
            if isinstance(first, Unusable):
                raise first.reason
            with out.status("Checking"):
                results = run_checks(model, first.batch)
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


def _failure(error: InvalidStructureError) -> str:
    """Its reason and message, in red."""
    return f"[red]{error.reason}: {escape(str(error))}[/]"


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
