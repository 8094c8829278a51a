"""Tables, plots and page of the conformer benchmark, from the records of ``run.py``."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from methods import METHODS
from numpy.typing import NDArray
from scipy import stats

mpl.use("Agg")
import matplotlib.pyplot as plt

Array = NDArray[np.float64]
Row = dict[str, Any]

#: Conformers that a rank correlation needs.
MIN_RANKED = 4
RESAMPLES = 2000
#: Differences of these methods to "seeds" are tested molecule by molecule.
REFERENCE = "seeds"


def _mean_of(key: str) -> Callable[[Row], float]:
    return lambda row: float(np.mean(row[key])) if row.get(key) else np.nan


def _rmsd(pick: Callable[[list[float]], float]) -> Callable[[Row], float]:
    return lambda row: pick(row["rmsd"]) if row.get("rmsd") else np.nan


def _number(*keys: str) -> Callable[[Row], float]:
    def get(row: Row) -> float:
        value: Any = row
        for key in keys:
            value = None if value is None else value.get(key)
        return np.nan if value is None else float(value)

    return get


def _ranks(row: Row) -> float:
    pairs = np.array(row.get("ranked") or np.zeros((0, 2)))
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic) if len(pairs) >= MIN_RANKED else np.nan


def _within(key: str) -> Callable[[Row], float]:
    """Whether the best is within 1 kcal/mol of the pooled best; a failure is not, where others have a result."""

    def get(row: Row) -> float:
        if not row["pooled"].get(key):
            return np.nan
        return float(row.get(key) is not None and row[key] - row["pooled"][key] <= 1.0)

    return get


def _above(key: str) -> Callable[[Row], float]:
    return lambda row: row[key] - row["pooled"][key] if row.get(key) is not None else np.nan


#: name: (value of one molecule and seed, statistic over molecules)
METRICS: dict[str, tuple[Callable[[Row], float], Callable[..., Any]]] = {
    "failure_share": (lambda row: float(row["failure"] is not None), np.nanmean),
    "stereo_exact_raw": (_mean_of("stereo_raw"), np.nanmean),
    "stereo_exact_final": (_mean_of("stereo_final"), np.nanmean),
    "rmsd_first_A_median": (_rmsd(lambda values: values[0]), np.nanmedian),
    "rmsd_first_A_mean": (_rmsd(lambda values: values[0]), np.nanmean),
    "rmsd_best_of_10_A_median": (_rmsd(min), np.nanmedian),
    "rmsd_best_of_10_A_mean": (_rmsd(min), np.nanmean),
    "raw_strain_gfn2_kcal_mol_median": (_number("strain"), np.nanmedian),
    "final_strain_gfn2_kcal_mol_median": (_number("strain_final"), np.nanmedian),
    "above_best_gfn2_kcal_mol_mean": (_above("gfn2_best"), np.nanmean),
    "within_1_kcal_mol_gfn2": (_within("gfn2_best"), np.nanmean),
    "above_best_gfn2_at_own_minima_kcal_mol_mean": (_above("gfn2_at_own_best"), np.nanmean),
    "above_best_own_kcal_mol_mean": (_above("own_best"), np.nanmean),
    "within_1_kcal_mol_own": (_within("own_best"), np.nanmean),
    "rank_correlation_with_gfn2_mean": (_ranks, np.nanmean),
    "shift_bonds_A": (_number("shifts", "bonds_A"), np.nanmean),
    "shift_angles_deg": (_number("shifts", "angles_deg"), np.nanmean),
    "shift_torsions_deg": (_number("shifts", "torsions_deg"), np.nanmean),
    "valid_raw": (_number("valid_raw"), np.nanmean),
    "valid_final": (_number("valid_final"), np.nanmean),
    # Of the ten samples asked for; alike ones are made or relaxed once by some methods, so it is not told a sample.
    "seconds_per_molecule": (lambda row: row["seconds"] if row["failure"] is None else np.nan, np.nanmean),
}


def read_records(log: Path) -> list[Row]:
    """One record a molecule and seed; methods of later lines are added to those of earlier ones, or replace them."""
    records: dict[str, Row] = {}
    for line in log.read_text().splitlines():
        record = json.loads(line)
        methods = records.get(record["key"], {}).get("methods", {}) | record.get("methods", {})
        records[record["key"]] = record | ({"methods": methods} if methods else {})
    return list(records.values())


def read_rows(log: Path) -> dict[str, dict[str, dict[str, list[Row]]]]:
    """``rows[set][method][molecule]``: one row a seed, with the pooled best of all methods and seeds.

    Molecules and seeds that the generator has not been run for are left out, so that all methods are told of the same.
    """
    records = [r for r in read_records(log) if REFERENCE in r.get("methods", {})]
    pooled: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records:
        best = pooled[f"{record['set']} {record['name']}"]
        for row in record.get("methods", {}).values():
            for key in ("gfn2_best", "own_best", "gfn2_at_own_best"):
                if row.get(key) is not None:
                    best[key] = min(best.get(key, np.inf), row[key])
    out: dict[str, dict[str, dict[str, list[Row]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for record in records:
        for method, row in record.get("methods", {}).items():
            row["pooled"] = pooled[f"{record['set']} {record['name']}"]
            out[record["set"]][method][record["name"]].append(row)
    return out


def per_molecule(rows: dict[str, list[Row]], metric: str) -> dict[str, float]:
    """Each molecule's value, averaged over its seeds; molecules without a value are left out."""
    get, _ = METRICS[metric]
    out = {}
    for name, seeds in rows.items():
        values = [x for x in map(get, seeds) if np.isfinite(x)]
        if values:
            out[name] = float(np.mean(values))
    return out


