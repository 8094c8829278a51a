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
    levels = sampling_levels(sigma_start, sigma_end, n_steps).tolist()
    dtype = batch.positions.dtype
    x = batch.positions + sigma_start * centered_noise(batch.graph, seeds).to(dtype)

    def slope(positions: Tensor, sigma: float) -> Tensor:
        denoised = model.denoise(batch.with_positions(positions), torch.full_like(batch.charge, sigma))
        return (positions - denoised) / sigma

    with torch.no_grad():
        for sigma, lower in itertools.pairwise(levels):
            first = slope(x, sigma)
            euler = x + (lower - sigma) * first
            x = euler if lower == 0 else x + (lower - sigma) * 0.5 * (first + slope(euler, lower))
    return x
