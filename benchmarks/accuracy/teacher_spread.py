"""How far the four networks of the teacher agree: what its labels are worth to a student of one of them.

    python benchmarks/accuracy/teacher_spread.py --ensemble aimnet2_wb97m_ens_f.jpt --data datasets/organic.h5

Validation structures with labels of the first network, which ours was trained on, are labelled with the mean of all
four. Relative energies are within molecules, each molecule's mean error taken off. Lines of ``results/summary.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from judges import relative_energy_mae
from summary import update_summary

from consistent_calc import load_model
from consistent_calc.data import Split, Store
from consistent_calc.train.evaluation import sample_molecules
from consistent_calc.units import KCAL_PER_MOL

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ensemble", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--checkpoint", default=None, help="by default the shipped one")
    parser.add_argument("--limit", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ensemble = torch.jit.load(str(options.ensemble)).double()
    model = load_model(options.checkpoint)
    data = Store(options.data).read(Split.VALIDATION)
    assert data.energy is not None
    assert data.forces is not None
    chosen = sample_molecules(data, options.limit)
    energies, forces, spread = {"mean": [], "ours": []}, {"one": [], "ours": []}, []
    for k in chosen:
        batch = data.batch([k])[0]
        with torch.jit.optimized_execution(False):
            mean = ensemble(
                {
                    "coord": batch.positions.double()[None].requires_grad_(),
                    "numbers": batch.numbers[None],
                    "charge": batch.charge.double(),
                }
            )
        found = model.predict(batch)
        assert found.forces is not None
        label = data.forces[data.row_offset[k] : data.row_offset[k + 1]]
        energies["mean"].append(float(mean["energy"].detach()))
        energies["ours"].append(float(found.energy))
        for name, force in (("one", label), ("ours", found.forces.numpy())):
            forces[name].append(np.abs(force - mean["forces"][0].numpy()).ravel())
        spread.append(float(mean["forces_std"].max()))
    lines = []
    reference = np.array(energies["mean"])
    for label, said, force in (
        ("one network", data.energy[chosen], forces["one"]),
        ("ours", np.array(energies["ours"]), forces["ours"]),
    ):
        relative, n = relative_energy_mae(said, reference, data.molecule[chosen])
        lines.append((label, "force MAE against the mean of four (eV/A)", float(np.concatenate(force).mean()), n))
        lines.append((label, "relative energy MAE against the mean of four (kcal/mol)", relative / KCAL_PER_MOL, n))
    for share in (50, 95, 99):
        name = f"largest standard deviation of a force, {share}% below (eV/A)"
        lines.append(("teacher", name, float(np.percentile(spread, share)), len(chosen)))
    update_summary(RESULTS, "teacher", lines)


if __name__ == "__main__":
    main()
