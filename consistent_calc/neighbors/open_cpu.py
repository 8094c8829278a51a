"""As :mod:`consistent_calc.neighbors.open`, on the CPU: two loops, which for a molecule cost less than any search."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consistent_calc.jit import to_the_letter
from consistent_calc.structures import StructureBatch


@to_the_letter
def _near(positions, i, j, square):  # type: ignore[no-untyped-def]
    x, y, z = positions[j, 0] - positions[i, 0], positions[j, 1] - positions[i, 1], positions[j, 2] - positions[i, 2]
    return i != j and x * x + y * y + z * z < square


@to_the_letter
def _count(positions, ends, square):  # type: ignore[no-untyped-def]
    begin = total = 0
    for end in ends:
        for i in range(begin, end):
            for j in range(begin, end):
                total += _near(positions, i, j, square)
        begin = end
    return total


@to_the_letter
def _write(positions, ends, square, edges):  # type: ignore[no-untyped-def]
    begin = k = 0
    for end in ends:
        for i in range(begin, end):
            for j in range(begin, end):
                if _near(positions, i, j, square):
                    edges[0, k], edges[1, k] = i, j
                    k += 1
        begin = end


def open_pairs_cpu(batch: StructureBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs within the cutoff; the work grows with the sum of the squared sizes of the molecules.

    Args:
        batch: in float64, on the CPU, not periodic.
        cutoff: Angstrom.

    Returns:
        Edges and (zero) shifts as in :class:`~consistent_calc.neighbors.NeighborList`.
    """
    given = batch.positions.contiguous().numpy(), batch.counts.cumsum(0).numpy(), float(cutoff) ** 2
    edges = np.empty((2, _count(*given)), np.int64)
    _write(*given, edges)
    return torch.from_numpy(edges), torch.zeros(edges.shape[1], 3, dtype=torch.int64)
