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
from consistent_calc.labelling.program import find_program, program_version, run_program
from consistent_calc.units import BOHR, HARTREE


class Xtb(Engine):
    """The program ``xtb``.

    Args:
        method: GFN2-xTB.
    """

    def __init__(self, method: str) -> None:
        self.level = checked_method(method, ("GFN2-xTB",))
        self._program = find_program("xtb", "install xtb (Debian: apt-get install xtb, conda: xtb)")
        self.provenance = f"xtb {program_version(self._program)}, {method}"

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
        result = folder / "gradient"
        energy, forces = _parse(result.read_text() if result.exists() else "", len(numbers))
        return Label(positions, energy, forces, charges=np.loadtxt(folder / "charges", ndmin=1))


def _parse(text: str, n_atoms: int) -> tuple[float, Array]:
    """Energy in eV and forces in eV/Angstrom of the last cycle of a file ``gradient`` in Turbomole's format."""
    energy = re.findall(r"SCF energy =\s*(\S+)", text)
    # A cycle holds the coordinates of all atoms, then the gradient of all atoms.
    rows = [line.replace("D", "E").split() for line in text.splitlines()[-1 - n_atoms : -1]]
    if not energy or len(rows) != n_atoms or any(len(row) != 3 for row in rows):
        raise LabellingError("xtb gave no energy or no gradient")
    return float(energy[-1]) * HARTREE, -np.array(rows, dtype=np.float64) * HARTREE / BOHR


def _write_xyz(path: Path, numbers: NDArray[Any], positions: Array) -> None:
    rows = zip(numbers.tolist(), np.asarray(positions).tolist(), strict=True)
    lines = [f"{SYMBOLS[n]} {x:.10f} {y:.10f} {z:.10f}" for n, (x, y, z) in rows]
    path.write_text("\n".join([str(len(lines)), "", *lines]) + "\n")
