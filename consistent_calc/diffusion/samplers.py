"""From noisy structures to clean ones with the structure head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from consistent_calc.diffusion.noise import centered_noise, sampling_levels
from consistent_calc.structures import StructureBatch


class Denoiser(Protocol):
    """Anything with :meth:`ConsistentModel.denoise`."""

    def denoise(self, batch: StructureBatch, sigma: Tensor) -> Tensor: ...


def refine(
    model: Denoiser,
    batch: StructureBatch,
    *,
    sigma_start: float,
    n_steps: int,
    seeds: Sequence[int],
    sigma_end: float = 0.02,
) -> Tensor:
    """Noises given structures and follows the probability-flow equation down to zero noise with Heun's method.

    Algorithm 1 of Karras et al. 2022, started at ``sigma_start`` from the given structures instead of from pure noise.

    Args:
        model: gives the denoiser.
        batch: seeds with bonds and stereo tags, on the model's device.
        sigma_start: noise added to the seeds, Angstrom; above 0.4 tetrahedral centres begin to flip.
        n_steps: Heun steps; each but the last costs two evaluations.
        seeds: one an entry of the batch, for the random numbers.
        sigma_end: last noise level above zero, Angstrom.

    Returns:
        ``[n_atoms, 3]``, clean positions, in the dtype of the batch.
    """
    x = batch.positions + sigma_start * centered_noise(batch.graph, seeds).to(batch.positions.dtype)
    return _flow(model, batch, x, sampling_levels(sigma_start, sigma_end, n_steps).tolist())


def from_noise(
    model: Denoiser,
    batch: StructureBatch,
    *,
    n_steps: int,
    seeds: Sequence[int],
    sigma_max: float = 8.0,
    sigma_end: float = 0.02,
) -> Tensor:
    """Structures from pure noise: ``n_steps = 1`` is a single denoising step, more are deterministic sampling.

    The "Denoising" and "DDIM" modes of Ren et al. 2024 in EDM form; DDIM is the probability-flow equation, followed
    here with Heun's method (``2 n_steps - 1`` evaluations of the denoiser).

    Args:
        batch: molecules with bonds and stereo tags; their positions are not used.
        sigma_max: noise level of the start, Angstrom; far above the size of the molecule.

    Other arguments and the result as in :func:`refine`.
    """
    x = sigma_max * centered_noise(batch.graph, seeds).to(batch.positions.dtype)
    return _flow(model, batch, x, sampling_levels(sigma_max, sigma_end, n_steps, rho=7.0).tolist())


def _flow(model: Denoiser, batch: StructureBatch, x: Tensor, levels: list[float]) -> Tensor:
    """Heun's method along the probability-flow equation from ``x`` at the first of the falling noise levels."""

    def slope(positions: Tensor, sigma: float) -> Tensor:
        denoised = model.denoise(batch.with_positions(positions), torch.full_like(batch.charge, sigma))
        return (positions - denoised) / sigma

    with torch.no_grad():
        for sigma, lower in itertools.pairwise(levels):
            first = slope(x, sigma)
            euler = x + (lower - sigma) * first
            x = euler if lower == 0 else x + (lower - sigma) * 0.5 * (first + slope(euler, lower))
    return x
