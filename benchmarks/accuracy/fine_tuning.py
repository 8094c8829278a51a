"""What fine-tuning on a few frames gives, and what it costs: with and without replay, by number of frames.

    python benchmarks/accuracy/fine_tuning.py [--frames tutorials/data/carbamates_gfn2.xyz] [--level GFN2-xTB]
    python benchmarks/accuracy/fine_tuning.py --frames benchmarks/data/labels/dft_wb97x_svp.h5 --sizes 50 100 200 400

Starts from the shipped checkpoint. Whole molecules are set aside, always the same ones; the others are thinned. What
was forgotten is measured on the validation side of datasets/organic.h5 (a fixed sample), against its labels. "from
scratch" is the same network with random weights, trained on all frames with three times the steps and a learning rate
of 1e-3. Writes ``results/fine_tuning.csv``, or of a data store ``results/fine_tuning_<name>.csv``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from summary import write_csv

from consistent_calc.checkpoint import load_model
from consistent_calc.data import Dataset, Split, Store
from consistent_calc.data.importers import import_extxyz
from consistent_calc.data.replay_molecules import replay_molecules
from consistent_calc.model import ConsistentModel
from consistent_calc.train.evaluation import evaluate_energy, evaluate_structure, sample_molecules
from consistent_calc.train.finetune import FineTuning, add_level, fine_tune_model, hold_out

RESULTS = Path(__file__).parent / "results"


def frames_of(path: Path, level: str) -> tuple[Dataset, Path]:
    """The labelled structures of an extended XYZ file or of a store, and where their table goes."""
    if path.suffix == ".h5":
        return Store(path).read(Split.TRAIN, Split.VALIDATION), RESULTS / f"fine_tuning_{path.stem}.csv"
    with tempfile.TemporaryDirectory() as folder:
        import_extxyz(path, store := Path(folder) / "frames.h5", level)
        return Store(store).read(*Split), RESULTS / "fine_tuning.csv"


def untrained(model: ConsistentModel) -> ConsistentModel:
    """The same network with random weights."""
    torch.manual_seed(0)
    fresh = ConsistentModel(model.config)
    fresh.references.copy_(model.references)
    return fresh


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
    parser.add_argument("--sizes", type=int, nargs="*", default=[40], help="frames, beside all")
    parser.add_argument("--known", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--steps", type=int, default=FineTuning.steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, results = frames_of(arguments.frames, arguments.level)
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
    tuning = FineTuning(steps=arguments.steps)
    alone = replace(tuning, replay=False)
    longer = replace(alone, steps=3 * tuning.steps, learning_rate=1e-3)
    runs = [(n, "replay", start, tuning) for n in (len(training), *arguments.sizes)]
    runs += [(n, "no replay", start, alone) for n in (len(training), *arguments.sizes)]
    runs.append((len(training), "from scratch", untrained(start), longer))
    shuffled = np.random.default_rng(0).permutation(training)
    for n, name, model, settings in runs:
        begin = time.perf_counter()
        tuned = fine_tune_model(model, data, np.sort(shuffled[:n]), molecules, settings)
        rows.append(row(tuned, n, name, (time.perf_counter() - begin) / 60))
        write_csv(results, rows)


if __name__ == "__main__":
    main()
