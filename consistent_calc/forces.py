"""Forces and stress from derivatives with respect to the edge vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.neighbors import NeighborList
from consistent_calc.structures import StructureBatch


def forces_from_edges(gradients: Tensor, edges: Tensor, n_atoms: int) -> Tensor:
    """Forces from derivatives with respect to edge vectors ``r_sender - r_receiver`` (a sum rule, exact).

    Args:
        gradients: ``[n_edges, 3]``, eV/Angstrom.
        edges: int64 ``[2, n_edges]``.
        n_atoms: number of atoms.

    Returns:
        ``[n_atoms, 3]``, eV/Angstrom; they add up to zero in every structure.
    """
    forces = gradients.new_zeros(n_atoms, 3)
    return forces.index_add(0, edges[0], gradients).index_add(0, edges[1], -gradients)


def stress_from_edges(gradients: Tensor, vectors: Tensor, neighbors: NeighborList, batch: StructureBatch) -> Tensor:
    """Stress ``sum_edges r (x) dE/dr / V`` of the fully or partly periodic structures; zero for open ones.

    The volume is ``|det(cell)|``, as in ASE; where a direction has no lattice vector the stress is zero.

    Returns:
        ``[n_graphs, 3, 3]``, eV/Angstrom^3, symmetric.
    """
    virial = vectors[:, :, None] * gradients[:, None, :]
    total = virial.new_zeros(batch.n_graphs, 3, 3).index_add(0, batch.graph[neighbors.edges[0]], virial)
    volume = torch.linalg.det(batch.cell).abs()
    periodic = batch.pbc.any(1) & (volume > 0)
    stress = torch.where(periodic, 1 / volume.clamp_min(1e-10), 0)[:, None, None] * total
    return (stress + stress.mT) / 2
