"""Plots of the consistency experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from design import VARIANTS

#: The last is optimality on the readout that has the DFT forces; it was run with these only, where no other is third.
SHOWN = (*VARIANTS, "optimality_b3lyp")
COLORS = dict(zip(SHOWN, ("#6b7280", "#2563eb", "#d97706", "#059669", "#7c3aed"), strict=True))
PLACES = dict(zip(SHOWN, (-1.5, -0.5, 0.5, 1.5, 0.5), strict=True))
LABELS = {
    "none": "no forces",
    "external": "external forces",
    "same_level": "same-level forces",
    "few": "240 same-level",
    "dft": "235 DFT",
}
PANELS = (
    ("rmsd_A_mean", "heavy-atom RMSD (Å)"),
    ("bond_mae_A", "bond lengths, MAE (Å)"),
    ("angle_mae_deg", "angles, MAE (°)"),
)


def write_plots(cells: list[Any], results: Path) -> None:
    """One figure a test mode, and one of the energies."""
    for mode in ("denoising", "many_step", "refined"):
        keys = [(f"{mode}/accurate/{k}", label) for k, label in PANELS]
        keys.append((f"{mode}/gap_oracle_meV_per_atom", "oracle gap (meV/atom)"))
        keys.append((f"{mode}/shift_to_accurate", "shift: 0 PM6, 1 accurate"))
        _panels(cells, keys, results / f"{mode}.png")
    keys = [
        ("energy_pm6_mae_meV_per_atom", "energy MAE at PM6 geometries (meV/atom)"),
        ("energy_minimum_mae_meV_per_atom", "energy MAE at accurate minima (meV/atom)"),
    ]
    _panels(cells, keys, results / "energy.png")


def _panels(cells: list[Any], keys: list[tuple[str, str]], path: Path) -> None:
    """Every seed as a point, their mean as a line; the axes do not start at zero."""
    settings = [f for f in LABELS if any(c.forces == f for c in cells)]
    figure, axes = plt.subplots(1, len(keys), figsize=(3.0 * len(keys), 3.6), layout="constrained", squeeze=False)
    handles: dict[str, Any] = {}
    for axis, (key, label) in zip(axes[0], keys, strict=True):
        for cell in cells:
            if cell.variant not in COLORS or key not in cell.metrics:
                continue
            x = settings.index(cell.forces) + 0.2 * PLACES[cell.variant]
            values, color = np.nanmean(cell.metrics[key], axis=1), COLORS[cell.variant]
            axis.hlines(values.mean(), x - 0.09, x + 0.09, color=color, linewidth=3)
            (handles[cell.variant],) = axis.plot(np.full(len(values), x), values, "o", color=color, markersize=4)
        axis.set_xticks(range(len(settings)), [LABELS[f].replace(" ", "\n") for f in settings], fontsize=8)
        axis.set_xlim(-0.5, len(settings) - 0.5)
        axis.set_title(label, fontsize=9)
        axis.grid(axis="y", color="#e5e7eb")
        axis.spines[["top", "right"]].set_visible(False)
    names = [v for v in SHOWN if v in handles]
    figure.legend([handles[v] for v in names], names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
