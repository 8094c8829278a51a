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


def standard_normal(graph: Tensor, seeds: Sequence[int], draw: int = 0) -> Tensor:
    """Standard normal numbers; structure ``i`` draws from a generator of its own.

    Args:
        graph: int64 ``[n_atoms]``, non-decreasing.
        seeds: ``[n_graphs]``; equal seeds and sizes give equal numbers, whatever else is in the batch.
        draw: which of the independent draws of the seeds.

    Returns:
        float64 ``[n_atoms, 3]`` on the device of ``graph``.
    """
    parts = []
    for seed, size in zip(seeds, torch.bincount(graph, minlength=len(seeds)).tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        draws = [torch.randn(size, 3, generator=generator, dtype=torch.float64) for _ in range(draw + 1)]
        parts.append(draws[draw])
    return torch.cat(parts).to(graph.device)


def centered(x: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
    """Takes off the mean of each structure.

    Args:
        x: ``[n_atoms, 3]``.
        graph: int64 ``[n_atoms]``.
        n_graphs: number of structures.
    """
    counts = torch.bincount(graph, minlength=n_graphs).to(x.dtype)[:, None]
    return x - (x.new_zeros(n_graphs, 3).index_add(0, graph, x) / counts)[graph]


def centered_noise(graph: Tensor, seeds: Sequence[int]) -> Tensor:
    """The first draw of :func:`standard_normal` without translation: of mean zero in every structure."""
    return centered(standard_normal(graph, seeds), graph, len(seeds))


def noised(positions: Tensor, graph: Tensor, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Positions ``[n_atoms, 3]`` displaced by :func:`centered_noise` of one level, Angstrom."""
    return positions + sigma * centered_noise(graph, seeds).to(positions)
