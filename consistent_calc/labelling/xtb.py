"""xtb: GFN2-xTB with its own optimiser, as a program."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.elements import SYMBOLS
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.engine import Array, Engine, Label, checked_method
from consistent_calc.labelling.program import find_program, run_program
from consistent_calc.units import BOHR, HARTREE


class Xtb(Engine):
    """The program ``xtb``.

    Args:
        method: GFN2-xTB.
    """

    def __init__(self, method: str) -> None:
        self.level = checked_method(method, ("GFN2-xTB",))
        self._program = find_program("xtb", "install xtb (Debian: apt-get install xtb, conda: xtb)")
        self.provenance = "xtb, GFN2-xTB"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        with tempfile.TemporaryDirectory() as name:
            return self._gradient(Path(name), numbers, np.asarray(positions, dtype=np.float64), charge)

    def minimum(self, numbers: NDArray[Any], positions: Array, charge: int, fmax: float) -> Label:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_xyz(folder / "start.xyz", numbers, positions)
            level = "vtight" if fmax < 0.02 else "tight"
            run_program([self._program, "start.xyz", "--gfn", "2", "--opt", level, "--chrg", str(charge)], folder)
            if not (folder / ".xtboptok").exists():
                raise LabellingError("xtb's optimiser did not converge", "not_converged")
            relaxed = np.loadtxt(folder / "xtbopt.xyz", skiprows=2, usecols=(1, 2, 3), ndmin=2)
            label = self._gradient(folder, numbers, relaxed, charge)
        largest = float(np.linalg.norm(label.forces, axis=1).max())
        if largest > 3 * fmax:
            raise LabellingError(f"xtb's optimiser stopped at a force of {largest:.3f} eV/Angstrom", "not_converged")
        return label

    def _gradient(self, folder: Path, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        _write_xyz(folder / "point.xyz", numbers, positions)
        run_program([self._program, "point.xyz", "--gfn", "2", "--grad", "--chrg", str(charge)], folder)
        text = (folder / "gradient").read_text()
        energy = re.findall(r"SCF energy =\s*(\S+)", text)
        # Turbomole's format: coordinates of all atoms, then the gradient of all atoms.
        rows = [line.replace("D", "E").split() for line in text.splitlines()[-1 - len(numbers) : -1]]
        gradient = np.array([[float(x) for x in row] for row in rows])
        if not energy or gradient.shape != positions.shape:
            raise LabellingError("xtb gave no energy or no gradient")
        return Label(
            positions=positions,
            energy=float(energy[-1]) * HARTREE,
            forces=-gradient * HARTREE / BOHR,
            charges=np.loadtxt(folder / "charges", ndmin=1),
        )


def _write_xyz(path: Path, numbers: NDArray[Any], positions: Array) -> None:
    rows = zip(numbers.tolist(), np.asarray(positions).tolist(), strict=True)
    lines = [f"{SYMBOLS[n]} {x:.10f} {y:.10f} {z:.10f}" for n, (x, y, z) in rows]
    path.write_text("\n".join([str(len(lines)), "", *lines]) + "\n")
