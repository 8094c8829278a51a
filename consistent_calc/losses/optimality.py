"""Optimality consistency: the equilibrium structure minimises the energy.

All forms take an ``energy`` function of positions ``[n_atoms, 3]`` that gives energies ``[n_graphs]`` in eV: the frozen
energy E* (:class:`consistent_calc.losses.frozen.FrozenEnergy`), so that the gradient reaches the structure head only,
through the predicted positions. Sources and status of the forms: Ren et al., NeurIPS 2024
(arXiv 2410.10118); which of them the authors used is not known, so the alternatives stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]


def comparison_loss(energy: Energy, predicted: Tensor, displacement: Tensor) -> Tensor:
    """``sum max(0, E*(R) - E*(R + d)) / n_atoms``: no neighboring structure may lie lower than the predicted one.

    Args:
        energy: frozen energy function.
        predicted: ``[n_atoms, 3]``, output of the structure head, Angstrom.
        displacement: ``[n_atoms, 3]``, a random displacement of up to about 0.1 Angstrom.

    Returns:
        Scalar, eV per atom; zero at a minimum.
    """
    return torch.relu(energy(predicted) - energy(predicted + displacement)).sum() / len(predicted)


def gap_loss(energy: Energy, predicted: Tensor, reference: Tensor) -> Tensor:
    """``sum (E*(R) - E*(R_0)) / n_atoms``: the energy of the predicted structure above that of a reference structure.

    Args:
        reference: ``[n_atoms, 3]``, e.g. the labelled equilibrium structure, Angstrom.

    Returns:
        Scalar, eV per atom; it has the gradient of the energy ``E*(R)`` itself.
    """
    with torch.no_grad():
        floor = energy(reference)
    return (energy(predicted) - floor).sum() / len(predicted)


def slope_loss(energy: Energy, predicted: Tensor) -> Tensor:
    """``mean |grad E*(R)|`` over atoms: the forces on the predicted structure, which vanish at any stationary point.

    Returns:
        Scalar, eV/Angstrom.
    """
    if not predicted.requires_grad:
        predicted = predicted.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(predicted).sum(), predicted, create_graph=True)
    return ((gradient * gradient).sum(1) + 1e-12).sqrt().mean()
