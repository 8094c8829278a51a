"""Open batches of small molecules: every pair inside every molecule is compared, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.neighbors.pairs import MAX_CANDIDATES, blocks, expand
from consistent_calc.structures import StructureBatch


def open_pairs(batch: StructureBatch, cutoff: float, max_candidates: int = MAX_CANDIDATES) -> tuple[Tensor, Tensor]:
    """All pairs within the cutoff; the work grows with the sum of the squared sizes of the molecules.

    Args:
        batch: in float64, not periodic.
        cutoff: Angstrom.
        max_candidates: pairs compared at once, a bound on the memory.

    Returns:
        Edges and (zero) shifts as in :class:`~consistent_calc.neighbors.NeighborList`.
    """
    counts = batch.counts
    sizes = counts[batch.graph]
    starts = (counts.cumsum(0) - counts)[batch.graph]
    found = [batch.graph.new_empty(2, 0)]
    for lo, hi, total in blocks(sizes, max_candidates):
        owner, j = expand(starts[lo:hi], sizes[lo:hi], total)
        i = owner + lo
        squared = (batch.positions.index_select(0, j) - batch.positions.index_select(0, i)).square().sum(1)
        keep = ((squared < cutoff**2) & (i != j)).nonzero().squeeze(1)
        found.append(torch.stack([i[keep], j[keep]]))
    edges = torch.cat(found, dim=1)  # in order already: i counts up, and so does j for each i
    return edges, edges.new_zeros(edges.shape[1], 3)
