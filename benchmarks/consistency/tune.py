"""Chooses forms and factors of the consistency losses on the validation molecules (never on the test set).

python benchmarks/consistency/tune.py        # after the first stage-1 run; writes results/tuning_0.csv
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
from design import MULTITASK, Run, stage_2  # noqa: E402
from evaluate import evaluate, summarize  # noqa: E402
from testset import read_molecules  # noqa: E402

from consistent_calc.checkpoint import load_model  # noqa: E402
from consistent_calc.data import Split  # noqa: E402
from consistent_calc.train.configuration import Consistency  # noqa: E402
from consistent_calc.train.trainer import Trainer  # noqa: E402

#: Noise levels where optimality acts, Angstrom: the high ones of the paper, or those that fix the last details.
HIGH, MIDDLE, ALL = (1.0, 100.0), (0.1, 2.0), (0.0, 100.0)

#: (optimality form, factor, its noise levels, score form, factor); forces are external ones.
CANDIDATES = [
    ("gap", 0.0, HIGH, "noisy", 0.0),
    ("gap", 0.1, HIGH, "noisy", 0.0),
    ("gap", 1.0, HIGH, "noisy", 0.0),
    ("gap", 0.3, MIDDLE, "noisy", 0.0),
    ("gap", 2.0, MIDDLE, "noisy", 0.0),
    ("comparison", 2.0, HIGH, "noisy", 0.0),
    ("comparison", 2.0, MIDDLE, "noisy", 0.0),
    ("gap", 0.0, HIGH, "noisy", 0.01),
    ("gap", 0.0, HIGH, "noisy", 0.1),
    ("gap", 0.0, HIGH, "clean", 0.1),
    ("newton", 1.0, ALL, "noisy", 0.0),
]
STEPS = 200
METRICS = ("accurate/rmsd_A_mean", "accurate/bond_mae_A", "accurate/angle_mae_deg", "shift_to_accurate")
GAP = "gap_model_meV_per_atom"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/consistency"))
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--runs", type=Path, default=Path("runs/consistency"))
    parser.add_argument("--part", type=int, default=0, help="do every so-many-th candidate from here ...")
    parser.add_argument("--parts", type=int, default=1, help="... in so many processes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    molecules = read_molecules(arguments.data, arguments.qm9, Split.VALIDATION, 80)
    names = [f"{mode}/{m}" for mode in ("denoising", "many_step") for m in (*METRICS, GAP)]
    with (HERE / "results" / f"tuning_{arguments.part}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ("optimality", "factor", "low", "high", "score", "factor", *names, "energy_pm6_mae_meV_per_atom")
        )
        for form, factor, window, score_form, score_factor in CANDIDATES[arguments.part :: arguments.parts]:
            config = stage_2(Run("multitask", "external", 0), arguments.runs.resolve(), arguments.data.resolve())
            folder = tempfile.mkdtemp()
            config = replace(
                config,
                output=folder,
                weights=replace(
                    MULTITASK, optimality=factor, score=score_factor, structure=0.0 if form == "newton" else 1.0
                ),
                consistency=Consistency(optimality=form, optimality_noise=window, score=score_form),
                schedule=replace(config.schedule, steps=STEPS),
            )
            card = Trainer(config, Path(folder)).run()
            found = summarize(evaluate(load_model(card), molecules, None, n_samples=2))
            values = [float(np.nanmean(found[n])) for n in (*names, "energy_pm6_mae_meV_per_atom")]
            table.writerow((form, factor, *window, score_form, score_factor, *(f"{v:.4g}" for v in values)))
            file.flush()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
