"""Second derivatives of the energy with respect to the positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from consistent_calc.forces import forces_from_edges
from consistent_calc.nn.repulsion import close_edges, edge_repulsion
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel


def hessian(model: ConsistentModel, structure: StructureBatch, *, level: str | None = None) -> Tensor:
    """Exact Hessian of one structure, open or periodic (of the atoms in the cell, all images moving along).

    Row by row by differentiating the forces once more; the memory is that of one evaluation. In float32 rounding makes
    entries uncertain by about 1e-6 of the largest one; use a float64 model for frequencies of soft modes.

    Args:
        model: on any device.
        structure: a batch of one.
        level: level of theory, by default the model's first.

    Returns:
        ``[3 n_atoms, 3 n_atoms]`` in eV/Angstrom^2, symmetric, in the dtype of the model; coordinates in the order
        x, y, z of the first atom, then of the second, ...

    Raises:
        ValueError: more than one structure.
        InvalidStructureError, UnsupportedElementError, ChargeError, UnknownLevelError: as for
            :meth:`ConsistentModel.predict`.
    """
    if structure.n_graphs != 1:
        raise ValueError(f"A Hessian belongs to one structure, got {structure.n_graphs}; select one with batch[i].")
    batch, neighbors, vectors, arguments = model.prepare(structure, level)
    close, reach = close_edges(vectors, batch.numbers, neighbors.edges)
    ends = batch.numbers[neighbors.edges[:, close]]

    def forces(displacements: Tensor) -> Tensor:
        moved = vectors + displacements[neighbors.edges[1]] - displacements[neighbors.edges[0]]
        gradients, _, _ = model.edge_gradients(moved, *arguments)
        if len(close):
            _, repulsive = edge_repulsion(moved[close], ends, reach)
            gradients = gradients.index_add(0, close, repulsive.to(gradients.dtype))
        return forces_from_edges(gradients, neighbors.edges, batch.n_atoms)

    still = torch.zeros_like(batch.positions)
    pull_back = torch.func.vjp(forces, still)[1]
    rows = []
    for coordinate in range(3 * batch.n_atoms):
        unit = torch.zeros_like(still)
        unit.view(-1)[coordinate] = -1
        rows.append(pull_back(unit)[0].detach().reshape(-1))
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2
