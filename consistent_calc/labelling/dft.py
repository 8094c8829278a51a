"""PySCF: restricted density functional theory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.errors import LabellingError, MissingDependencyError
from consistent_calc.labelling.engine import Array, Engine, Label, checked_method
from consistent_calc.units import BOHR, DEBYE, HARTREE

#: Functional and basis of each method, in PySCF's words. PySCF's B3LYP is that of Gaussian, and so of QM9.
METHODS = {
    "B3LYP/6-31G(2df,p)": ("b3lyp", "6-31G(2df,p)"),
    "wB97X-D3BJ/def2-SVP": ("wb97x-d3bj", "def2-svp"),
}


class Pyscf(Engine):
    """The library ``pyscf``, with density fitting.

    Args:
        method: B3LYP/6-31G(2df,p) or wB97X-D3BJ/def2-SVP.
        grid: level of PySCF's integration grid.
    """

    def __init__(self, method: str, grid: int = 1) -> None:
        self.level = checked_method(method, tuple(METHODS))
        try:
            import pyscf

            if "d3bj" in METHODS[method][0]:
                import pyscf.dispersion
        except ImportError as error:
            raise MissingDependencyError(
                f"{error.name} is not installed: pip install 'consistent_calc[label]', for D3 also pyscf-dispersion."
            ) from None
        self._grid = grid
        self.provenance = f"PySCF {pyscf.__version__}, {method}, density fitting, grid {grid}"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        from pyscf import dft, gto

        positions = np.asarray(positions, dtype=np.float64)
        functional, basis = METHODS[self.level]
        try:
            mol = gto.M(
                atom=list(zip(numbers.tolist(), positions.tolist(), strict=True)), basis=basis, charge=charge, verbose=0
            )
        except RuntimeError as error:  # an odd number of electrons
            raise LabellingError(f"PySCF: {error}") from None
        field = dft.RKS(mol, xc=functional).density_fit()
        field.grids.level = self._grid
        energy = field.kernel()
        if not field.converged:
            raise LabellingError("PySCF: no self-consistent field", "not_converged")
        gradient = field.nuc_grad_method().kernel()
        return Label(
            positions=positions,
            energy=float(energy) * HARTREE,
            forces=-gradient * HARTREE / BOHR,
            dipole=np.asarray(field.dip_moment(unit="Debye", verbose=0)) * DEBYE,
        )
