"""As :func:`consistent_calc.neighbors.pairs.strict_and_sorted` on the CPU, in loops instead of large tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consistent_calc.jit import to_the_letter
from consistent_calc.structures import StructureBatch


@to_the_letter
def _count(positions, cell, graph, edges, shifts, square, inside, start):  # type: ignore[no-untyped-def]
    """Marks the pairs inside the cutoff, and finds where those of each atom begin."""
    for e in range(edges.shape[1]):
        i, j, c = edges[0, e], edges[1, e], cell[graph[edges[0, e]]]
        total = 0.0
        for k in range(3):
            # In this form the vectors of i -> j and j -> i are exact negatives: both are kept or neither.
            translation = shifts[e, 0] * c[0, k] + shifts[e, 1] * c[1, k] + shifts[e, 2] * c[2, k]
            x = positions[j, k] - positions[i, k] + translation
            total += x * x
        inside[e] = total < square
        start[i + 1] += inside[e]
    for i in range(len(start) - 1):
        start[i + 1] += start[i]


@to_the_letter
def _sort(edges, shifts, low, sides, inside, start, order):  # type: ignore[no-untyped-def]
    """Pairs inside, by atom, neighbor and shift: buckets, and Shell's sort in each of them."""
    keys, filled = np.empty_like(order), start.copy()
    for e in range(edges.shape[1]):
        if inside[e]:
            x, y, z = shifts[e, 0] - low[0], shifts[e, 1] - low[1], shifts[e, 2] - low[2]
            k = filled[edges[0, e]]
            filled[edges[0, e]] += 1
            order[k] = e
            keys[k] = ((edges[1, e] * sides[0] + x) * sides[1] + y) * sides[2] + z
    for i in range(len(start) - 1):
        begin, end = start[i], start[i + 1]
        gap = (end - begin) // 2
        while gap > 0:
            for k in range(begin + gap, end):
                key, e, m = keys[k], order[k], k
                while m >= begin + gap and keys[m - gap] > key:
                    keys[m], order[m] = keys[m - gap], order[m - gap]
                    m -= gap
                keys[m], order[m] = key, e
            gap //= 2


def strict_and_sorted_cpu(
    batch: StructureBatch, edges: Tensor, shifts: Tensor, cutoff: float, low: Tensor, sides: Tensor
) -> tuple[Tensor, Tensor]:
    """As there.

    Args:
        batch, edges, shifts, cutoff: as there.
        low, sides: int64 ``[3]``, the smallest shifts and how many there can be; their product with the number of atoms
            must fit into one number.
    """
    found = edges.contiguous().numpy(), shifts.contiguous().numpy()
    inside, start = np.empty(edges.shape[1], np.bool_), np.zeros(batch.n_atoms + 1, np.int64)
    structures = (x.contiguous().numpy() for x in (batch.positions, batch.cell, batch.graph))
    _count(*structures, *found, float(cutoff) ** 2, inside, start)
    order = np.empty(start[-1], np.int64)
    _sort(*found, low.numpy(), sides.numpy(), inside, start, order)
    chosen = torch.from_numpy(order)
    return edges.index_select(1, chosen), shifts.index_select(0, chosen)
