"""Any structures, any device: periodic images are made explicit, sorted into bins, and nearby bins compared.

Plain torch, so that the code a GPU runs is the code the CPU tests run. Where nvalchemi-toolkit-ops is installed, its
pair search is a possible faster backend on CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consistent_calc.neighbors.images import bounds, periodic_images, wrap
from consistent_calc.neighbors.pairs import MAX_CANDIDATES, SEARCH_MARGIN, blocks, expand, strict_and_sorted
from consistent_calc.structures import StructureBatch

#: The cutoff spans this many bins: 1 compares 27 bins around an atom, 2 compares 125 small ones, of half the volume.
_BINS_PER_CUTOFF = 2

#: Bins along one side of one structure; more would overflow their index if atoms are very far apart.
_MAX_BINS_PER_SIDE = 2**16


def binned_pairs(batch: StructureBatch, cutoff: float, max_candidates: int = MAX_CANDIDATES) -> tuple[Tensor, Tensor]:
    """All pairs within the cutoff; the work grows linearly with the number of atoms.

    Args:
        batch: in float64; open, periodic and partially periodic structures in any mixture.
        cutoff: Angstrom.
        max_candidates: pairs compared at once, a bound on the memory.

    Returns:
        Edges and shifts as in :class:`~consistent_calc.neighbors.NeighborList`.
    """
    reach = cutoff + SEARCH_MARGIN
    home, cells_of = wrap(batch)
    images = periodic_images(batch, home, reach)
    bins = _Bins.around(home, batch, reach)
    key = bins.key(images.positions, batch.graph[images.atom])
    near = (key >= 0).nonzero().squeeze(1)
    near = near[key[near].argsort()]
    images, key = images.take(near), key[near]

    # Bins that are neighbors in z have consecutive keys: a column of them is one range in the sorted images.
    columns = bins.columns(home, batch.graph)
    n_columns = columns.shape[1]
    starts = torch.searchsorted(key, columns.reshape(-1))
    counts = torch.searchsorted(key, columns.reshape(-1) + 2 * _BINS_PER_CUTOFF, right=True) - starts
    found = [(starts.new_empty(0), starts.new_empty(0))]
    for lo, hi, total in blocks(counts, max_candidates):
        owner, image = expand(starts[lo:hi], counts[lo:hi], total)
        i = (owner + lo) // n_columns
        squared = (images.positions.index_select(0, image) - home.index_select(0, i)).square().sum(1)
        keep = (squared < reach**2).nonzero().squeeze(1)
        found.append((i[keep], image[keep]))

    i, image = (torch.cat(parts) for parts in zip(*found, strict=True))
    j = images.atom[image]
    shifts = images.shifts.index_select(0, image) - cells_of.index_select(0, j) + cells_of.index_select(0, i)
    others = ((i != j) | (shifts != 0).any(1)).nonzero().squeeze(1)
    return strict_and_sorted(batch, torch.stack([i, j])[:, others], shifts[others], cutoff)


@dataclass(frozen=True, eq=False)
class _Bins:
    """A grid around the atoms of each structure, with a margin of bins that an atom of the structure can reach.

    Attributes:
        low: float64 ``[n_graphs, 3]``, Angstrom, the smallest coordinates of the atoms.
        width: float64 ``[n_graphs, 3]``, Angstrom, sides of a bin.
        sides: int64 ``[n_graphs, 3]``, number of bins.
        offset: int64 ``[n_graphs]``, key of the first bin.
    """

    low: Tensor
    width: Tensor
    sides: Tensor
    offset: Tensor

    @classmethod
    def around(cls, home: Tensor, batch: StructureBatch, reach: float) -> _Bins:
        low, high = bounds(home, batch.graph, batch.n_graphs)
        empty = (batch.counts == 0).unsqueeze(1)
        low, extent = torch.where(empty, 0.0, low), torch.where(empty, 0.0, high - low)
        width = (extent / _MAX_BINS_PER_SIDE).clamp(min=reach / _BINS_PER_CUTOFF)
        sides = (extent / width).floor().long() + 1 + 2 * _BINS_PER_CUTOFF
        volume = sides.prod(1)
        return cls(low, width, sides, volume.cumsum(0) - volume)

    def key(self, positions: Tensor, graph: Tensor) -> Tensor:
        """int64 ``[n]``: the bin of each position, unique over all structures; -1 outside of the grid."""
        place, sides = self._place(positions, graph), self.sides[graph]
        inside = ((place >= 0) & (place < sides)).all(1)
        return torch.where(inside, self._key_of(place, graph), -1)

    def columns(self, home: Tensor, graph: Tensor) -> Tensor:
        """int64 ``[n_atoms, n_columns]``: keys of the lowest bins of the columns in reach of each atom."""
        steps = torch.arange(-_BINS_PER_CUTOFF, _BINS_PER_CUTOFF + 1, device=home.device)
        dx, dy = torch.meshgrid(steps, steps, indexing="ij")
        lowest = torch.stack([dx, dy, torch.full_like(dx, -_BINS_PER_CUTOFF)], dim=2).reshape(-1, 3)
        return self._key_of(self._place(home, graph).unsqueeze(1) + lowest, graph.unsqueeze(1))

    def _place(self, positions: Tensor, graph: Tensor) -> Tensor:
        # The margin is added to integers: an atom can then never reach beyond the grid by rounding.
        return ((positions - self.low[graph]) / self.width[graph]).floor().long() + _BINS_PER_CUTOFF

    def _key_of(self, place: Tensor, graph: Tensor) -> Tensor:
        x, y, z = place.unbind(-1)
        _, ny, nz = self.sides[graph].unbind(-1)
        return self.offset[graph] + (x * ny + y) * nz + z
