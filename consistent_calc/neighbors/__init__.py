"""Neighbor lists: every pair of atoms closer than a cutoff, periodic images included, never truncated.

Small open molecules are searched by comparing all their pairs, everything else by bins: by vesin on the CPU, in plain
torch on CUDA and for partially periodic structures. The result does not depend on the backend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from consistent_calc.errors import InvalidStructureError
from consistent_calc.lattice import check_cells, translations
from consistent_calc.neighbors.binned import binned_pairs
from consistent_calc.neighbors.open import open_pairs
from consistent_calc.neighbors.vesin_cpu import vesin_pairs
from consistent_calc.structures import StructureBatch

__all__ = ["NeighborList", "neighbor_list"]

#: Open structures up to this many atoms are searched by comparing all their pairs.
SMALL_MOLECULE = 200


@dataclass(frozen=True, eq=False)
class NeighborList:
    """Directed edges between neighbors: both directions of every pair, sorted by receiver, neighbor and shift.

    Attributes:
        edges: int64 ``[2, n_edges]``; ``edges[0]`` the receiving atom i, non-decreasing, ``edges[1]`` its neighbor j.
        shifts: int64 ``[n_edges, 3]``; the neighbor is at ``positions[j] + shifts @ cell[graph[i]]``.
    """

    edges: Tensor
    shifts: Tensor

    def vectors(self, batch: StructureBatch) -> Tensor:
        """Vectors from atoms to their neighbors, differentiable through ``batch.positions`` and ``batch.cell``.

        Args:
            batch: the structures the list was made for, possibly at other positions and cells.

        Returns:
            float ``[n_edges, 3]``, Angstrom. In float32 a length may round up to the cutoff.
        """
        i, j = self.edges[0], self.edges[1]
        difference = batch.positions.index_select(0, j) - batch.positions.index_select(0, i)
        # Not asked of a GPU, which would have to be waited for.
        if self.shifts.device.type == "cpu" and not self.shifts.any():
            return difference
        return difference + translations(self.shifts, batch.cell, batch.graph.index_select(0, i))


def neighbor_list(batch: StructureBatch, cutoff: float) -> NeighborList:
    """Finds all pairs of atoms closer than ``cutoff``, including periodic images and images of the atom itself.

    Distances are compared in float64 whatever the type of the positions. Positions need not lie in the cell, and the
    cell may be smaller than the cutoff. Nothing is differentiated here; see :meth:`NeighborList.vectors`.

    Args:
        batch: structures, on the CPU or a CUDA device; open and periodic ones may be mixed.
        cutoff: Angstrom; pairs at exactly this distance are left out.

    Raises:
        ValueError: the cutoff is not a positive finite number.
        InvalidStructureError: NaN or infinite positions, or a singular cell in the periodic directions.
    """
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"The cutoff must be a positive finite number of Angstrom, got {cutoff!r}.")
    double = replace(batch, positions=batch.positions.detach().double(), cell=batch.cell.detach().double())
    if not bool(torch.isfinite(double.positions).all()):
        raise InvalidStructureError("The positions hold NaN or infinite numbers; neighbors cannot be found.")
    if batch.n_atoms == 0:
        return NeighborList(batch.graph.new_empty(2, 0), batch.graph.new_empty(0, 3))
    periodic, on_cpu = bool(batch.pbc.any()), batch.positions.device.type == "cpu"
    if periodic:
        check_cells(double.cell, batch.pbc)
    if not periodic and int(batch.counts.max()) <= SMALL_MOLECULE:
        if not on_cpu:
            return NeighborList(*open_pairs(double, cutoff))
        from consistent_calc.neighbors.open_cpu import open_pairs_cpu  # numba takes a while to import

        return NeighborList(*open_pairs_cpu(double, cutoff))
    partially_periodic = bool((batch.pbc.any(1) & ~batch.pbc.all(1)).any())
    search = vesin_pairs if on_cpu and not partially_periodic else binned_pairs
    return NeighborList(*search(double, cutoff))
