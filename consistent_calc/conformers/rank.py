"""Relative energies and Boltzmann weights."""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.units import BOLTZMANN, KCAL_PER_MOL


def relative_energies(energies: Tensor) -> Tensor:
    """Energies above the lowest one, kcal/mol.

    Args:
        energies: float64 ``[n]``, eV.
    """
    return (energies - energies.min()) / KCAL_PER_MOL


def boltzmann_weights(energies: Tensor, temperature: float) -> Tensor:
    """Populations ``exp(-E / kT)``, normalised to one; every conformer counts once (no degeneracy, no vibrations).

    Args:
        energies: float64 ``[n]``, eV.
        temperature: Kelvin, positive.
    """
    return torch.softmax(-energies / (BOLTZMANN * temperature), dim=0)
