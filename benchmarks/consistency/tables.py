"""Tables and plots from the results of all runs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from design import FORCES, OBJECTIVES
from evaluate import summarize
from page import write_page
from plots import write_plots
from scipy import stats
from testset import Array

BASELINE = "multitask"

COLUMNS = (
    "variant",
    "forces",
    "test_set",
    "mode",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "seeds",
    "p_value",
    "p_molecules",
)


@dataclass(frozen=True, eq=False)
class Cell:
    """Results of one variant in one force setting.

    Attributes:
        variant, forces: as in the design; fine-tuned variants have a name of their own.
        metrics: name -> ``[n_seeds, n_molecules]``.
        seeds: seeds of the rows.
    """

    variant: str
    forces: str
    metrics: dict[str, Array]
    seeds: list[int]


def read_cells(runs: Path, file: str = "test.npz") -> list[Cell]:
    """All cells that have results."""
    cells = []
    names = [(v, f, suffix) for suffix in ("", "_finetuned") for f in FORCES for v in (*OBJECTIVES, "labelled")]
    for variant, forces, suffix in names:
        found = {}
        for path in sorted(runs.glob(f"{variant}_{forces}_*{suffix}/{file}")):
            seed = path.parent.name.removesuffix(suffix).rsplit("_", 1)[1]
            if seed.isdigit():
                found[int(seed)] = dict(np.load(path))
        if found:
            rows = [summarize(a) for a in found.values()]
            metrics = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
            name = variant + (", fine-tuned" if suffix else "")
            cells.append(Cell(name, forces, metrics, list(found)))
    return cells


def compare(cell: Cell, other: Cell, metric: str) -> tuple[float, float, float, float, float]:
    """Difference ``cell - other`` with the seeds and molecules they share.

    Returns:
        Mean difference, its 95% interval over seeds, the p-value of the paired t-test over seeds (NaN for one seed),
        and that over molecules (of the differences averaged over seeds; it takes the seeds as given).
    """
    shared = [s for s in cell.seeds if s in other.seeds]
    a = cell.metrics[metric][[cell.seeds.index(s) for s in shared]]
    b = other.metrics[metric][[other.seeds.index(s) for s in shared]]
    difference = a - b
    per_seed = np.nanmean(difference, axis=1)
    mean, low, high = interval(per_seed)
    p_seeds = float(stats.ttest_1samp(per_seed, 0).pvalue) if len(shared) > 1 else float("nan")
    per_molecule = difference.mean(0)
    per_molecule = per_molecule[np.isfinite(per_molecule)]
    p_molecules = float(stats.ttest_1samp(per_molecule, 0).pvalue) if np.ptp(per_molecule) > 0 else float("nan")
    return mean, low, high, p_seeds, p_molecules


def interval(values: Array) -> tuple[float, float, float]:
    """Mean and 95% t-interval; NaN limits for one value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def split_name(key: str) -> tuple[str, str, str]:
    """(test_set, mode, metric) of the name of a metric."""
    parts = key.split("/")
    if len(parts) == 3:
        return parts[1], parts[0], parts[2]
    return ("accurate", parts[0], parts[1]) if len(parts) == 2 else ("-", "-", key)


def write_tables(runs: Path, results: Path) -> None:
    """``summary.csv``, ``comparisons.csv``, ``controls.csv``, the plots and the page."""
    results.mkdir(exist_ok=True)
    cells = read_cells(runs)
    with (results / "summary.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for cell in cells:
            base = _find(cells, cell.variant.replace(cell.variant.split(",")[0], BASELINE), cell.forces)
            for key, values in cell.metrics.items():
                limits = interval(np.nanmean(values, axis=1))
                p = ("", "")
                if base is not None and base is not cell:
                    p = tuple(f"{x:.2g}" for x in compare(cell, base, key)[3:])
                numbers = [f"{x:.5g}" for x in limits]
                table.writerow((cell.variant, cell.forces, *split_name(key), *numbers, len(cell.seeds), *p))
    _write_comparisons(cells, results / "comparisons.csv")
    _write_controls(runs, results / "controls.csv")
    write_plots(cells, results)
    write_page(cells, read_cells(runs, "controls.npz"), compare, interval, results / "README.md")


def _write_comparisons(cells: list[Cell], path: Path) -> None:
    """Every variant against the baseline of its force setting, and every force setting against none."""
    pairs = [(c, _find(cells, BASELINE, c.forces)) for c in cells]
    pairs += [(c, _find(cells, c.variant, "none")) for c in cells if c.forces != "none"]
    tuned = f"{BASELINE}, fine-tuned"
    pairs += [(c, _find(cells, tuned, c.forces)) for c in cells if c.variant.endswith("tuned")]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            (
                "a",
                "b",
                "test_set",
                "mode",
                "metric",
                "a_minus_b",
                "ci_low",
                "ci_high",
                "seeds",
                "p_value",
                "p_molecules",
            )
        )
        for a, b in pairs:
            if b is None or a is b:
                continue
            shared = len(set(a.seeds) & set(b.seeds))
            for key in a.metrics:
                numbers = [f"{x:.4g}" for x in compare(a, b, key)]
                names = (f"{a.variant} | {a.forces}", f"{b.variant} | {b.forces}")
                table.writerow((*names, *split_name(key), *numbers[:3], shared, *numbers[3:]))


def _write_controls(runs: Path, path: Path) -> None:
    """Descent from PM6 geometries and relaxation of the baseline's predictions, by force setting."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("variant", "forces", "structure", "test_set", "metric", "mean", "ci_low", "ci_high", "seeds"))
        for cell in read_cells(runs, "controls.npz"):
            for key, values in cell.metrics.items():
                test_set, mode, metric = split_name(key)
                numbers = [f"{x:.5g}" for x in interval(np.nanmean(values, axis=1))]
                table.writerow((cell.variant, cell.forces, mode, test_set, metric, *numbers, len(cell.seeds)))


def _find(cells: list[Cell], variant: str, forces: str) -> Cell | None:
    return next((c for c in cells if (c.variant, c.forces) == (variant, forces)), None)
