"""Calibration of an ensemble of checkpoints: does its standard deviation tell how large its error is?

    python benchmarks/accuracy/uncertainty.py CHECKPOINT CHECKPOINT... --name NAME [--store STORE] [-n 2000]

On validation molecules, a fixed sample. Writes ``results/uncertainty.csv`` (a line an ensemble and quantity; lines of
other names are kept) and ``results/uncertainty_bins.csv`` (ten bins of equal size by standard deviation). Quantities:
the force on an atom (length of the error vector), the total energy, and the energy relative to the mean of all
conformations of the molecule. For comparison, a guess that needs no ensemble: the length of the force in place of its
standard deviation. (``stage 1 and stage 2``, ``stage 4 and stage 5`` in the results are stages of the shipped
checkpoint, the fifth being the last.)
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from consistent_calc.checkpoint import load_model
from consistent_calc.data import Dataset, Split, Store
from consistent_calc.ensemble import predict_ensemble
from consistent_calc.model import ConsistentModel
from consistent_calc.train.calibration import Calibration, calibrate
from consistent_calc.train.evaluation import BATCH, sample_molecules

RESULTS = Path(__file__).parent / "results"


def measure(models: list[ConsistentModel], data: Dataset, rows: np.ndarray, level: str) -> dict[str, Calibration]:
    """Calibration of each quantity."""
    parts: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(rows), BATCH):
        structures, labels = data.batch(rows[start : start + BATCH])
        said = predict_ensemble(models, structures, level=level)
        parts["energy"].append((said.mean.energy - labels.energy).numpy())
        parts["energy_std"].append(said.energy_std.numpy())
        parts["force"].append((said.mean.forces - labels.forces).norm(dim=1).numpy())
        parts["length"].append(said.mean.forces.norm(dim=1).numpy())
        parts["force_std"].append(said.forces_std.numpy())
        energies = [m.predict(structures, level=level, forces=False).energy.numpy() for m in models]
        parts["members"].append(np.stack(energies, axis=1))
    found = {name: np.concatenate(values) for name, values in parts.items()}
    owner = np.unique(data.molecule[rows], return_inverse=True)[1]
    relative, members = within(found["energy"][:, None], owner)[:, 0], within(found["members"], owner)
    return {
        "force (eV/A)": calibrate(found["force_std"], found["force"]),
        "force by its length (eV/A)": calibrate(found["length"], found["force"]),
        "total energy (eV)": calibrate(found["energy_std"], found["energy"]),
        "relative energy (eV)": calibrate(members.std(axis=1, ddof=1), relative),
    }


def within(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Values ``[n, m]`` less the mean of their molecule."""
    sums = np.zeros((owner.max() + 1, values.shape[1]))
    np.add.at(sums, owner, values)
    return values - (sums / np.bincount(owner)[:, None])[owner]


def write(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the lines of this name in a table."""
    kept = []
    if path.exists():
        with path.open() as file:
            kept = [row for row in csv.DictReader(file) if row["name"] != name]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--name", required=True, help="Of this ensemble in the tables.")
    parser.add_argument("--store", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--level", default=None, help="By default the level of the store.")
    parser.add_argument("-n", type=int, default=2000, help="About so many structures.")
    arguments = parser.parse_args()
    models = [load_model(path) for path in arguments.checkpoints]
    data = Store(arguments.store).read(Split.VALIDATION)
    rows = sample_molecules(data, arguments.n)
    found = measure(models, data, rows, arguments.level or data.level)
    head = {"name": arguments.name, "store": arguments.store.stem, "members": len(models)}
    summary, bins = [], []
    for quantity, calibration in found.items():
        figures = {"spearman": calibration.spearman, "error_rms_over_std_rms": calibration.scale}
        entry = head | {"quantity": quantity}
        count = sum(b.n for b in calibration.bins)
        summary.append(entry | {"n": count} | {k: f"{v:.3f}" for k, v in figures.items()})
        for k, part in enumerate(calibration.bins):
            values = {key: v if isinstance(v, int) else f"{v:.5f}" for key, v in asdict(part).items()}
            bins.append(entry | {"bin": k} | values)
        print(summary[-1], flush=True)
    write(RESULTS / "uncertainty.csv", arguments.name, summary)
    write(RESULTS / "uncertainty_bins.csv", arguments.name, bins)


if __name__ == "__main__":
    main()
