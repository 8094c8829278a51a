"""Errors of a checkpoint on the validation sides of all data stores, as JSON.

    python benchmarks/accuracy/run.py --data datasets [--checkpoint checkpoints/base]

The stores are made by ``consistent-calc import``. Where a store is missing its part is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from consistent_calc.checkpoint import load_model
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.model import ConsistentModel
from consistent_calc.train.evaluation import evaluate_energy
from consistent_calc.units import KCAL_PER_MOL


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
        "by_charge": {
            f"{q:+d}": float(np.nanmean(errors.forces[(data.charge[errors.molecule] == q)[errors.owner]]))
            for q in np.unique(data.charge)
        },
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "validation.json")
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
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
