"""How many seeds, denoising steps and guiding steps pay: the generator with other settings, on validation molecules.

    python benchmarks/conformers/screening.py --data datasets

24 molecules of the validation side of ``qm9.h5`` and 8 of ``organic.h5`` (drug-like, at least 20 heavy atoms). For each
setting: mean seconds, how far the lowest conformer lies above the lowest that any setting found (our level, mean), how
often it is within 1 kcal/mol of it, and the median strain of the samples before their relaxation. ``mmff_ours`` is
ETKDGv3, MMFF94s and the relaxation. It chose the defaults of the generator; writes ``results/screening.csv``.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from methods import OPTIONS, Outcome, etkdg, mmff, ours, with_model, with_positions
from molecule_sets import validation_molecules
from rdkit import RDLogger

from consistent_calc import ConsistentModel, StructureBatch, load_model
from consistent_calc.conformers import MoleculeInput, generate
from consistent_calc.errors import ConformerError
from consistent_calc.units import KCAL_PER_MOL

#: Seeds for each sample, denoising steps, guiding steps.
SETTINGS = ((1, 3, 8), (3, 2, 8), (3, 3, 8), (3, 4, 8))
#: Store, molecules, and heavy atoms that they have at least.
SETS = (("qm9", 24, 1), ("organic", 8, 20))


def run(entry: MoleculeInput, setting: tuple[int, int, int] | None, model: ConsistentModel) -> Outcome:
    """The generator with a setting, or without one MMFF94s and the relaxation."""
    assert entry.mol is not None
    if setting is None:
        return with_model(entry.mol, mmff(entry.mol, etkdg(entry, 0)), model)
    seeds, n_steps, guidance = setting
    with patch.object(generate, "CANDIDATES", seeds):
        return ours(entry, replace(OPTIONS, n_steps=n_steps, guidance=guidance), model)


def numbers(entry: MoleculeInput, setting: tuple[int, int, int] | None, model: ConsistentModel) -> tuple[float, ...]:
    """Seconds, lowest energy and median strain, kcal/mol; NaN where there is no conformer."""
    begin = time.perf_counter()
    try:
        outcome = run(entry, setting, model)
    except ConformerError:
        return (np.nan, np.nan, np.nan)
    seconds = time.perf_counter() - begin
    assert outcome.energies is not None
    raw = model.predict(StructureBatch.from_rdkit([with_positions(entry.mol, outcome.raw)]), forces=False).energy
    strain = np.median(raw.numpy() / KCAL_PER_MOL - outcome.energies)
    return seconds, float(outcome.energies.min()), float(strain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "screening.csv")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
    model = load_model()
    rows = []
    for name, limit, min_heavy in SETS:
        entries = validation_molecules(arguments.data / f"{name}.h5", limit, min_heavy)
        found = np.array([[numbers(entry, s, model) for entry in entries] for s in (*SETTINGS, None)])
        above = found[:, :, 1] - np.nanmin(found[:, :, 1], axis=0)
        for setting, values, gaps in zip((*SETTINGS, None), found, above, strict=True):
            seconds, strain = np.nanmean(values[:, 0]), np.nanmedian(values[:, 2])
            label = "mmff_ours" if setting is None else "-".join(map(str, setting))
            figures = (seconds, np.nanmean(gaps), np.mean(gaps < 1), strain)
            rows.append((name, label, *(f"{x:.3g}" for x in figures), len(entries)))
            print(*rows[-1], flush=True)
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("set", "setting", "seconds", "above_kcal_mol", "within_1_kcal_mol", "strain_kcal_mol", "n"))
        table.writerows(rows)


if __name__ == "__main__":
    main()
