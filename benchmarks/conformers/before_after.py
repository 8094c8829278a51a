"""Two checkpoints on the same molecules: paired differences of the conformer benchmark.

python benchmarks/conformers/run.py --checkpoint OLD --runs runs/conformers_before --results /tmp/before
python benchmarks/conformers/before_after.py runs/conformers_before runs/conformers
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from tables import METRICS, bootstrap, per_molecule, read_rows

#: Methods that depend on the checkpoint.
OURS = ("etkdg_ours", "mmff_ours", "seeds", "noise")
HEADER = ("set", "method", "metric", "before", "after", "difference", "ci_low", "ci_high", "n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of run.py")
    parser.add_argument("after", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "before_after.csv")
    arguments = parser.parse_args()
    # The best energies of the two runs are not comparable: each has a surface of its own.
    metrics = [m for m in METRICS if "own" not in m]
    before, after = (read_rows(folder / "records.jsonl") for folder in (arguments.before, arguments.after))
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for name in sorted(set(before) & set(after)):
            for method in OURS:
                for metric in metrics:
                    old, new = per_molecule(before[name][method], metric), per_molecule(after[name][method], metric)
                    shared = sorted(set(old) & set(new))
                    if not shared:
                        continue
                    a, b = np.array([old[k] for k in shared]), np.array([new[k] for k in shared])
                    statistic = METRICS[metric][1]
                    numbers = statistic(a), statistic(b), *bootstrap(b - a, np.mean)
                    table.writerow((name, method, metric, *(f"{x:.4g}" for x in numbers), len(shared)))


if __name__ == "__main__":
    main()
