"""Plots of the consistency experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from design import VARIANTS

COLORS = dict(zip(VARIANTS, ("#6b7280", "#2563eb", "#d97706", "#059669"), strict=True))
LABELS = {"none": "no forces", "external": "external forces", "same_level": "same-level forces", "dft": "DFT forces"}
PANELS = (
    ("rmsd_A_mean", "heavy-atom RMSD (A)"),
    ("bond_mae_A", "bond lengths, MAE (A)"),
    ("angle_mae_deg", "angles, MAE (degrees)"),
)


def write_plots(cells: list[Any], results: Path) -> None:
    """One figure a test mode, and one of the energies."""
    for mode in ("denoising", "many_step", "refined"):
        keys = [(f"{mode}/accurate/{k}", label) for k, label in PANELS]
        keys.append((f"{mode}/gap_oracle_meV_per_atom", "energy above the minimum (meV/atom, oracle)"))
        keys.append((f"{mode}/shift_to_accurate", "bond lengths: 0 = PM6, 1 = accurate"))
        _panels(cells, keys, results / f"{mode}.png")
    keys = [
        ("energy_pm6_mae_meV_per_atom", "energy MAE at PM6 geometries (meV/atom)"),
        ("energy_minimum_mae_meV_per_atom", "energy MAE at accurate minima (meV/atom)"),
    ]
    _panels(cells, keys, results / "energy.png")


def _panels(cells: list[Any], keys: list[tuple[str, str]], path: Path) -> None:
    """Every seed as a point, their mean as a bar."""
    settings = [f for f in LABELS if any(c.forces == f for c in cells)]
    figure, axes = plt.subplots(1, len(keys), figsize=(3.4 * len(keys), 3.6), layout="constrained", squeeze=False)
    for axis, (key, label) in zip(axes[0], keys, strict=True):
        for cell in cells:
            if cell.variant not in COLORS or key not in cell.metrics:
                continue
            x = settings.index(cell.forces) + 0.2 * (VARIANTS.index(cell.variant) - 1.5)
            values = np.nanmean(cell.metrics[key], axis=1)
            axis.bar(x, values.mean(), 0.18, color=COLORS[cell.variant], alpha=0.55, label=cell.variant)
            axis.plot(np.full(len(values), x), values, ".", color="black", markersize=4)
        axis.set_xticks(range(len(settings)), [LABELS[f] for f in settings], fontsize=8)
        axis.set_title(label, fontsize=9)
        low = min((np.nanmean(c.metrics[key], axis=1).min() for c in cells if key in c.metrics), default=0)
        high = max((np.nanmean(c.metrics[key], axis=1).max() for c in cells if key in c.metrics), default=1)
        if low > 0:  # differences are small against the values
            axis.set_ylim(max(0, low - 1.5 * (high - low)), high + 0.15 * (high - low))
        axis.spines[["top", "right"]].set_visible(False)
    handles = {h.get_label(): h for h in axes[0][0].patches if h.get_label()}
    for container in axes[0][0].containers:
        handles.setdefault(container.get_label(), container)
    figure.legend(
        [handles[v] for v in VARIANTS if v in handles],
        [v for v in VARIANTS if v in handles],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
