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

from consistent_calc.model_hessian import model_hessian
from consistent_calc.structures import StructureBatch

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


def nearby_minimum(structures: StructureBatch, forces: Tensor, max_step: float) -> Tensor:
    """Where the energy's minimum next to given structures should lie: ``R + H^-1 F``, a Newton step.

    The other forms judge the prediction, which at high noise is an average of many structures and low in no physical
    energy. This one corrects the *target* instead: labelled structures of another level of theory are moved to the
    minimum of E*, one evaluation of which is needed at a structure where it can be trusted. Own form; the Hessian is
    that of Lindh et al. (:func:`consistent_calc.model_hessian.model_hessian`).

    Args:
        structures: near minima, e.g. the labelled equilibrium structures.
        forces: ``[n_atoms, 3]`` of E* at their positions, eV/Angstrom.
        max_step: no atom moves farther, Angstrom; the step of the whole structure is scaled down to this.

    Returns:
        ``[n_atoms, 3]``, Angstrom, without a graph.
    """
    n_graphs, size = structures.n_graphs, int(structures.counts.max())
    start = structures.counts.cumsum(0) - structures.counts
    place = structures.graph, torch.arange(structures.n_atoms, device=forces.device) - start[structures.graph]
    numbers = structures.numbers.new_zeros(n_graphs, size)
    positions = torch.zeros(n_graphs, size, 3, dtype=torch.float64, device=forces.device)
    slopes = torch.zeros_like(positions)
    numbers[place], positions[place] = structures.numbers, structures.positions.detach().double()
    slopes[place] = forces.detach().double()
    factor = torch.linalg.cholesky(model_hessian(numbers, positions))
    step = torch.cholesky_solve(slopes.view(n_graphs, -1, 1), factor).view(n_graphs, size, 3)
    longest = step.norm(dim=2).amax(1).clamp_min(1e-12)
    step = step * (max_step / longest).clamp(max=1)[:, None, None]
    return structures.positions.detach() + step[place].to(structures.positions.dtype)
