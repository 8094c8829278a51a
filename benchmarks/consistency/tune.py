"""Chooses forms and factors of the consistency losses on the validation molecules (never on the test set).

python benchmarks/consistency/tune.py        # after the first stage-1 run; writes results/tuning.csv
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from design import CONSISTENCY, MULTITASK, Run, stage_2  # noqa: E402
from evaluate import evaluate, summarize  # noqa: E402
from testset import read_molecules  # noqa: E402

from consistent_calc.checkpoint import load_model  # noqa: E402
from consistent_calc.data import Split  # noqa: E402
from consistent_calc.train.trainer import Trainer  # noqa: E402

#: (forces, optimality form, factor, score form, factor)
CANDIDATES = [
    ("external", "comparison", 0.0, "noisy", 0.0),
    ("external", "gap", 0.1, "noisy", 0.0),
    ("external", "comparison", 0.3, "noisy", 0.0),
    ("external", "comparison", 0.0, "noisy", 0.01),
    ("external", "gap", 0.02, "noisy", 0.0),
    ("external", "gap", 0.5, "noisy", 0.0),
    ("external", "comparison", 2.0, "noisy", 0.0),
    ("external", "comparison", 0.0, "noisy", 0.1),
    ("external", "slope", 0.1, "noisy", 0.0),
    ("external", "comparison", 0.0, "clean", 0.01),
    ("external", "comparison", 0.0, "noisy", 0.001),
]
STEPS = 250
METRICS = ("accurate/rmsd_A_mean", "accurate/bond_mae_A", "accurate/angle_mae_deg", "shift_to_accurate")
GAP = "gap_model_meV_per_atom"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/consistency"))
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--runs", type=Path, default=Path("runs/consistency"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    molecules = read_molecules(arguments.data, arguments.qm9, Split.VALIDATION, 80)
    names = [f"{mode}/{m}" for mode in ("denoising", "many_step") for m in (*METRICS, GAP)]
    with (HERE / "results" / "tuning.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("forces", "optimality", "factor", "score", "factor", *names, "energy_pm6_mae_meV_per_atom"))
        for forces, form, factor, score_form, score_factor in CANDIDATES:
            config = stage_2(Run("multitask", forces, 0), arguments.runs.resolve(), arguments.data.resolve())
            folder = tempfile.mkdtemp()
            config = replace(
                config,
                output=folder,
                weights=replace(MULTITASK, optimality=factor, score=score_factor),
                consistency=replace(CONSISTENCY, optimality=form, score=score_form),
                schedule=replace(config.schedule, steps=STEPS),
            )
            card = Trainer(config, Path(folder)).run()
            found = summarize(evaluate(load_model(card), molecules, None, n_samples=2))
            values = [float(np.nanmean(found[n])) for n in (*names, "energy_pm6_mae_meV_per_atom")]
            table.writerow((forces, form, factor, score_form, score_factor, *(f"{v:.4g}" for v in values)))
            file.flush()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
