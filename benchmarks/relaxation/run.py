"""Relaxation of molecules from the generator's seeds (ETKDG, MMFF94s) with ASE's BFGS, one at a time, and in batch.

    python benchmarks/relaxation/run.py --data datasets/organic.h5 [--n 100]      # validation molecules
    python benchmarks/relaxation/run.py --smiles benchmarks/conformers/drug_like.smi --n 200 --threads 2 --output F.json

Counts how many converge to fmax 0.01 eV/Angstrom within 500 steps, in how many steps, and how many keep their bonds
and stereochemistry; then relaxes the same geometries in one batch and compares energies and time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from ase.optimize import BFGS

from consistent_calc import ConsistentCalculator, StructureBatch, load_model, relax
from consistent_calc.conformers import MoleculeInput, read_molecules
from consistent_calc.conformers.generate import ConformerOptions, Samples, embed
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.errors import ConformerError
from consistent_calc.units import KCAL_PER_MOL


def validation_smiles(store: Path) -> list[str]:
    """Molecules of the validation side."""
    return [str(smiles) for smiles in Store(store).read(Split.VALIDATION).smiles]


def seeds(entries: list[MoleculeInput], n: int) -> list[Samples]:
    """Seeds of ``n`` molecules, evenly spread over the list."""
    out = []
    for i in np.linspace(0, len(entries) - 1, n).astype(int):
        try:
            out.append(embed(entries[i], ConformerOptions(n=1, embed_timeout=20)))
        except ConformerError as error:
            print(f"{entries[i].smiles}: {error.reason}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--smiles", type=Path, default=None, help="file of SMILES, in place of --data")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bfgs.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.checkpoint)
    sources = arguments.smiles or validation_smiles(arguments.data)
    samples = seeds(list(read_molecules(sources, elements=model.elements)), arguments.n)
    start = StructureBatch.concatenate([StructureBatch.from_rdkit(s.mol)[0] for s in samples])

    rows, problems = [], []
    begin = time.perf_counter()
    for sample, atoms in zip(samples, start.to_ase(), strict=True):
        atoms.calc = ConsistentCalculator(model)
        optimizer = BFGS(atoms, logfile=None)
        converged = bool(optimizer.run(fmax=0.01, steps=500))
        problem = sample.check.problem(torch.from_numpy(atoms.positions))
        problems.append(problem)
        rows.append((converged, optimizer.nsteps, atoms.get_potential_energy()))
    single_seconds = time.perf_counter() - begin

    begin = time.perf_counter()
    batched = relax(model, start, fmax=0.01, max_steps=500)
    batch_seconds = time.perf_counter() - begin
    converged, steps, energy = (np.array(column) for column in zip(*rows, strict=True))
    difference = np.abs(batched.energy.cpu().numpy() - energy) / KCAL_PER_MOL
    results = {
        "molecules": len(samples),
        "bfgs_converged": int(converged.sum()),
        "bfgs_steps_median": float(np.median(steps)),
        "bfgs_steps_max": int(steps.max()),
        "stereo_changed": problems.count("stereo_changed"),
        "bonds_changed": problems.count("bonds_changed"),
        "bfgs_seconds": single_seconds,
        "batch_converged": int(batched.converged.sum()),
        "batch_steps_median": float(batched.steps.double().median()),
        "batch_seconds": batch_seconds,
        "same_energy_within_0.05_kcal_mol": int((difference < 0.05).sum()),
        "threads": arguments.threads,
    }
    print(json.dumps(results, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
