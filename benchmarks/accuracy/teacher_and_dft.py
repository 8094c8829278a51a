"""What the teacher is worth, and what fine-tuning on DFT adds: errors against true DFT.

    python benchmarks/accuracy/teacher_and_dft.py --ensemble aimnet2_wb97m_ens_f.jpt [--dft datasets/dft.h5]

The DFT labels are those of ``benchmarks/data/dft_structures.py``, small molecules at and away from their minima. They
lie in ``benchmarks/data/labels``: 164 of wB97M-D3BJ/def2-TZVPP took an hour of a core, 1,000 of wB97X-D3BJ/def2-SVP two
and a half. Structures of which one of the methods says nothing, as the teacher's networks disagree, are left out.
Against wB97M-D3BJ/def2-TZVPP, to which the teacher was fitted, its differences are errors; against wB97X-D3BJ/def2-SVP
most of them are those of the basis. Ours was trained on most of these structures, with the teacher's labels. It is also
fine-tuned on the DFT labels of four fifths of the molecules and compared on the others. Relative energies are within
molecules, the mean difference of each taken off. Lines of ``results/summary.csv``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import judges
import numpy as np
import torch
from numpy.typing import NDArray
from summary import update_summary

from consistent_calc import ConsistentModel, StructureBatch, load_model
from consistent_calc.data import Dataset, Split, Store
from consistent_calc.data.replay_molecules import replay_molecules
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.aimnet2 import AimNet2
from consistent_calc.labelling.engine import Engine
from consistent_calc.train.finetune import FineTuning, fine_tune_model, hold_out
from consistent_calc.units import KCAL_PER_MOL

Array = NDArray[np.float64]

LABELS = Path(__file__).parents[1] / "data" / "labels" / "dft_wb97m_tzvpp.h5"

#: Energy in eV and forces ``[n_atoms, 3]`` in eV/Angstrom of one structure.
Point = Callable[[StructureBatch], tuple[float, Array]]


@dataclass
class Said:
    """What a method says of each structure.

    Attributes:
        energy: ``[n]``, eV, NaN where it says nothing.
        force_errors: by structure, absolute errors of the components, eV/Angstrom.
    """

    energy: Array
    force_errors: dict[int, Array] = field(default_factory=dict)


def ask(point: Point, data: Dataset) -> Said:
    """A method about all structures for which it works."""
    said = Said(np.full(len(data), np.nan))
    for k in range(len(data)):
        batch, labels = data.batch([k])
        assert labels.forces is not None
        try:
            said.energy[k], forces = point(batch)
        except LabellingError as error:
            print(f"structure {k}: {error}", flush=True)
            continue
        said.force_errors[k] = np.abs(forces - labels.forces.numpy()).ravel()
    return said


def of_engine(engine: Engine) -> Point:
    """Single points of an engine."""

    def point(batch: StructureBatch) -> tuple[float, Array]:
        x, charge = batch.positions.double().numpy(), round(float(batch.charge))
        found = engine.single_point(batch.numbers.numpy(), x, charge)
        return found.energy, found.forces

    return point


def of_model(model: ConsistentModel, level: str) -> Point:
    """Single points of a model."""

    def point(batch: StructureBatch) -> tuple[float, Array]:
        found = model.predict(batch, level=level)
        assert found.forces is not None
        return float(found.energy), found.forces.numpy()

    return point


def lines(methods: dict[str, Said], data: Dataset, rows: NDArray[np.int64]) -> list[tuple[str, str, float, int]]:
    """Errors on the structures ``rows`` of which all methods say something."""
    assert data.energy is not None
    rows = np.array([k for k in rows if all(k in said.force_errors for said in methods.values())])
    out = []
    for name, said in methods.items():
        forces = np.concatenate([said.force_errors[k] for k in rows])
        relative, n = judges.relative_energy_mae(said.energy[rows], data.energy[rows], data.molecule[rows])
        out += [
            (name, "force MAE (eV/A)", float(forces.mean()), len(rows)),
            (name, "relative energy MAE (kcal/mol)", relative / KCAL_PER_MOL, n),
        ]
    return out


def main() -> None:
    parser = judges.arguments(__doc__)
    parser.add_argument("--dft", type=Path, default=LABELS)
    parser.add_argument("--ensemble", type=Path, default=Path("datasets/aimnet2/aimnet2_wb97m_ens_f.jpt"))
    options = parser.parse_args()
    found = judges.load(options)
    data = Store(options.dft).read(Split.TRAIN, Split.VALIDATION)
    methods = {
        "teacher": ask(of_engine(found.teacher), data),
        "teacher, mean of four": ask(of_engine(AimNet2("wB97M-D3/def2-TZVPP", options.ensemble)), data),
        "GFN2-xTB": ask(of_engine(found.gfn2), data),
        "ours": ask(of_model(found.model, found.model.levels[0]), data),
    }
    update_summary(options.results, data.level, lines(methods, data, np.arange(len(data))))
    training, aside, how = hold_out(data, np.arange(len(data)))
    assert how == "molecules"
    start = load_model(options.checkpoint)
    tuned = fine_tune_model(start, data, training, replay_molecules(start.elements), FineTuning())
    methods["ours, fine-tuned"] = ask(of_model(tuned.to(torch.float64), data.level), data)
    update_summary(options.results, f"{data.level}, set aside", lines(methods, data, aside))


if __name__ == "__main__":
    main()
