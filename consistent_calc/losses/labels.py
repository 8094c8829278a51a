"""Agreement with labelled energies, forces, charges and dipoles. NaN labels are missing and do not count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(error: Tensor, label: Tensor) -> Tensor:
    """Mean of ``error [n]`` over the entries whose ``label [n, ...]`` has no NaN; zero if there is none."""
    known = ~label.isnan().reshape(len(label), -1).any(1)
    # Not error[known]: its size would have to be asked of the device.
    return torch.where(known, error, 0).sum() / known.sum().clamp_min(1)


def energy_loss(predicted: Tensor, reference: Tensor, n_atoms: Tensor) -> Tensor:
    """``mean |dE| / sqrt(n)``: the error of a sum of n independent atomic errors grows with sqrt(n).

    Args:
        predicted, reference: ``[n_graphs]``, eV.
        n_atoms: ``[n_graphs]``.

    Returns:
        Scalar, eV.
    """
    return masked_mean((predicted - reference.nan_to_num()).abs() / n_atoms.to(predicted.dtype).sqrt(), reference)


def vector_loss(predicted: Tensor, reference: Tensor, eps: float = 1e-6) -> Tensor:
    """``mean ||d||``, the length of the error: robust as an absolute error, and invariant under rotation.

    Args:
        predicted, reference: ``[n, 3]``: forces in eV/Angstrom, or dipoles in e Angstrom.
        eps: smooths the length at zero.

    Returns:
        Scalar in the unit of the vectors.
    """
    difference = predicted - reference.nan_to_num()
    return masked_mean(((difference * difference).sum(1) + eps * eps).sqrt(), reference)


def charge_loss(predicted: Tensor, reference: Tensor) -> Tensor:
    """``mean |dq|`` of partial charges ``[n_atoms]``, e."""
    return masked_mean((predicted - reference.nan_to_num()).abs(), reference)
