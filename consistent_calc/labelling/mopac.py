"""MOPAC: the semi-empirical methods PM6, PM7 and PM6-D3H4, with its own optimiser."""

from __future__ import annotations

import itertools
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
from consistent_calc.units import DEBYE, KCAL_PER_MOL


class Mopac(Engine):
    """The program ``mopac``; energies are heats of formation.

    Args:
        method: PM6, PM7 or PM6-D3H4.
    """

    def __init__(self, method: str) -> None:
        self.level = checked_method(method, ("PM6", "PM7", "PM6-D3H4"))
        self._program = find_program("mopac", "install MOPAC (Debian: apt-get install mopac, conda: mopac)")
        self.provenance = f"MOPAC {program_version(self._program)}, {method}, heats of formation"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        return self._run("1SCF GRADIENTS", numbers, positions, charge)

    def minimum(self, numbers: NDArray[Any], positions: Array, charge: int, fmax: float) -> Label:
        # GNORM is the norm of the whole gradient, which is not below its largest part: at least as tight as fmax.
        label = self._run(f"GRADIENTS GNORM={fmax / KCAL_PER_MOL:.4f}", numbers, positions, charge)
        largest = float(np.linalg.norm(label.forces, axis=1).max())
        # MOPAC may stop early, when no step lowers the energy any more; close to a minimum that is good enough.
        if largest > 3 * fmax:
            raise LabellingError(f"MOPAC stopped at a force of {largest:.3f} eV/Angstrom", "not_converged")
        return label

    def _run(self, task: str, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        lines = [f"{self.level} {task} CHARGE={charge} THREADS=1 AUX(PRECISION=9)", "", ""]
        for number, (x, y, z) in zip(numbers.tolist(), np.asarray(positions).tolist(), strict=True):
            lines.append(f"{SYMBOLS[number]} {x:.8f} 1 {y:.8f} 1 {z:.8f} 1")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "job.mop").write_text("\n".join(lines) + "\n")
            run_program([self._program, "job.mop"], folder)
            result = folder / "job.aux"
            text = result.read_text(errors="replace") if result.exists() else ""
        return _parse(text, np.asarray(positions, dtype=np.float64), charge)


def _parse(text: str, positions: Array, charge: int) -> Label:
    """The label in an AUX file; positions are the given ones unless the file holds relaxed ones."""
    shape = positions.shape
    energy, gradient = _values(text, "HEAT_OF_FORMATION:KCAL/MOL"), _values(text, "GRADIENTS:KCAL/MOL/ANGSTROM")
    relaxed, charges, dipole = (
        _values(text, name) for name in ("ATOM_X_OPT:ANGSTROMS", "ATOM_CHARGES", "DIP_VEC:DEBYE")
    )
    if len(positions) == 1:
        gradient = np.zeros(3)  # of a single atom MOPAC writes none
    if len(energy) != 1 or gradient.size != positions.size:
        raise LabellingError("MOPAC gave no energy or no gradient (no self-consistent field, or atoms too close)")
    return Label(
        positions=relaxed.reshape(shape) if relaxed.size == positions.size else positions,
        energy=float(energy[0]) * KCAL_PER_MOL,
        forces=-gradient.reshape(shape) * KCAL_PER_MOL,
        charges=charges if len(charges) == len(positions) else None,
        # Of an ion it would be relative to the centre of mass, not to the origin.
        dipole=dipole * DEBYE if len(dipole) == 3 and charge == 0 else None,
    )


def _values(text: str, name: str) -> Array:
    """The numbers of the last entry ``NAME=value`` or ``NAME[n]=`` and the values after it."""
    found = re.findall(rf"^ {re.escape(name)}(?:\[\d+\])?=([^=#]*)", text, re.MULTILINE)
    if not found:
        return np.empty(0)
    # The values end before the name of the next entry; numbers too wide for their columns are asterisks.
    words = itertools.takewhile(lambda word: not word[0].isalpha(), found[-1].split())
    return np.array([np.nan if "*" in word else float(word.replace("D", "E")) for word in words])
