"""What the torch backends share: enumeration of candidate pairs in bounded memory, and the final order of edges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from consistent_calc.lattice import translations
from consistent_calc.structures import StructureBatch

#: Candidate pairs compared at once; about 100 bytes each, so some 200 MB.
MAX_CANDIDATES = 2_000_000

#: Searches reach this much (Angstrom) beyond the cutoff, so that their rounding never decides about a pair:
#: :func:`strict_and_sorted` does, with the same arithmetic for every backend.
SEARCH_MARGIN = 1e-5

#: Pair and shift fit into one number below this; atoms that drifted far over many cells would overflow it.
KEYS = 2**63


def expand(starts: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Writes out ranges ``starts[k] .. starts[k] + counts[k] - 1``, one after the other.

    Args:
        starts, counts: int64 ``[n]``.
        total: ``counts.sum()``, known to the caller (asking a GPU for it would cost a synchronization).

    Returns:
        int64 ``[total]`` each: the number k of the range, and the element.
    """
    owner = torch.repeat_interleave(counts, output_size=total)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(total, device=counts.device) + (starts - first)[owner]


def blocks(counts: Tensor, limit: int) -> Iterator[tuple[int, int, int]]:
    """Splits items into consecutive blocks ``lo, hi, total`` with ``total = counts[lo:hi].sum() <= limit``.

    An item that alone exceeds the limit is a block of its own; nothing is ever left out.
    """
    n_items = counts.shape[0]
    if n_items == 0:
        return
    ends = counts.cumsum(0)
    total = int(ends[-1])
    if total <= limit:
        yield 0, n_items, total
        return
    ends = ends.cpu()
    lo = done = 0
    while lo < n_items:
        hi = max(lo + 1, int(torch.searchsorted(ends, done + limit, right=True)))
        end = int(ends[hi - 1])
        yield lo, hi, end - done
        lo, done = hi, end


def strict_and_sorted(batch: StructureBatch, edges: Tensor, shifts: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Keeps the pairs strictly inside the cutoff and sorts them by i, then j, then shift.

    Args:
        batch: in float64.
        edges: int64 ``[2, n]``, the pairs found, in any order.
        shifts: int64 ``[n, 3]``.
        cutoff: Angstrom.

    Returns:
        Edges and shifts as in :class:`~consistent_calc.neighbors.NeighborList`.
    """
    if edges.shape[1] == 0:
        return edges, shifts
    if edges.device.type == "cpu":
        low, high = shifts.aminmax(dim=0)
        sides = high - low + 1
        if batch.n_atoms**2 * math.prod(sides.tolist()) < KEYS:
            from consistent_calc.neighbors.sort_cpu import strict_and_sorted_cpu  # numba takes a while to import

            return strict_and_sorted_cpu(batch, edges, shifts, cutoff, low, sides)
    i, j = edges
    # In this form the vectors of i -> j and j -> i are exact negatives: both are kept or neither.
    vectors = batch.positions.index_select(0, j) - batch.positions.index_select(0, i)
    vectors = vectors + translations(shifts, batch.cell, batch.graph[i])
    inside = (vectors.square().sum(1) < cutoff**2).nonzero().squeeze(1)
    edges, shifts = edges[:, inside], shifts.index_select(0, inside)
    order = _lexicographic_order(edges, shifts, batch.n_atoms)
    return edges[:, order], shifts.index_select(0, order)


def _lexicographic_order(edges: Tensor, shifts: Tensor, n_atoms: int) -> Tensor:
    """int64 ``[n]``: the permutation that sorts edges by i, j and shift."""
    if edges.shape[1] == 0:
        return edges.new_empty(0)
    low, high = shifts.aminmax(dim=0)
    ny, nz = (high - low + 1)[1:].tolist()
    x, y, z = (shifts - low).unbind(1)
    pair_key, shift_key = edges[0] * n_atoms + edges[1], (x * ny + y) * nz + z
    n_shifts = int(shift_key.max()) + 1
    # One sort of one key is twice as fast.
    if n_atoms**2 * n_shifts < KEYS:
        return (pair_key * n_shifts + shift_key).argsort()
    order = shift_key.argsort(stable=True)
    return order[pair_key[order].argsort(stable=True)]
