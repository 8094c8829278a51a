"""The consistency losses of one batch of denoised structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from consistent_calc.losses.frozen import FrozenEnergy
from consistent_calc.losses.optimality import comparison_loss, gap_loss, nearby_minimum, slope_loss
from consistent_calc.losses.score import score_force_loss, target_score_loss
from consistent_calc.losses.structure import denoising_loss
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.configuration import Consistency


@dataclass(frozen=True, eq=False)
class Denoised:
    """Structures on their way through the structure task.

    Attributes:
        clean: the equilibrium structures, aligned to ``noisy``, with their graphs.
        noisy: ``[n_atoms, 3]``, Angstrom.
        denoised: ``[n_atoms, 3]``, with the gradient of the structure head.
        sigma: ``[n_graphs]``, Angstrom.
    """

    clean: StructureBatch
    noisy: Tensor
    denoised: Tensor
    sigma: Tensor

    def between(self, noise: tuple[float, ...]) -> Denoised | None:
        """The structures whose noise level lies in ``[noise[0], noise[1]]``; None if there is none."""
        chosen = (self.sigma >= noise[0]) & (self.sigma <= noise[1])
        if bool(chosen.all()):
            return self
        if not bool(chosen.any()):
            return None
        atoms = chosen[self.clean.graph]
        return Denoised(
            self.clean.select(chosen.nonzero()[:, 0]), self.noisy[atoms], self.denoised[atoms], self.sigma[chosen]
        )


def optimality(
    frozen: ConsistentModel,
    data: Denoised,
    settings: Consistency,
    seed: int,
    edge_gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Optimality consistency of a batch, see :mod:`consistent_calc.losses.optimality`.

    Args:
        frozen: its weights require no gradient.
        seed: of the displacements, which do not touch the noise of the training.
        edge_gradients: compiled, see :class:`consistent_calc.losses.frozen.FrozenEnergy`.

    Returns:
        Scalar.
    """
    some = data.between(settings.optimality_noise)
    if some is None:
        return data.denoised.new_zeros(())
    energy = FrozenEnergy(frozen, some.clean, frozen.level_index(settings.level), edge_gradients)
    if settings.optimality == "gap":
        return gap_loss(energy, some.denoised, some.clean.positions)
    if settings.optimality == "slope":
        return slope_loss(energy, some.denoised)
    if settings.optimality == "newton":
        minimum = nearby_minimum(some.clean, energy.forces(some.clean.positions), settings.max_step)
        scale = frozen.preconditioning.c_out(some.sigma)
        return denoising_loss(some.denoised, minimum, scale, some.clean.graph)
    generator = torch.Generator().manual_seed(seed)
    spread = settings.displacement * torch.rand(some.clean.n_graphs, generator=generator)
    normal = torch.randn(some.clean.n_atoms, 3, generator=generator)
    displacement = spread.to(some.noisy)[some.clean.graph, None] * normal.to(some.noisy)
    return comparison_loss(energy, some.denoised, displacement)


def score(
    frozen: ConsistentModel,
    data: Denoised,
    settings: Consistency,
    edge_gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Score consistency of a batch, see :mod:`consistent_calc.losses.score`.

    Args and result as in :func:`optimality`.
    """
    some = data.between(settings.score_noise)
    if some is None:
        return data.denoised.new_zeros(())
    energy = FrozenEnergy(frozen, some.clean, frozen.level_index(settings.level), edge_gradients)
    clean = settings.score == "clean"
    forces = energy.forces(some.clean.positions if clean else some.noisy)
    loss = target_score_loss if clean else score_force_loss
    return loss(some.denoised, some.noisy, some.sigma, forces, settings.temperature_energy, some.clean.graph)
