"""How often structures from noise become the molecule: single attempts, without relaxation, of validation molecules.

    python benchmarks/conformers/from_noise.py --data datasets [--checkpoint base --checkpoint runs/stage2/model]

An attempt counts if all bonds have their length, no others came about, and stereo is as asked for. 24 molecules of
``qm9.h5`` and of ``organic.h5`` (drug-like), two attempts each, 16 steps. It chose where the sampling goes on after
the harmonic prior, hence on validation molecules; writes ``results/from_noise.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from molecule_sets import validation_molecules
from rdkit import RDLogger
from rdkit.Chem import Mol

from consistent_calc import StructureBatch, load_model
from consistent_calc.conformers.generate import with_conformers
from consistent_calc.conformers.stereo import GeometryCheck
from consistent_calc.diffusion.samplers import from_noise
from consistent_calc.model import ConsistentModel

N_MOLECULES, ATTEMPTS, STEPS = 24, 2, 16
#: Where sampling goes on after the prior, Angstrom; a model without a prior starts from Gaussian noise of 8.
LEVELS = (1.0, 1.5, 2.0)
SHIPPED = Path("base")


def outcomes(model: ConsistentModel, mols: list[Mol], sigma_max: float) -> list[str | None]:
    """What is wrong with each attempt, None if nothing."""
    attempts = [m for m in mols for _ in range(ATTEMPTS)]
    blank = [StructureBatch.from_rdkit(with_conformers(m, [torch.zeros(m.GetNumAtoms(), 3)])) for m in attempts]
    batch = StructureBatch.concatenate(blank).to(dtype=model.dtype)
    x = from_noise(model, batch, n_steps=STEPS, seeds=list(range(len(attempts))), sigma_max=sigma_max).double()
    return [GeometryCheck(m).problem(y) for m, y in zip(attempts, x.split(batch.counts.tolist()), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--checkpoint", type=Path, action="append", help="base is the shipped one")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "from_noise.csv")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
    rows = []
    for checkpoint in arguments.checkpoint or [SHIPPED]:
        model = load_model(None if checkpoint == SHIPPED else checkpoint)
        levels = (8.0,) if model.config.prior_level is None else LEVELS
        for name in ("qm9", "organic"):
            mols = [entry.mol for entry in validation_molecules(arguments.data / f"{name}.h5", N_MOLECULES)]
            for level in levels:
                found = outcomes(model, mols, level)
                counts = [found.count(None), found.count("bonds_changed"), found.count("stereo_changed"), len(found)]
                rows.append(["base" if checkpoint == SHIPPED else checkpoint.parent.name, name, level, *counts])
                print(*rows[-1], flush=True)
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("checkpoint", "set", "sigma_max_A", "right", "bonds_changed", "stereo_changed", "attempts"))
        table.writerows(rows)


if __name__ == "__main__":
    main()
