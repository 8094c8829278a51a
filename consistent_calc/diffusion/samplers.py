"""From noisy structures to clean ones with the structure head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from consistent_calc.diffusion.noise import centered_noise, noised, sampling_levels, standard_normal
from consistent_calc.diffusion.prior import harmonic_positions
from consistent_calc.structures import StructureBatch

#: Noise level from which structures are made where the model does not know the harmonic prior, Angstrom.
PURE_NOISE = 8.0
#: Noise level that the first estimate from the harmonic prior is brought to, Angstrom.
AFTER_PRIOR = 1.5


class Denoiser(Protocol):
    """Anything with :attr:`ConsistentModel.prior_level` and :meth:`ConsistentModel.denoise`."""

    @property
    def prior_level(self) -> float | None: ...

    def denoise(self, batch: StructureBatch, sigma: Tensor) -> Tensor: ...


def denoise_once(model: Denoiser, batch: StructureBatch, sigma: float) -> Tensor:
    """The denoiser's estimate ``[n_atoms, 3]`` for structures that all have one noise level, without a gradient."""
    with torch.no_grad():
        return model.denoise(batch, torch.full_like(batch.charge, sigma))


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
    x = noised(batch.positions, batch.graph, sigma_start, seeds)
    return _flow(model, batch, x, sampling_levels(sigma_start, sigma_end, n_steps).tolist())


def from_noise(
    model: Denoiser,
    batch: StructureBatch,
    *,
    n_steps: int,
    seeds: Sequence[int],
    sigma_max: float | None = None,
    sigma_end: float = 0.02,
) -> Tensor:
    """Structures from random numbers: ``n_steps = 1`` is a single denoising step, more are deterministic sampling.

    The "Denoising" and "DDIM" modes of Ren et al. 2024 in EDM form; DDIM is the probability-flow equation, followed
    here with Heun's method. A model that knows the harmonic prior denoises a sample of it; in more than one step, that
    first estimate is noised and refined in the other steps. Any other model starts from noise far above the size of
    the molecule.

    Args:
        batch: molecules with bonds and stereo tags; their positions are not used.
        sigma_max: noise level where the flow starts, by default :data:`AFTER_PRIOR` or :data:`PURE_NOISE`, Angstrom.

    Other arguments and the result as in :func:`refine`.
    """
    if model.prior_level is None:
        start = sigma_max or PURE_NOISE
        x = start * centered_noise(batch.graph, seeds).to(batch.positions.dtype)
        return _flow(model, batch, x, sampling_levels(start, sigma_end, n_steps, rho=7.0).tolist())
    # The first draw of the seeds is left to the noise added afterwards.
    prior = batch.with_positions(harmonic_positions(batch, standard_normal(batch.graph, seeds, draw=1)))
    first = batch.with_positions(_finite(denoise_once(model, prior, model.prior_level), prior.positions, batch))
    if n_steps == 1:
        return first.positions
    start = sigma_max or AFTER_PRIOR
    return refine(model, first, sigma_start=start, n_steps=n_steps - 1, seeds=seeds, sigma_end=sigma_end)


def _flow(model: Denoiser, batch: StructureBatch, x: Tensor, levels: list[float]) -> Tensor:
    """Heun's method along the probability-flow equation from ``x`` at the first of the falling noise levels.

    A structure on which the network breaks down (atoms on top of each other can make its numbers overflow) stays where
    it is, so that it does not take the others with it; it will not pass for the molecule.
    """

    def slope(positions: Tensor, sigma: float) -> Tensor:
        return (positions - denoise_once(model, batch.with_positions(positions), sigma)) / sigma

    with torch.no_grad():
        for sigma, lower in itertools.pairwise(levels):
            first = slope(x, sigma)
            euler = _finite(x + (lower - sigma) * first, x, batch)
            x = euler if lower == 0 else _finite(x + (lower - sigma) * 0.5 * (first + slope(euler, lower)), x, batch)
    return x


def _finite(moved: Tensor, before: Tensor, batch: StructureBatch) -> Tensor:
    """``moved [n_atoms, 3]``, but ``before`` for all atoms of structures with NaN or infinite positions."""
    broken = torch.zeros_like(batch.charge).index_add(0, batch.graph, (~moved.isfinite()).any(1).to(batch.charge))
    return torch.where((broken > 0)[batch.graph, None], before, moved)
