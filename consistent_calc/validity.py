"""What no model could answer: errors that say which structure is wrong, and why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from consistent_calc.elements import chemical_formula, symbol
from consistent_calc.errors import ChargeError, InvalidStructureError, OddElectronWarning, UnsupportedElementError
from consistent_calc.lattice import check_cells

#: Two atoms closer than this (Angstrom) are an input error; no bond is shorter than 0.6 Angstrom.
MINIMAL_DISTANCE = 0.1


def check_structures(
    numbers: Tensor,
    positions: Tensor,
    graph: Tensor,
    cell: Tensor,
    pbc: Tensor,
    charge: Tensor,
    *,
    elements: Iterable[int] | None,
    warn_odd_electrons: bool,
) -> None:
    """The checks of :meth:`consistent_calc.StructureBatch.validate`, on its tensors."""
    counts = torch.bincount(graph, minlength=len(charge))
    if len(charge) == 0 or bool((counts == 0).any()):
        raise InvalidStructureError("A structure without atoms cannot be evaluated.")
    if not bool(torch.isfinite(positions).all()):
        first = int((~torch.isfinite(positions)).any(dim=1).nonzero()[0])
        raise InvalidStructureError(f"Positions are NaN or infinite (first at atom {first}).")
    if not bool(torch.isfinite(cell).all()):
        raise InvalidStructureError("The cell is NaN or infinite.")
    if bool(pbc.any()):
        check_cells(cell.detach().double(), pbc)
    if elements is not None:
        known = set(elements)
        unknown = sorted(set(numbers.unique().tolist()) - known)
        if unknown:
            raise UnsupportedElementError(
                f"The model does not know {', '.join(map(symbol, unknown))}; "
                f"it was trained on {', '.join(symbol(z) for z in sorted(known))}."
            )
    if bool((numbers < 1).any()):
        raise InvalidStructureError("There are atoms without an element (atomic number 0); remove them.")
    _check_charges(numbers, graph, charge, warn_odd_electrons)


def check_distances(vectors: Tensor, edges: Tensor) -> None:
    """Raises InvalidStructureError where two atoms (nearly) coincide."""
    if len(vectors) == 0:
        return
    squared = (vectors * vectors).sum(1)
    closest = int(squared.argmin())
    if float(squared[closest]) < MINIMAL_DISTANCE**2:
        i, j = edges[:, closest].tolist()
        raise InvalidStructureError(
            f"Atoms {i} and {j} are {float(squared[closest]) ** 0.5:.3f} Angstrom apart: two atoms at one place."
        )


def _check_charges(numbers: Tensor, graph: Tensor, charges: Tensor, warn_odd_electrons: bool) -> None:
    """Charges must be integers that leave electrons."""
    protons = numbers.new_zeros(len(charges)).index_add(0, graph, numbers)
    for i, (charge, z) in enumerate(zip(charges.tolist(), protons.tolist(), strict=True)):
        if not math.isfinite(charge) or abs(charge - round(charge)) > 1e-6:
            raise ChargeError(f"The total charge must be an integer number of e, got {charge:g} for structure {i}.")
        if round(charge) >= z:
            raise ChargeError(
                f"Structure {i} has {z} protons; a charge of {round(charge):+d} leaves no electrons. Is it right?"
            )
        if warn_odd_electrons and (z - round(charge)) % 2:
            formula = chemical_formula(numbers[graph == i].tolist())
            warnings.warn(
                f"{formula} with charge {round(charge):+d} has an odd number of electrons; the model was trained on "
                "closed shells only. Is the charge right?",
                OddElectronWarning,
                stacklevel=5,
            )
