"""The losses of one batch of each task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from consistent_calc.errors import ConfigurationError
from consistent_calc.forces import forces_from_edges
from consistent_calc.losses.labels import charge_loss, energy_loss, vector_loss
from consistent_calc.losses.structure import denoising_loss
from consistent_calc.model import ConsistentModel
from consistent_calc.nn.kernels import Kernels
from consistent_calc.train.batches import EnergyBatch, NoisyBatch
from consistent_calc.train.configuration import Consistency, Weights
from consistent_calc.train.consistency import Denoised, optimality, score


class Objective:
    """Losses of a model, through compiled network functions if wanted.

    Args:
        model: its parameters are trained.
        weights: factors of the losses; a consistency loss of weight zero is not computed.
        consistency: forms of the consistency losses.
        frozen: the energy model of the consistency losses, whose weights require no gradient.
        compile: on the CPU compile the network functions, on a GPU their messages
            (:mod:`consistent_calc.nn.compiled`). Of the former the derivative with respect to the positions is taken
            inside the compiled function: compiled energies with an outer ``create_graph`` fail in torch.
    """

    def __init__(
        self,
        model: ConsistentModel,
        weights: Weights,
        consistency: Consistency | None = None,
        frozen: ConsistentModel | None = None,
        *,
        compile: bool = False,
    ) -> None:
        self.model = model
        self.weights = weights
        self.consistency = consistency or Consistency()
        self.frozen = frozen
        if frozen is None and max(weights.optimality, weights.score) > 0:
            raise ConfigurationError("Consistency losses need a frozen energy model.")
        self._edge_gradients: Callable[..., Any] = model.edge_gradients
        self._atomic: Callable[..., Any] = model.atomic
        self._displacements: Callable[..., Any] = model.displacements
        self._frozen_gradients: Callable[..., Any] | None = None
        if compile and model.device.type == "cpu":
            self._edge_gradients, self._atomic, self._displacements = (
                torch.compile(f, dynamic=True, fullgraph=True)
                for f in (model.edge_gradients, model.atomic, model.displacements)
            )
        elif compile:
            from consistent_calc.nn.compiled import sum_messages

            kernels = Kernels(sum_messages)
            self._edge_gradients = partial(_edge_gradients, model, kernels)
            self._atomic, self._displacements = (
                partial(f, kernels=kernels) for f in (model.atomic, model.displacements)
            )
            if frozen is not None:
                self._frozen_gradients = partial(_edge_gradients, frozen, kernels)

    def predict(self, batch: EnergyBatch, *, forces: bool = True) -> dict[str, Tensor]:
        """Differentiable predictions as those of the model in use, but energies without atomic references.

        Energy, charges, dipole, and forces if asked for.
        """
        arguments = (batch.vectors, batch.elements, batch.edges, batch.graph, batch.charge, batch.level)
        out = {}
        if forces:
            gradients, energies, charges = self._edge_gradients(*arguments)
            out["forces"] = batch.repulsive_forces + forces_from_edges(gradients, batch.edges, len(batch.positions))
        else:
            energies, charges = self._atomic(*arguments)
        return out | {
            "energy": batch.repulsion.index_add(0, batch.graph, energies),
            "charges": charges,
            "dipole": torch.zeros_like(batch.dipole).index_add(0, batch.graph, charges[:, None] * batch.positions),
        }

    def energy_losses(self, batch: EnergyBatch) -> dict[str, Tensor]:
        """Unweighted losses of the energy task."""
        # Forces take two thirds of the work; without a label there is nothing to compare them with.
        predicted = self.predict(batch, forces=batch.has_forces)
        no_loss = batch.energy.new_zeros(())
        return {
            "energy": energy_loss(predicted["energy"], batch.energy, batch.counts),
            "forces": vector_loss(predicted["forces"], batch.forces) if batch.has_forces else no_loss,
            "charges": charge_loss(predicted["charges"], batch.charges),
            "dipole": vector_loss(predicted["dipole"], batch.dipole),
        }

    def structure_losses(self, batch: NoisyBatch, seed: int = 0) -> dict[str, Tensor]:
        """Unweighted losses of the structure task.

        Args:
            batch: noisy structures and their targets.
            seed: of the random displacements of optimality consistency.
        """
        target, sigma = batch.target, batch.sigma
        noisy = target.with_positions(batch.noisy)
        denoised = self.model.denoise(noisy, sigma, graph=batch.graph, displacements=self._displacements)
        scale = self.model.preconditioning.c_out(sigma)
        losses = {"structure": denoising_loss(denoised, target.positions, scale, target.graph)}
        if self.frozen is not None:
            data = Denoised(target, batch.noisy, denoised, sigma)
            if self.weights.optimality > 0:
                losses["optimality"] = optimality(self.frozen, data, self.consistency, seed, self._frozen_gradients)
            if self.weights.score > 0:
                losses["score"] = score(self.frozen, data, self.consistency, self._frozen_gradients)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of losses named as in :class:`Weights`."""
        weighted = [getattr(self.weights, name) * value for name, value in losses.items()]
        return torch.stack(weighted).sum()


def _edge_gradients(model: ConsistentModel, kernels: Kernels, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :meth:`ConsistentModel.edge_gradients`; differentiable where gradients are enabled."""
    return model.edge_gradients_by_autograd(*arguments, kernels=kernels, create_graph=torch.is_grad_enabled())
