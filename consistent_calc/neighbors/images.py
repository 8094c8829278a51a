"""Explicit periodic images: with them, a periodic structure is searched as if it were open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consistent_calc.lattice import reciprocal_vectors, translations
from consistent_calc.neighbors.pairs import expand
from consistent_calc.structures import StructureBatch


@dataclass(frozen=True, eq=False)
class Images:
    """The atoms of a batch and their periodic images.

    Attributes:
        positions: float64 ``[n_images, 3]``, Angstrom.
        atom: int64 ``[n_images]``, the atom each is an image of.
        shifts: int64 ``[n_images, 3]``: the image is at ``home[atom] + shifts @ cell``.
    """

    positions: Tensor
    atom: Tensor
    shifts: Tensor

    def take(self, index: Tensor) -> Images:
        """The images with these indices, in this order."""
        return Images(self.positions[index], self.atom[index], self.shifts[index])


def wrap(batch: StructureBatch) -> tuple[Tensor, Tensor]:
    """Moves atoms into their cells, along the periodic directions only.

    Without it, one atom that drifted over many cells would ask for images of all the others on its way.

    Returns:
        float64 ``[n_atoms, 3]`` home positions in Angstrom and int64 ``[n_atoms, 3]`` the cell each atom was in:
        ``positions = home + cells_of @ cell``.
    """
    cells_of = _fractional(batch, batch.positions).floor()
    return batch.positions - translations(cells_of, batch.cell, batch.graph), cells_of.long()


def periodic_images(batch: StructureBatch, home: Tensor, cutoff: float) -> Images:
    """Every image within the cutoff of the parallelepiped that the atoms of its structure fill (and a few more).

    Args:
        batch: in float64.
        home: float64 ``[n_atoms, 3]``, wrapped positions, Angstrom.
        cutoff: Angstrom; nothing limits it to the size of the cell.

    Returns:
        The images, the atoms themselves included with zero shift.
    """
    graph = batch.graph
    fractional = _fractional(batch, home)
    low, high = bounds(fractional, graph, batch.n_graphs)
    # The cutoff in units of the heights of the cell; zero in open directions, which leaves the one shift 0 there.
    reach = cutoff * reciprocal_vectors(batch.cell, batch.pbc).norm(dim=1)
    first = ((low - reach)[graph] - fractional).ceil().long()
    last = ((high + reach)[graph] - fractional).floor().long()
    n_shifts = last - first + 1
    counts = n_shifts.prod(1)
    atom, index = expand(torch.zeros_like(counts), counts, int(counts.sum()))
    _, ny, nz = n_shifts[atom].unbind(1)
    steps = torch.stack([index // (ny * nz), index // nz % ny, index % nz], dim=1)
    shifts = first[atom] + steps
    return Images(home[atom] + translations(shifts, batch.cell, graph[atom]), atom, shifts)


def bounds(values: Tensor, graph: Tensor, n_graphs: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest ``values[n, 3]`` of each structure, ``[n_graphs, 3]``; infinite for empty structures."""
    index = graph.unsqueeze(1).expand_as(values)
    low = values.new_full((n_graphs, 3), torch.inf).scatter_reduce(0, index, values, "amin")
    high = values.new_full((n_graphs, 3), -torch.inf).scatter_reduce(0, index, values, "amax")
    return low, high


def _fractional(batch: StructureBatch, positions: Tensor) -> Tensor:
    """Fractional coordinates ``[n_atoms, 3]``, zero in open directions."""
    return translations(positions, reciprocal_vectors(batch.cell, batch.pbc), batch.graph)
