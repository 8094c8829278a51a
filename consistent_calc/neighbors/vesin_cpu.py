"""Periodic and large structures on the CPU: the linked-cell search of vesin, one structure after the other.

Only for structures that are periodic in all directions or in none. In the others vesin 0.6 is right but visits empty
space: a sparse chain of 11 atoms took it half a minute.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consistent_calc.neighbors.pairs import SEARCH_MARGIN, strict_and_sorted
from consistent_calc.structures import StructureBatch


def vesin_pairs(batch: StructureBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs within the cutoff.

    Args:
        batch: in float64, on the CPU; open and fully periodic structures in any mixture.
        cutoff: Angstrom.

    Returns:
        Edges and shifts as in :class:`~consistent_calc.neighbors.NeighborList`.
    """
    from vesin import NeighborList as Search

    search = Search(cutoff=cutoff + SEARCH_MARGIN, full_list=True)
    # Whatever stands in the cell of an open structure is no lattice vector.
    cells = torch.where(batch.pbc.unsqueeze(2), batch.cell, 0.0).numpy()
    periodic = batch.pbc.all(1).tolist()
    positions = batch.positions.numpy()
    pairs, shifts, first = [np.empty((0, 2), np.int64)], [np.empty((0, 3), np.int64)], 0
    for graph, n_atoms in enumerate(batch.counts.tolist()):
        if n_atoms > 0:
            # Not copied: astype does it, before the next search reuses the memory.
            p, s = search.compute(positions[first : first + n_atoms], cells[graph], periodic[graph], "PS", copy=False)
            pairs.append(p.astype(np.int64) + first)
            shifts.append(s.astype(np.int64))
        first += n_atoms
    edges = torch.from_numpy(np.concatenate(pairs).T)
    return strict_and_sorted(batch, edges, torch.from_numpy(np.concatenate(shifts)), cutoff)
