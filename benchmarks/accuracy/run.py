"""Errors of a checkpoint on the validation sides of all data stores: in all, per kind, element and charge.

    python benchmarks/accuracy/run.py --data datasets [--checkpoint base]

The stores are made by ``consistent-calc import``. Where a store is missing its part is left out. ``validation.json``
has all figures; those per element and total charge are also in ``breakdown.csv`` and, for ``organic``, in its picture.
The labels of ``organic`` and ``tiny`` are the teacher's (see ``judges.py``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from judges import COLORS, mean
from numpy.typing import NDArray
from summary import update_summary, write_csv

from consistent_calc.checkpoint import DEFAULT, load_model
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.model import ConsistentModel
from consistent_calc.train.evaluation import EnergyErrors, evaluate_energy
from consistent_calc.units import KCAL_PER_MOL

mpl.use("Agg")
import matplotlib.pyplot as plt


def labelled(model: ConsistentModel, path: Path) -> dict[str, Any]:
    """Errors against energies, forces and charges, in all and per kind and element."""
    data = Store(path).read(Split.VALIDATION)
    errors = evaluate_energy(model, data)
    return {
        "level": data.level,
        "all": errors.summary() | {"n": len(errors.energy)},
        "label_force_rms_eV_A": float(np.sqrt(np.mean(data.forces.astype(float) ** 2))),
        "by_kind": errors.by_kind(dict(data.kinds)),
        "by_element": errors.by_element(),
        "by_charge": by_charge(errors, data.charge[errors.molecule]),
    }


def by_charge(errors: EnergyErrors, charge: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Errors of the molecules of each total charge; ``charge`` is that of every conformation, ``[n]``."""
    out = {}
    for q in np.unique(charge):
        chosen = charge == q
        atoms = chosen[errors.owner]
        out[f"{q:+d}"] = {
            "force_mae_eV_A": mean(errors.forces[atoms])[0],
            "relative_energy_mae_kcal_mol": errors.relative_energy_mae(chosen),
            "charge_mae_e": mean(errors.charges[atoms])[0],
            "n": int(chosen.sum()),
        }
    return out


def stationary_points(model: ConsistentModel, path: Path) -> dict[str, Any]:
    """Forces where they should vanish, and barriers, of reactions the model was never trained on.

    The default level stands in for the level of the geometries (wB97X-D3/def2-TZVP), and barriers are compared with
    CCSD(T)-F12, so a part of the differences is between the levels.
    """
    data = Store(path).read(Split.VALIDATION)
    errors = evaluate_energy(model, data, level=model.levels[0])
    names = dict(data.kinds)
    out: dict[str, Any] = {
        names[kind]: {
            "force_rms_eV_A_mean": float(errors.force_rms[errors.kind == kind].mean()),
            "force_rms_eV_A_median": float(np.median(errors.force_rms[errors.kind == kind])),
            "n": int((errors.kind == kind).sum()),
        }
        for kind in np.unique(errors.kind)
    }
    return out | {"barriers": barriers(model, data)}


def barriers(model: ConsistentModel, data: Any) -> dict[str, float]:
    """Energy of the transition state above the reactant against the reference barrier, kcal/mol."""
    names = {name: kind for kind, name in data.kinds.items()}
    energy = np.empty(len(data))
    for start in range(0, len(data), 64):
        rows = np.arange(start, min(start + 64, len(data)))
        energy[rows] = model.predict(data.batch(rows)[0], forces=False).energy.cpu().numpy()
    reactant = np.flatnonzero(data.kind == next(k for n, k in names.items() if "reactant" in n))
    state = np.flatnonzero(data.kind == next(k for n, k in names.items() if "transition" in n or n == "ts"))
    reference = data.barrier[data.molecule[reactant]]
    error = (energy[state] - energy[reactant] - reference) / KCAL_PER_MOL
    return {
        "mae_kcal_mol": float(np.abs(error).mean()),
        "mean_error_kcal_mol": float(error.mean()),
        "mean_barrier_kcal_mol": float(reference.mean() / KCAL_PER_MOL),
        "n": len(error),
    }


def breakdown(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a data set and element (``n``: atoms) or total charge (``n``: structures)."""
    columns = ("force_mae_eV_A", "relative_energy_mae_kcal_mol", "charge_mae_e", "n")
    return [
        {"data": data, "group": group, "value": value} | {c: figures.get(c, float("nan")) for c in columns}
        for data, found in results.items()
        for group in ("element", "charge")
        for value, figures in found.get(f"by_{group}", {}).items()
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Force errors per element and charge."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained", width_ratios=(3, 1))
    for axis, group in zip(axes, ("element", "charge"), strict=True):
        own = [r for r in rows if r["group"] == group]
        bars = axis.bar([r["value"] for r in own], [r["force_mae_eV_A"] for r in own], color=COLORS["ours"])
        axis.bar_label(bars, [f"{r['n']:,}" for r in own], fontsize=7, color="#6b7280")
        axis.set_xlabel({"element": "element (numbers: atoms)", "charge": "total charge (structures)"}[group])
    axes[0].set_ylabel("force MAE (eV/Å)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--checkpoint", default=DEFAULT, help="path, or name of a shipped one")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint)
    results: dict[str, Any] = {}
    for name, measure in {
        "organic": labelled,
        "tiny": labelled,
        "qm9": labelled,
        "small_mols": labelled,
        "rdb7": stationary_points,
    }.items():
        path = arguments.data / f"{name}.h5"
        if not path.exists():
            print(f"{path} is missing; left out")
            continue
        results[name] = measure(model, path)
        print(name, json.dumps(results[name].get("all", results[name]), indent=1), flush=True)
    rows = breakdown(results)
    write_csv(arguments.results / "breakdown.csv", rows)
    (arguments.results / "validation.json").write_text(json.dumps(results, indent=2) + "\n")
    organic = [r for r in rows if r["data"] == "organic"]
    lines = [("ours", f"force MAE, {r['group']} {r['value']} (eV/A)", r["force_mae_eV_A"], r["n"]) for r in organic]
    update_summary(arguments.results, "validation", lines)
    draw(organic, arguments.results / "breakdown.png")


if __name__ == "__main__":
    main()
