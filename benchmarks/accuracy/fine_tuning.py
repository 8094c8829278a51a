"""What fine-tuning on a few frames gives, and what it costs: with and without replay, by number of frames.

    python benchmarks/accuracy/fine_tuning.py [--frames tutorials/data/carbamates_gfn2.xyz] [--level GFN2-xTB]

Starts from the shipped checkpoint. Whole molecules are set aside, always the same ones; the others are thinned. What
was forgotten is measured on the validation side of datasets/organic.h5 (a fixed sample), against its labels. Writes
``results/fine_tuning.csv``.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from consistent_calc.checkpoint import load_model
from consistent_calc.data import Dataset, Split, Store
from consistent_calc.data.importers import import_extxyz
from consistent_calc.data.replay_molecules import replay_molecules
from consistent_calc.model import ConsistentModel
from consistent_calc.train.evaluation import evaluate_energy, evaluate_structure, sample_molecules
from consistent_calc.train.finetune import FineTuning, add_level, fine_tune_model, hold_out

RESULTS = Path(__file__).parent / "results" / "fine_tuning.csv"
#: Frames of the training side, and whether there is replay.
RUNS = ((None, True), (None, False), (40, True), (40, False))


def remembered(model: ConsistentModel, data: Dataset, rows: np.ndarray) -> dict[str, float]:
    """Errors at the default level, and of the structure head, on validation molecules."""
    errors = evaluate_energy(model, data, indices=rows, level=model.levels[0]).summary()
    graphs = rows[data.equilibrium[rows] & (np.diff(data.bond_offset) > 0)[data.molecule[rows]]]
    denoised = evaluate_structure(model, data, graphs, sigmas=(0.3,))
    return {
        "known_force_mae_eV_A": errors["force_mae_eV_A"],
        "known_relative_energy_mae_kcal_mol": errors["relative_energy_mae_kcal_mol"],
        "known_energy_mae_eV": errors["energy_mae_eV"],
        "known_charge_mae_e": errors["charge_mae_e"],
        "known_denoised_rmsd_0.3_A": denoised["denoised_rmsd_0.3_A"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, default=Path("tutorials/data/carbamates_gfn2.xyz"))
    parser.add_argument("--level", default="GFN2-xTB")
    parser.add_argument("--known", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--steps", type=int, default=FineTuning.steps)
    arguments = parser.parse_args()
    store = RESULTS.with_name("frames.h5")
    import_extxyz(arguments.frames, store, arguments.level)
    data = Store(store).read(*Split)
    store.unlink()
    known = Store(arguments.known).read(Split.VALIDATION)
    sample = sample_molecules(known, 600)
    start = load_model()
    training, aside, how = hold_out(data, np.arange(len(data)))
    assert how == "molecules"
    molecules = replay_molecules(start.elements)

    def row(model: ConsistentModel, n: int, name: str, minutes: float) -> dict[str, Any]:
        new = evaluate_energy(model, data, indices=aside).summary()
        figures = new | remembered(model, known, sample)
        print(name, n, f"{minutes:.1f} min", {k: round(v, 4) for k, v in figures.items()}, flush=True)
        return {"run": name, "frames": n, "minutes": f"{minutes:.1f}"} | {k: f"{v:.4f}" for k, v in figures.items()}

    rows = [row(add_level(start, data, training), 0, "before", 0.0)]
    for n, replay in RUNS:
        some = training if n is None else np.sort(np.random.default_rng(0).permutation(training)[:n])
        begin = time.perf_counter()
        settings = FineTuning(steps=arguments.steps, replay=replay)
        model = fine_tune_model(start, data, some, molecules, settings)
        minutes = (time.perf_counter() - begin) / 60
        rows.append(row(model, len(some), "replay" if replay else "no replay", minutes))
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
