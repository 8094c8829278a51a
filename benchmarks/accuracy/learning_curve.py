"""What more training brings: the validation error of the shipped checkpoint after each of its stages.

    for c in c53328e e06f9cf d214e91 a5c8d7d; do
        mkdir -p stages/$c
        for f in base.json base.safetensors; do git show $c:checkpoints/$f > stages/$c/$f; done
    done
    python benchmarks/accuracy/learning_curve.py --stages stages --data datasets/organic.h5

A stage begins with the weights of the one before, has data of its own, and lowers its learning rate to nothing: its end
is a fair point of the curve, what lies between the ends is not. The power law of the number of steps through the points
says what the targets would cost, if it goes on, with the 95% interval of its exponent. (Atoms in the batches so far,
which went from 1,000 to 48,000 and back to 8,000 a step, explain the errors less well.)
``results/learning_curve.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import linregress, t
from summary import update_summary, write_csv

from consistent_calc import load_model
from consistent_calc.data import Split, Store
from consistent_calc.train.evaluation import evaluate_energy

RESULTS = Path(__file__).parent / "results"
#: Stages that were shipped, by commit. Stage 3 was not; its weights went into stage 4, and its steps are added there.
STAGES = {"1": "c53328e", "2": "e06f9cf", "4": "d214e91", "5": "a5c8d7d"}
#: Steps and atoms in a step of stage 3 (``checkpoints/base_stage3.toml``).
STAGE_3 = 1622, 48_000
#: Columns, what they are called in the picture, and the targets.
ERRORS = {
    "force_mae_eV_A": ("force MAE (eV/Å)", 0.05),
    "relative_energy_mae_kcal_mol": ("relative energy MAE (kcal/mol)", 0.5),
}


def measure(stages: Path, data: Path, limit: int) -> list[dict[str, Any]]:
    """A row a stage: steps and atoms in their energy batches so far, and the errors."""
    validation = Store(data).read(Split.VALIDATION)
    rows, steps, atoms = [], 0, 0
    for stage, commit in STAGES.items():
        card = stages / commit / "base.json"
        record = json.loads(card.read_text())["record"]
        parts = [(record["steps"], sum(source["atoms"] for source in record["configuration"]["energy"]))]
        parts += [STAGE_3] if stage == "4" else []
        steps += sum(n for n, _ in parts)
        atoms += sum(n * size for n, size in parts)
        found = evaluate_energy(load_model(card), validation, limit=limit).summary()
        rows.append({"stage": stage, "steps": steps, "atoms": atoms} | {name: found[name] for name in ERRORS})
        print(rows[-1], flush=True)
    return rows


def extrapolate(steps: Sequence[float], errors: Sequence[float], target: float) -> dict[str, float]:
    """Exponent of the power law, half of its 95% interval, and how many times the steps so far reach the target."""
    fit = linregress(np.log(steps), np.log(errors))
    reached = np.exp((np.log(target) - fit.intercept) / fit.slope)
    interval = float(t.ppf(0.975, len(steps) - 2)) * fit.stderr
    return {"exponent": fit.slope, "95% interval of it": interval, "steps for target / so far": reached / steps[-1]}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Errors against steps, on logarithmic scales, with the power laws."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    steps = np.array([row["steps"] for row in rows], float)
    for axis, (name, (label, target)) in zip(axes, ERRORS.items(), strict=True):
        errors = [row[name] for row in rows]
        fit = linregress(np.log(steps), np.log(errors))
        x = np.geomspace(steps[0], 20 * steps[-1])
        axis.loglog(x, np.exp(fit.intercept) * x**fit.slope, "--", color="#94a3b8")
        axis.loglog(steps, errors, "o", color="#2563eb")
        for row, n, error in zip(rows, steps, errors, strict=True):
            axis.annotate(f"stage {row['stage']}", (n, error), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axis.axhline(target, color="#d97706", lw=1)
        axis.annotate("target", (steps[0], target), textcoords="offset points", xytext=(0, 4), fontsize=8)
        axis.set_xlabel("training steps")
        axis.set_ylabel(label)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=Path, default=Path("stages"), help="folder of the checkpoints, by commit")
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--limit", type=int, default=3000, help="validation structures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.stages, options.data, options.limit)
    write_csv(RESULTS / "learning_curve.csv", rows)
    lines = []
    for name, (_, target) in ERRORS.items():
        found = extrapolate([row["steps"] for row in rows], [row[name] for row in rows], target)
        lines += [("ours", f"{name}: {key}", value, len(rows)) for key, value in found.items()]
    update_summary(RESULTS, "learning curve", lines)
    draw(rows, RESULTS / "learning_curve.png")


if __name__ == "__main__":
    main()
