"""Harmonic frequencies of 20 validation molecules of 9-20 atoms, every method at its own minimum.

    python benchmarks/accuracy/frequencies.py --data datasets/organic.h5 [--checkpoint base] [--n 20]

The teacher relaxes a slightly shaken structure of the store, the others go on from its minimum; a minimum farther than
0.3 Angstrom (RMSD) from the teacher's is another conformer, and is counted but not compared. Our Hessian is exact
(``consistent_calc.hessian``), the others are central differences of forces. The six modes of lowest magnitude,
translations and rotations, are left out; frequencies are compared in rising order, imaginary ones as negative numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from ase import Atoms
from ase.vibrations import VibrationsData
from judges import COLORS, Array, Judges, arguments, load, mean
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from summary import update_summary, write_csv

from consistent_calc import ConsistentModel, StructureBatch, relax
from consistent_calc.data.dataset import Dataset
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.errors import LabellingError
from consistent_calc.hessian import hessian
from consistent_calc.labelling.engine import Engine

mpl.use("Agg")
import matplotlib.pyplot as plt

FMAX = 1e-3
#: Displacement of the finite differences, Angstrom.
STEP = 0.005
#: Noise in Angstrom before the teacher's relaxation, and how often it is tried.
RATTLE, ATTEMPTS = 0.05, 3
#: RMSD in Angstrom above which two minima are different conformers.
SAME = 0.3


def selected(data: Dataset, n: int) -> NDArray[np.int64]:
    """One conformation of each of ``n`` molecules of 9-20 atoms, evenly spread, MMFF minima where there are any."""
    small = [m for m in range(data.n_molecules) if 9 <= data.atom_offset[m + 1] - data.atom_offset[m] <= 20]
    minima = next(kind for kind, name in data.kinds.items() if "minimum" in name)
    chosen = []
    for m in np.array(small)[np.linspace(0, len(small) - 1, min(n, len(small))).astype(int)]:
        own = np.flatnonzero(data.molecule == m)
        chosen.append(own[np.argmax(data.kind[own] == minima)])
    return np.array(chosen)


def of_model(model: ConsistentModel, start: StructureBatch) -> tuple[Array, Array]:
    """Minimum ``[n_atoms, 3]`` and Hessian ``[3 n_atoms, 3 n_atoms]`` of our model, eV and Angstrom.

    Raises:
        LabellingError: the relaxation did not converge.
    """
    found = relax(model, start, fmax=FMAX, max_steps=1000)
    if not bool(found.converged[0]):
        raise LabellingError(f"not relaxed to {FMAX} eV/Angstrom", "not_converged")
    return found.batch.positions.numpy(), hessian(model, found.batch).numpy()


def of_engine(engine: Engine, start: StructureBatch) -> tuple[Array, Array]:
    """The same of an engine.

    Raises:
        LabellingError: the engine failed, or its relaxation did not converge.
    """
    numbers, charge = start.numbers.numpy(), round(float(start.charge[0]))
    x = engine.minimum(numbers, start.positions.numpy(), charge, FMAX).positions
    matrix = np.empty((x.size, x.size))
    for k, step in enumerate(STEP * np.eye(x.size).reshape(-1, *x.shape)):
        forward, backward = (engine.single_point(numbers, x + s, charge).forces for s in (step, -step))
        matrix[k] = (backward - forward).ravel() / (2 * STEP)
    return x, (matrix + matrix.T) / 2


def of_teacher(teacher: Engine, start: StructureBatch) -> tuple[Array, Array]:
    """Minimum ``[n_atoms, 3]`` and frequencies of the teacher.

    Raises:
        LabellingError: only saddle points were found.
    """
    for seed in range(ATTEMPTS):
        # From a planar start a relaxation would stay planar, and end on a saddle point.
        noise = RATTLE * torch.from_numpy(np.random.default_rng(seed).normal(size=start.positions.shape))
        x, matrix = of_engine(teacher, start.with_positions(start.positions + noise))
        values = frequencies(start.numbers.numpy(), x, matrix)
        if values[0] > 0:
            return x, values
    raise LabellingError(f"{ATTEMPTS} relaxations ended on saddle points", "saddle_point")


def frequencies(numbers: Array, x: Array, matrix: Array) -> Array:
    """Vibrations in cm^-1, rising; imaginary ones negative.

    Args:
        numbers: ``[n_atoms]``.
        x: ``[n_atoms, 3]``, Angstrom.
        matrix: Hessian, eV/Angstrom^2.
    """
    complex_ones = VibrationsData.from_2d(Atoms(numbers, x), matrix).get_frequencies()
    signed = complex_ones.real - complex_ones.imag
    return np.sort(signed[np.argsort(np.abs(signed))[6:]])


def rmsd(a: Array, b: Array) -> float:
    """Of all atoms, after the best rotation, Angstrom."""
    _, distance = Rotation.align_vectors(a - a.mean(0), b - b.mean(0))
    return float(distance / np.sqrt(len(a)))


def measure(name: str, start: StructureBatch, judges: Judges) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """One row a method, and the frequencies of those at the same minimum.

    Raises:
        LabellingError: the teacher found no minimum.
    """
    numbers = start.numbers.numpy()
    at, values = of_teacher(judges.teacher, start)
    found = {"teacher": values}
    minimum = start.with_positions(torch.from_numpy(at))
    solvers: dict[str, Callable[[], tuple[Array, Array]]] = {
        "ours": lambda: of_model(judges.model, minimum),
        "GFN2-xTB": lambda: of_engine(judges.gfn2, minimum),
    }
    rows = []
    for method, solve in solvers.items():
        outcome, distance, error, lowest = "compared", np.nan, np.nan, np.nan
        try:
            x, matrix = solve()
        except LabellingError as failure:
            outcome = failure.reason
        else:
            values, distance = frequencies(numbers, x, matrix), rmsd(at, x)
            lowest = float(values[0])
            if distance > SAME:
                outcome = "other_minimum"
            else:
                error = float(np.abs(values - found["teacher"]).mean())
                found[method] = values
        row = {"molecule": name, "atoms": len(numbers), "method": method, "outcome": outcome, "rmsd_A": distance}
        rows.append(row | {"mae_cm-1": error, "lowest_cm-1": lowest})
    return rows, found


def summary(rows: list[dict[str, Any]], pooled: dict[str, list[tuple[float, float]]]) -> list[Any]:
    """Lines of the summary: per molecule, and signed above 2500 cm^-1, where the stretches of hydrogen are."""
    lines: list[Any] = []
    for method, pairs in pooled.items():
        own = [r for r in rows if r["method"] == method]
        reference, values = np.array(pairs).T
        lines.append((method, "frequency MAE (cm^-1)", *mean([r["mae_cm-1"] for r in own])))
        for label, chosen in (("below 500", reference < 500), ("above 2500", reference > 2500)):
            shift = (values - reference)[chosen]
            lines.append((method, f"frequency MAE {label} (cm^-1)", *mean(np.abs(shift))))
            lines.append((method, f"frequency mean error {label} (cm^-1)", *mean(shift)))
        imaginary = sum(r["lowest_cm-1"] < 0 for r in own)
        lines.append((method, "minima with an imaginary frequency", float(imaginary), len(own)))
        other = sum(r["outcome"] == "other_minimum" for r in own)
        lines.append((method, "minima that are another conformer", float(other), len(own)))
    return lines


def draw(pooled: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Frequencies and their errors against the teacher's."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for method, pairs in reversed(pooled.items()):
        reference, values = np.array(pairs).T
        left.plot(reference, values, "o", color=COLORS[method], markersize=2.5, label=method)
        right.plot(reference, values - reference, "o", color=COLORS[method], markersize=2.5)
    left.axline((0, 0), slope=1, color="#111827", linewidth=0.8)
    right.axhline(0, color="#111827", linewidth=0.8)
    left.set_ylabel("frequency (cm$^{-1}$)")
    right.set_ylabel("difference to the teacher (cm$^{-1}$)")
    figure.supxlabel("frequency of the teacher (cm$^{-1}$)", fontsize=10)
    left.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--n", type=int, default=20)
    options = parser.parse_args()
    judges = load(options)
    data = Store(options.data).read(Split.VALIDATION)
    rows: list[dict[str, Any]] = []
    pooled: dict[str, list[tuple[float, float]]] = {"ours": [], "GFN2-xTB": []}
    for k in selected(data, options.n):
        name = str(data.smiles[data.molecule[k]])
        try:
            new, found = measure(name, data.batch([k])[0].to(dtype=torch.float64), judges)
        except LabellingError as error:
            print(f"{name}: the teacher has no minimum: {error}")
            continue
        rows += new
        for method in pooled:
            if method in found:
                pooled[method] += zip(found["teacher"], found[method], strict=True)
        print(name, *(f"{row['method']} {row['mae_cm-1']:.1f} {row['outcome']}" for row in new), flush=True)
    write_csv(options.results / "frequencies.csv", rows)
    update_summary(options.results, "frequencies", summary(rows, pooled))
    draw(pooled, options.results / "frequencies.png")


if __name__ == "__main__":
    main()
