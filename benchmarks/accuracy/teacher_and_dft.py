"""What the teacher is worth: its forces and relative energies, ours and GFN2-xTB's, against true DFT.

    python benchmarks/accuracy/teacher_and_dft.py --dft datasets/dft.h5 --ensemble aimnet2_wb97m_ens_f.jpt

The DFT labels, wB97X-D3BJ/def2-SVP, are those of ``benchmarks/data/dft_structures.py``: small molecules at and away
from their minima. The teacher was fitted to a related functional in a larger basis, so a part of the differences is not
an error; ours was trained on most of these structures, with the teacher's labels. Relative energies are within
molecules, the mean difference of each taken off. Lines of ``results/summary.csv``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import judges
import numpy as np
from summary import update_summary

from consistent_calc.data import Split, Store
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.aimnet2 import AimNet2
from consistent_calc.units import KCAL_PER_MOL


def main() -> None:
    parser = judges.arguments(__doc__)
    parser.add_argument("--dft", type=Path, default=Path("datasets/dft.h5"))
    parser.add_argument("--ensemble", type=Path, default=Path("datasets/aimnet2/aimnet2_wb97m_ens_f.jpt"))
    options = parser.parse_args()
    found = judges.load(options)
    engines = {
        "teacher": found.teacher,
        "teacher, mean of four": AimNet2("wB97M-D3/def2-TZVPP", options.ensemble),
        "GFN2-xTB": found.gfn2,
    }
    data = Store(options.dft).read(Split.TRAIN, Split.VALIDATION)
    assert data.energy is not None
    assert data.forces is not None
    forces, energies = defaultdict(list), {name: np.full(len(data), np.nan) for name in (*engines, "ours")}
    for k in range(len(data)):
        batch, label = data.batch([k])[0], data.forces[data.row_offset[k] : data.row_offset[k + 1]]
        x, charge = batch.positions.double().numpy(), round(float(batch.charge))
        try:
            said = {name: engine.single_point(batch.numbers.numpy(), x, charge) for name, engine in engines.items()}
        except LabellingError as error:  # a structure is for all or for none
            print(f"structure {k}: {error}", flush=True)
            continue
        ours = found.model.predict(batch)
        assert ours.forces is not None
        energies["ours"][k] = float(ours.energy)
        forces["ours"].append(np.abs(ours.forces.numpy() - label).ravel())
        for name, of_engine in said.items():
            energies[name][k] = of_engine.energy
            forces[name].append(np.abs(of_engine.forces - label).ravel())
    lines = []
    for name, column in energies.items():
        relative, n = judges.relative_energy_mae(column, data.energy, data.molecule)
        lines += [
            (name, "force MAE (eV/A)", float(np.concatenate(forces[name]).mean()), len(forces[name])),
            (name, "relative energy MAE (kcal/mol)", relative / KCAL_PER_MOL, n),
        ]
    update_summary(options.results, "DFT", lines)


if __name__ == "__main__":
    main()
