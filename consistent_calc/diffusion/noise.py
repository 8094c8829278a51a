"""Noise: its levels in training and in sampling, and random numbers that do not depend on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def training_levels(
    n: int, generator: torch.Generator, *, median: float, spread: float, low: float, high: float
) -> Tensor:
    """Log-normal noise levels (Karras et al. 2022, table 1), clipped.

    Args:
        n: how many.
        generator: CPU generator.
        median: of the levels, Angstrom.
        spread: standard deviation of their logarithm.
        low, high: limits, Angstrom.

    Returns:
        ``[n]``, Angstrom.
    """
    return (torch.randn(n, generator=generator) * spread + math.log(median)).exp().clamp(low, high)


def sampling_levels(start: float, end: float, n_steps: int, rho: float = 3.0) -> Tensor:
    """Decreasing levels from ``start`` to ``end`` and then 0 (equation 5 of Karras et al. 2022).

    Args:
        start, end: Angstrom.
        n_steps: number of steps; the result has one entry more.
        rho: larger values put more steps at low noise.
    """
    ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
    levels = (start ** (1 / rho) + ramp * (end ** (1 / rho) - start ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def centered_noise(graph: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise without translation; structure ``i`` draws from a generator of its own.

    Args:
        graph: int64 ``[n_atoms]``, non-decreasing.
        seeds: ``[n_graphs]``; equal seeds and sizes give equal noise, whatever else is in the batch.

    Returns:
        float64 ``[n_atoms, 3]`` on the device of ``graph``, of mean zero in every structure.
    """
    parts = []
    for seed, size in zip(seeds, torch.bincount(graph, minlength=len(seeds)).tolist(), strict=True):
        noise = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        parts.append(noise - noise.mean(0, keepdim=True))
    return torch.cat(parts).to(graph.device)
