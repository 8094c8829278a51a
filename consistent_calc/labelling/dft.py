"""PySCF: restricted density functional theory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.elements import symbol
from consistent_calc.errors import LabellingError, MissingDependencyError
from consistent_calc.labelling.engine import Array, Engine, Label, checked_method
from consistent_calc.units import BOHR, DEBYE, HARTREE

#: Functional, basis and its core potentials in PySCF's words, and level of the integration grid. PySCF's B3LYP is that
#: of Gaussian, and so of QM9. A basis without core functions needs potentials, of which PySCF does not think itself; a
#: functional of the kinetic energy density needs a finer grid.
METHODS = {
    "B3LYP/6-31G(2df,p)": ("b3lyp", "6-31G(2df,p)", None, 1),
    "wB97X-D3BJ/def2-SVP": ("wb97x-d3bj", "def2-svp", "def2-svp", 1),
    "wB97M-D3BJ/def2-TZVPP": ("wb97m-d3bj", "def2-tzvpp", "def2-tzvpp", 2),
}

#: Krypton, the last element whose core electrons the def2 basis sets describe.
LAST_WHOLE = 36


class Pyscf(Engine):
    """The library ``pyscf``, with density fitting.

    Args:
        method: one of :data:`METHODS`. wB97M-D3BJ/def2-TZVPP, which AIMNet2 was fitted to, takes some ten times as
            long as wB97X-D3BJ/def2-SVP.
    """

    def __init__(self, method: str) -> None:
        self.level = checked_method(method, tuple(METHODS))
        self._functional, self._basis, self._potentials, self._grid = METHODS[method]
        try:
            import pyscf

            if "d3bj" in self._functional:
                import pyscf.dispersion
        except ImportError as error:
            raise MissingDependencyError(
                f"{error.name} is not installed: pip install 'consistent_calc[label]', for D3 also pyscf-dispersion."
            ) from None
        self.provenance = f"PySCF {pyscf.__version__}, {method}, density fitting, grid {self._grid}"
        if self._potentials is not None:
            self.provenance += ", core potentials of the basis from Rb on"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        from pyscf import dft, gto

        positions = np.asarray(positions, dtype=np.float64)
        atoms = list(zip(numbers.tolist(), positions.tolist(), strict=True))
        # PySCF prints a line for every element that a potential was asked for in vain.
        heavy = {symbol(z): self._potentials for z in set(numbers.tolist()) if z > LAST_WHOLE and self._potentials}
        try:
            mol = gto.M(atom=atoms, basis=self._basis, ecp=heavy, charge=charge, verbose=0)
        except RuntimeError as error:  # an odd number of electrons
            raise LabellingError(f"PySCF: {error}") from None
        field = dft.RKS(mol, xc=self._functional).density_fit()
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
