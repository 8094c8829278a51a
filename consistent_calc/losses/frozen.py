"""The frozen energy E* of the consistency losses: it judges structures and learns nothing from them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from consistent_calc.errors import ConfigurationError
from consistent_calc.forces import forces_from_edges
from consistent_calc.model import ConsistentModel
from consistent_calc.neighbors import neighbor_list
from consistent_calc.structures import StructureBatch


def frozen(model: ConsistentModel) -> ConsistentModel:
    """The model itself if its weights require no gradient, else a copy whose weights do not."""
    if not any(p.requires_grad for p in model.parameters()):
        return model
    return copy.deepcopy(model).requires_grad_(False)


class FrozenEnergy:
    """Energy of given molecules as a function of their positions, by a network whose weights are fixed.

    Without the repulsion at short range, which no structure near equilibrium feels.

    The consistency losses must move the structures, not the surface: with a gradient into the energy head the losses
    would be lowered by flattening the surface, and nothing would be learned about structures. This is the one place
    where that is taken care of.

    Args:
        model: a copy whose weights require no gradient, for example the average of the weights in training.
        structures: the molecules, on the model's device.
        level: index of the readout.
        edge_gradients: a compiled :meth:`ConsistentModel.edge_gradients` of the model, for :meth:`forces`.

    Raises:
        ConfigurationError: some weight still requires a gradient.
    """

    def __init__(
        self,
        model: ConsistentModel,
        structures: StructureBatch,
        level: int = 0,
        edge_gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
    ) -> None:
        if any(p.requires_grad for p in model.parameters()):
            raise ConfigurationError("The energy of a consistency loss must be frozen: call requires_grad_(False).")
        self._model = model
        self._structures = structures
        self._elements = model.element_indices(structures)
        self._levels = torch.full_like(structures.counts, level)
        self._edge_gradients = edge_gradients or model.detached_edge_gradients

    def __call__(self, positions: Tensor) -> Tensor:
        """Energies ``[n_graphs]`` in eV without atomic references; differentiable in ``positions [n_atoms, 3]``."""
        s = self._structures.with_positions(positions)
        neighbors = neighbor_list(s, self._model.cutoff)
        energies, _ = self._model.atomic(
            neighbors.vectors(s), self._elements, neighbors.edges, s.graph, s.charge, self._levels
        )
        return torch.zeros_like(s.charge).index_add(0, s.graph, energies)

    def forces(self, positions: Tensor) -> Tensor:
        """Forces ``[n_atoms, 3]`` in eV/Angstrom, without a graph: constants of the score losses."""
        s = self._structures.with_positions(positions.detach())
        neighbors = neighbor_list(s, self._model.cutoff)
        with torch.no_grad():
            gradients, _, _ = self._edge_gradients(
                neighbors.vectors(s), self._elements, neighbors.edges, s.graph, s.charge, self._levels
            )
        return forces_from_edges(gradients, neighbors.edges, s.n_atoms)
