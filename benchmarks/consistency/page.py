"""The page of the results: key tables and plots in Markdown, written from the same cells as the CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TITLE = """# The consistency experiment: results

Written by `benchmarks/consistency/run.py`; do not edit. What is compared and why is told in `docs/consistency.md`, all
numbers are in `summary.csv`, `comparisons.csv` (every difference with its paired tests) and `controls.csv`.

Numbers are means over seeds of the means over test molecules, with 95% t-intervals over seeds. A star: the difference
to `multitask` with the same forces has p < 0.05 in the paired t-test over seeds; two stars: p < 0.005. With three seeds
that is a strict demand; `p_molecules` in the CSV files tests over molecules instead.
"""

METRICS = {
    "rmsd_A_mean": ("accurate", "RMSD, mean (A)", 3),
    "rmsd_A_min": ("accurate", "RMSD, best (A)", 3),
    "bond_mae_A": ("accurate", "bonds (A)", 4),
    "angle_mae_deg": ("accurate", "angles (deg)", 2),
    "torsion_mae_deg": ("accurate", "torsions (deg)", 1),
    "gap_model_meV_per_atom": (None, "gap, own model (meV/atom)", 0),
    "gap_oracle_meV_per_atom": (None, "gap, oracle (meV/atom)", 1),
    "shift_to_accurate": (None, "shift (0 PM6, 1 accurate)", 2),
}
MODES = {"denoising": "One denoising step (Denoising)", "many_step": "Many steps (DDIM)", "refined": "Refined from PM6"}


def write_page(cells: list[Any], controls: list[Any], compare: Any, interval: Any, path: Path) -> None:
    """Writes the page.

    Args:
        cells, controls: results of all runs, from :func:`tables.read_cells`.
        compare, interval: the statistics of :mod:`tables`.
    """
    lines = [TITLE]
    for mode, title in MODES.items():
        for reference in ("accurate", "dft"):
            lines.append(f"## {title}, against {_name(reference)}\n")
            lines += _main_table(cells, mode, reference, compare, interval)
        lines.append(f"![{title}]({mode}.png)\n")
    lines += ["## Errors of the energy head\n", *_energy_table(cells, compare, interval), "![Energies](energy.png)\n"]
    if controls:
        lines += ["## Controls\n", *_control_table(controls, interval)]
    path.write_text("\n".join(lines))


def _name(reference: str) -> str:
    return "the wB97M-D3 (AIMNet2) minima" if reference == "accurate" else "QM9's B3LYP structures"


def _main_table(cells: list[Any], mode: str, reference: str, compare: Any, interval: Any) -> list[str]:
    columns = {
        (f"{mode}/{reference}/{key}" if own else f"{mode}/{key}"): (label, digits)
        for key, (own, label, digits) in METRICS.items()
        if own or reference == "accurate"
    }
    return _table(cells, columns, compare, interval)


def _energy_table(cells: list[Any], compare: Any, interval: Any) -> list[str]:
    columns = {
        "energy_pm6_mae_meV_per_atom": ("at PM6 geometries (meV/atom)", 1),
        "energy_minimum_mae_meV_per_atom": ("at accurate minima (meV/atom)", 1),
    }
    return _table(cells, columns, compare, interval)


def _table(cells: list[Any], columns: dict[str, tuple[str, int]], compare: Any, interval: Any) -> list[str]:
    """Rows are cells; the mean, its interval, and stars for the difference to the baseline."""
    lines = ["| forces | variant | seeds | " + " | ".join(label for label, _ in columns.values()) + " |"]
    lines.append("|---" * (3 + len(columns)) + "|")
    for cell in cells:
        tuned = ", fine-tuned" if cell.variant.endswith("fine-tuned") else ""
        base = next((c for c in cells if (c.variant, c.forces) == (f"multitask{tuned}", cell.forces)), None)
        entries = []
        for key, (_, digits) in columns.items():
            mean, low, high = interval(np.nanmean(cell.metrics[key], axis=1))
            p = compare(cell, base, key)[3] if base is not None and base is not cell else 1.0
            stars = "\\*\\*" if p < 0.005 else "\\*" if p < 0.05 else ""
            half = f" ± {(high - low) / 2:.{digits}f}" if np.isfinite(high) else ""
            entries.append(f"{mean:.{digits}f}{half}{stars}")
        lines.append(f"| {cell.forces} | {cell.variant} | {len(cell.seeds)} | " + " | ".join(entries) + " |")
    return [*lines, ""]


def _control_table(controls: list[Any], interval: Any) -> list[str]:
    """Structures before and after descent on the learned energy of the baseline."""
    lines = [
        "Structures relaxed on the energy head of `multitask` (with the number of steps), and PM6 structures after one "
        "Newton step with the labelled forces.\n"
    ]
    lines.append("| forces | structure | RMSD (A) | bonds (A) | angles (deg) | gap, oracle (meV/atom) |")
    lines.append("|---|---|---|---|---|---|")
    for cell in controls:
        for name in dict.fromkeys(k.split("/")[0] for k in cell.metrics if "/" in k):
            keys = [f"{name}/accurate/{k}" for k in ("rmsd_A_mean", "bond_mae_A", "angle_mae_deg")]
            means = [interval(np.nanmean(cell.metrics[k], axis=1))[0] for k in keys]
            gap = cell.metrics.get(f"{name}/gap_oracle_meV_per_atom")
            above = "" if gap is None else f"{interval(np.nanmean(gap, axis=1))[0]:.0f}"
            text = f"{means[0]:.3f} | {means[1]:.4f} | {means[2]:.2f} | {above}"
            lines.append(f"| {cell.forces} | {name.replace('_', ' ')} | {text} |")
    return [*lines, ""]
