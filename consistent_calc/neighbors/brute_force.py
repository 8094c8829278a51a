"""The oracle of the tests: all pairs of all images, one image at a time, in NumPy. Slow, and simple enough to trust."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from consistent_calc.structures import StructureBatch


def brute_force_pairs(batch: StructureBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs within the cutoff; the memory grows with the square of the largest structure.

    Args:
        batch: any structures, on any device.
        cutoff: Angstrom.

    Returns:
        Edges and shifts as in :class:`~consistent_calc.neighbors.NeighborList`, on the CPU.
    """
    positions = batch.positions.detach().cpu().double().numpy()
    graph = batch.graph.cpu().numpy()
    rows = [np.empty((0, 5), np.int64)]
    for index in range(batch.n_graphs):
        cell = batch.cell[index].detach().cpu().double().numpy()
        atoms = np.flatnonzero(graph == index)
        if len(atoms) > 0:
            rows += _pairs_of_one(positions, atoms, cell, batch.pbc[index].cpu().numpy(), cutoff)
    unsorted = np.concatenate(rows)
    table = torch.from_numpy(unsorted[np.lexsort(unsorted.T[::-1])])
    return table[:, :2].T.contiguous(), table[:, 2:].contiguous()


def _pairs_of_one(
    positions: np.ndarray, atoms: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> list[np.ndarray]:
    """Rows (i, j, three shifts) of one structure, one array for each image of the cell."""
    periodic = np.where(pbc[:, None], cell, 0.0)
    inverse = np.linalg.pinv(periodic, rcond=1e-10)
    r = positions[atoms]
    fractional = r @ inverse
    # Two atoms differ by at most the spread of the fractional coordinates, and lattice planes are one height apart.
    reach = np.ceil(np.ptp(fractional, axis=0) + cutoff * np.linalg.norm(inverse, axis=0)).astype(int)
    rows = []
    for shift in product(*(range(-n, n + 1) if p else [0] for n, p in zip(reach, pbc, strict=True))):
        distance = np.linalg.norm(r[None] - r[:, None] + np.asarray(shift) @ periodic, axis=2)
        if shift == (0, 0, 0):
            np.fill_diagonal(distance, np.inf)
        i, j = np.nonzero(distance < cutoff)
        rows.append(np.column_stack([atoms[i], atoms[j], np.tile(shift, (len(i), 1))]))
    return rows