def bootstrap(values: Array, statistic: Callable[..., Any]) -> tuple[float, float, float]:
    """Value and 95% percentile interval over resampled molecules."""
    rng = np.random.default_rng(0)
    samples = statistic(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(statistic(values)), float(low), float(high)


def write_tables(log: Path, results: Path) -> None:
    """``summary.csv``, ``comparisons.csv`` (paired differences to the method seeds), plots and page."""
    results.mkdir(exist_ok=True)
    rows = read_rows(log)
    summary: dict[tuple[str, str, str], tuple[float, float, float, int]] = {}
    differences = []
    for name, methods in rows.items():
        for metric, (_, statistic) in METRICS.items():
            values = {m: per_molecule(methods[m], metric) for m in METHODS if m in methods}
            for method, found in values.items():
                if not found:
                    continue
                summary[name, method, metric] = (*bootstrap(np.array(list(found.values())), statistic), len(found))
                shared = [k for k in found if k in values[REFERENCE]]
                if method != REFERENCE and shared:
                    pairs = np.array([found[k] - values[REFERENCE][k] for k in shared])
                    differences.append((name, method, metric, *bootstrap(pairs, np.nanmean), len(shared)))
    header = ("set", "method", "metric", "value", "ci_low", "ci_high", "n")
    _write(results / "summary.csv", header, [(*key, *value) for key, value in summary.items()])
    _write(results / "comparisons.csv", header, differences)
    _plot(summary, results)
    _page(summary, rows, results / "README.md")


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows([f"{x:.5g}" if isinstance(x, float) else x for x in row] for row in rows)


PLOTTED = {
    "rmsd_best_of_10_A_mean": "RMSD to DFT, best of 10 (Å)",
    "raw_strain_gfn2_kcal_mol_median": "raw strain, GFN2 (kcal/mol)",
    "within_1_kcal_mol_gfn2": "within 1 kcal/mol of the best, GFN2",
    "within_1_kcal_mol_own": "within 1 kcal/mol of the best, own level",
    "seconds_per_molecule": "seconds a molecule (ten samples)",
}


def _plot(summary: dict[Any, Any], results: Path) -> None:
    for name in sorted({key[0] for key in summary}):
        shown = [m for m in PLOTTED if any(key[0] == name and key[2] == m for key in summary)]
        figure, axes = plt.subplots(1, len(shown), figsize=(3.1 * len(shown), 3.2), sharey=True, squeeze=False)
        for axis, metric in zip(axes[0], shown, strict=True):
            for k, method in enumerate(reversed(METHODS)):
                if (name, method, metric) not in summary:
                    continue
                value, low, high, _ = summary[name, method, metric]
                color = "tab:blue" if method in ("seeds", "noise") else "silver"
                axis.barh(k, value, color=color, xerr=[[value - low], [high - value]], ecolor="dimgray")
            axis.set_yticks(range(len(METHODS)), list(reversed(METHODS)))
            axis.set_title(PLOTTED[metric], fontsize=9)
            if metric == "seconds_per_molecule":
                axis.set_xscale("log")
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(results / f"{name}.png", dpi=130)
        plt.close(figure)


def _page(summary: dict[Any, Any], rows: Any, path: Path) -> None:
    lines = [
        "# Conformers: results",
        "",
        "Written by `benchmarks/conformers/run.py`; do not edit. The methods are told in `methods.py`. Values with 95%",
        "bootstrap intervals over molecules; `summary.csv` holds them all, `comparisons.csv` the paired differences to",
        "`seeds`. The pooled best of a molecule is the lowest of all methods and seeds; for GFN2 the best conformer of",
        "each method was relaxed with GFN2-xTB, for the own level with the model.",
    ]
    for name in sorted(rows):
        methods = [m for m in METHODS if m in rows[name]]
        seeds = max(len(s) for s in rows[name][REFERENCE].values())
        lines += ["", f"## {name}: {len(rows[name][REFERENCE])} molecules, {seeds} seed(s)", ""]
        lines += [f"| metric | {' | '.join(methods)} | n |", "|---|" + "---|" * (len(methods) + 1)]
        for metric in METRICS:
            cells, most = [], 0
            for method in methods:
                if (name, method, metric) not in summary:
                    cells.append("")
                    continue
                value, low, high, n = summary[name, method, metric]
                most = max(most, n)
                cells.append(f"{value:.3g} ({low:.3g} to {high:.3g})")
            if any(cells):
                lines.append(f"| {metric} | {' | '.join(cells)} | {most} |")
        lines += ["", f"![{name}]({name}.png)"]
        reasons = defaultdict(int)
        for method in methods:
            for seeds_of_one in rows[name][method].values():
                for row in seeds_of_one:
                    if row["failure"]:
                        reasons[method, row["failure"]] += 1
        if reasons:
            listed = ", ".join(f"{method} {reason} {n}" for (method, reason), n in sorted(reasons.items()))
            lines += ["", f"Failures: {listed}."]
    path.write_text("\n".join(lines) + "\n")
