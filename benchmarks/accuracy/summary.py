"""Tables of the accuracy benchmarks: each test's own CSV, and its lines in the common ``summary.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = ("test", "method", "metric", "value", "n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same columns; floats with five significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def update_summary(results: Path, test: str, lines: Sequence[tuple[str, str, float, int]]) -> None:
    """Replaces the lines of one test in ``summary.csv`` and prints them.

    Args:
        results: folder of ``summary.csv``.
        test: what the lines belong to.
        lines: method, metric, value, and number of items behind the value.
    """
    path = results / "summary.csv"
    kept = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["test"] != test]
    new = [dict(zip(HEADER, (test, *line), strict=True)) for line in lines]
    write_csv(path, sorted([*kept, *new], key=lambda row: row["test"]))
    for row in new:
        print(f"{row['test']:<12} {row['method']:<10} {row['metric']:<48} {row['value']:.4g}  (n = {row['n']})")
