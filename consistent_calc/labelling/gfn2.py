"""tblite: GFN2-xTB and GFN1-xTB as a library, without files."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.errors import LabellingError, MissingDependencyError
from consistent_calc.labelling.engine import Array, Engine, Label, checked_method
from consistent_calc.units import BOHR, HARTREE


class Tblite(Engine):
    """The library ``tblite``.

    Args:
        method: GFN2-xTB or GFN1-xTB.
    """

    def __init__(self, method: str) -> None:
        self.level = checked_method(method, ("GFN2-xTB", "GFN1-xTB"))
        try:
            from tblite.interface import Calculator
        except ImportError:
            raise MissingDependencyError("tblite is not installed: pip install 'consistent_calc[label]'.") from None
        self._calculator = Calculator
        self.provenance = f"tblite {version('tblite')}, {method}"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        positions = np.asarray(positions, dtype=np.float64)
        calculator = self._calculator(self.level, np.asarray(numbers), positions / BOHR, charge=float(charge))
        calculator.set("verbosity", 0)
        try:
            result = calculator.singlepoint()
        except RuntimeError as error:
            raise LabellingError(f"tblite: {error}") from None
        return Label(
            positions=positions,
            energy=float(result.get("energy")) * HARTREE,
            forces=-np.array(result.get("gradient")) * HARTREE / BOHR,
            charges=np.array(result.get("charges")),
            dipole=np.array(result.get("dipole")) * BOHR,
        )
