"""ConsistentModel: one encoder, an energy head and a structure head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from consistent_calc.diffusion.noise import centered
from consistent_calc.diffusion.preconditioning import Preconditioning
from consistent_calc.elements import symbol
from consistent_calc.errors import InvalidStructureError, UnknownLevelError, UnsupportedElementError
from consistent_calc.forces import forces_from_edges, stress_from_edges
from consistent_calc.neighbors import NeighborList, neighbor_list
from consistent_calc.nn.encoder import Encoder
from consistent_calc.nn.energy_head import EnergyHead
from consistent_calc.nn.kernels import PLAIN, Kernels
from consistent_calc.nn.pairs import graph_pairs
from consistent_calc.nn.repulsion import short_range_repulsion
from consistent_calc.nn.structure_head import StructureHead
from consistent_calc.structures import StructureBatch
from consistent_calc.validity import check_distances


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the network before its weights are loaded.

    Attributes:
        elements: atomic numbers known to the model.
        levels: names of the levels of theory, the default one first.
        cutoff: Angstrom.
        channels: channels of the features of degree l = 0, 1, ...
        n_layers: interaction layers.
        radial_size: Bessel functions.
        mean_neighbors: typical number of neighbors within the cutoff.
        prior_level: noise level by which the structure head knows samples of the harmonic prior, Angstrom; None if it
            has not learned them.
    """

    elements: tuple[int, ...]
    levels: tuple[str, ...]
    cutoff: float = 5.0
    channels: tuple[int, ...] = (128, 64, 32)
    n_layers: int = 3
    radial_size: int = 16
    mean_neighbors: float = 20.0
    prior_level: float | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the energy head says of a batch.

    Attributes:
        energy: float64 ``[n_graphs]``, eV, atomic reference energies included.
        energies: float64 ``[n_atoms]``, eV, atomic contributions to ``energy``.
        forces: ``[n_atoms, 3]``, eV/Angstrom, or None if not asked for.
        charges: ``[n_atoms]``, partial charges in e that sum to the total charge.
        stress: ``[n_graphs, 3, 3]``, eV/Angstrom^3 (zero for open systems), or None if not asked for.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None
    charges: Tensor
    stress: Tensor | None


class ConsistentModel(nn.Module):
    """A shared E(3)-equivariant encoder with an energy head and a structure head.

    The energy is a smooth function of numbers, positions, cell and total charge alone; bonds and stereo tags are read
    by :meth:`denoise` only.

    Args:
        config: the architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            len(config.elements),
            config.channels,
            config.n_layers,
            config.radial_size,
            config.cutoff,
            config.mean_neighbors,
        )
        self.energy_head = EnergyHead(config.channels[0], len(config.levels))
        self.structure_head = StructureHead(config.channels, config.n_layers, self.encoder.n_filters)
        self.preconditioning = Preconditioning()
        # Atomic reference energies stay in float64 whatever the dtype of the network (see _apply).
        self.references: Tensor
        self.register_buffer("references", torch.zeros(len(config.levels), len(config.elements), dtype=torch.float64))
        lookup = torch.full((120,), -1, dtype=torch.int64)
        lookup[list(config.elements)] = torch.arange(len(config.elements))
        self.lookup: Tensor
        self.register_buffer("lookup", lookup, persistent=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Moves the module as torch does, but never rounds the reference energies (up to 1e5 eV) to float32."""
        references = self.references
        super()._apply(fn, recurse)
        self.references = references.to(device=self.references.device)
        return self

    # ------------------------------------------------------------------ properties

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers known to the model."""
        return self.config.elements

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of theory, the default one first."""
        return self.config.levels

    @property
    def prior_level(self) -> float | None:
        """Noise level that stands for the harmonic prior, Angstrom, if the structure head knows it."""
        return self.config.prior_level

    @property
    def cutoff(self) -> float:
        """Cutoff of the neighbor list, Angstrom."""
        return self.config.cutoff

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.elements.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.encoder.elements.weight.dtype

    # ------------------------------------------------------------------ energy

    def atomic(
        self,
        vectors: Tensor,
        elements: Tensor,
        edges: Tensor,
        graph: Tensor,
        charge: Tensor,
        level: Tensor,
        kernels: Kernels = PLAIN,
    ) -> tuple[Tensor, Tensor]:
        """The differentiable core: atomic energies without references, and charges.

        Args:
            vectors: ``[n_edges, 3]``, receiver to sender, Angstrom.
            elements: int64 ``[n_atoms]``, indices into ``config.elements``.
            edges: int64 ``[2, n_edges]``.
            graph: int64 ``[n_atoms]``.
            charge: ``[n_graphs]``.
            level: int64 ``[n_graphs]``.
            kernels: how it is computed.
        """
        features = self.encoder(elements, vectors, edges, graph, charge, kernels=kernels)
        return self.energy_head(features[0], graph, charge, level)

    def edge_gradients(
        self, vectors: Tensor, elements: Tensor, edges: Tensor, graph: Tensor, charge: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Derivative of the energy with respect to every edge vector, atomic energies, charges (see :meth:`atomic`).

        A pure function of tensors, so that it can be compiled; forces and stress are sums of the first result.
        """

        def total(v: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            energies, charges = self.atomic(v, elements, edges, graph, charge, level)
            return energies.sum(), (energies, charges)

        gradients, (energies, charges) = torch.func.grad(total, has_aux=True)(vectors)
        return gradients, energies, charges

    def detached_edge_gradients(
        self, vectors: Tensor, elements: Tensor, edges: Tensor, graph: Tensor, charge: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`edge_gradients`, but faster and without a graph, for edges as :func:`neighbor_list` gives them.

        Only the sums of the gradients that make forces and stress are meaningful on the CPU, where the derivative of
        one direction of a pair may be given to the other.
        """
        if torch.is_inference_mode_enabled():  # autograd does not work there, torch.func does
            return self.edge_gradients(vectors, elements, edges, graph, charge, level)
        arguments = vectors, elements, edges, graph, charge, level
        if self._kernels() is PLAIN:
            found = self.edge_gradients_by_autograd(*arguments, kernels=PLAIN, create_graph=False)
            gradients, energies, charges = (x.detach() for x in found)
            return gradients, energies, charges
        from consistent_calc.nn.derivative import edge_gradients

        return edge_gradients(self.encoder, self.energy_head, *arguments)

    def edge_gradients_by_autograd(
        self, vectors: Tensor, *arguments: Tensor, kernels: Kernels, create_graph: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`edge_gradients`, by any kernels.

        Args:
            vectors, arguments: of :meth:`atomic`.
            kernels: how it is computed.
            create_graph: whether the gradients can be differentiated, which the kernels must allow.
        """
        with torch.enable_grad():
            leaf = vectors.detach().requires_grad_()
            energies, charges = partial(self.atomic, kernels=kernels)(leaf, *arguments)
            (gradients,) = torch.autograd.grad(energies.sum(), leaf, create_graph=create_graph)
        return gradients, energies, charges

    def predict(
        self, batch: StructureBatch, *, level: str | None = None, forces: bool = True, stress: bool = False
    ) -> Prediction:
        """Energies and their derivatives, for use: validated input, no autograd graph.

        Args:
            batch: structures on any device; they are moved to the model's.
            level: level of theory, by default the first of :attr:`levels`.
            forces: whether to compute forces.
            stress: whether to compute the stress of the periodic structures.

        Raises:
            InvalidStructureError, ChargeError: what no model could answer.
            UnsupportedElementError: an element that the model, or its readout for this level, does not know.
            UnknownLevelError: no readout for this level.
        """
        batch, neighbors, vectors, arguments = self.prepare(batch, level)
        elements, *_, levels = arguments
        with torch.no_grad():
            if forces or stress:
                gradients, raw, charges = self.detached_edge_gradients(vectors, *arguments)
            else:
                raw, charges = self.atomic(vectors, *arguments, self._kernels())
            repulsion, repulsive_gradients = short_range_repulsion(vectors, batch.numbers, neighbors.edges)
            if forces or stress:
                gradients = gradients + repulsive_gradients
            energies = raw.double() + repulsion + self.references[levels[batch.graph], elements]
            return Prediction(
                energy=energies.new_zeros(batch.n_graphs).index_add(0, batch.graph, energies),
                energies=energies,
                forces=forces_from_edges(gradients, neighbors.edges, batch.n_atoms) if forces else None,
                charges=charges,
                stress=stress_from_edges(gradients, vectors, neighbors, batch) if stress else None,
            )

    def _kernels(self) -> Kernels:
        """The faster ones where there are any."""
        if self.device.type != "cpu":
            return PLAIN
        from consistent_calc.nn.fused import sum_messages  # numba takes a while to import
        from consistent_calc.nn.fused_edges import edge_functions

        return Kernels(sum_messages, edge_functions)

    def prepare(
        self, batch: StructureBatch, level: str | None
    ) -> tuple[StructureBatch, NeighborList, Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Validates structures and brings them into the form that the network takes.

        Args and errors as in :meth:`predict`.

        Returns:
            The batch on the device and in the dtype of the model, its neighbors, the edge vectors ``[n_edges, 3]``
            without autograd graph, and the other arguments of :meth:`atomic` in their order.
        """
        elements = self.element_indices(batch)
        self._check_level(level, elements)
        exact = batch.validate(warn_odd_electrons=False).to(self.device, torch.float64)
        levels = torch.full_like(exact.counts, self.level_index(level))
        neighbors = neighbor_list(exact, self.cutoff)
        # Only differences are rounded to the network's precision: rounded positions far from the origin would make
        # the energy depend on where the molecule lies.
        vectors = neighbors.vectors(exact).detach().to(self.dtype)
        batch = exact.to(dtype=self.dtype)
        check_distances(vectors, neighbors.edges)
        return (
            batch,
            neighbors,
            vectors,
            (elements, neighbors.edges, batch.graph, batch.charge, levels),
        )

    def level_index(self, level: str | None) -> int:
        """Index of a level's readout; None is the default level."""
        if level is None:
            return 0
        if level not in self.levels:
            raise UnknownLevelError(f"No readout for the level {level!r}; this model has: {', '.join(self.levels)}.")
        return self.levels.index(level)

    def level_elements(self, level: str | None = None) -> tuple[int, ...]:
        """Atomic numbers that a level of theory has reference energies of: those that its training data held.

        At a level without any, such as one learned from forces alone by a new model, these are all of :attr:`elements`.

        Raises:
            UnknownLevelError: no readout for this level.
        """
        seen = (self.references[self.level_index(level)] != 0).tolist()
        return tuple(z for z, known in zip(self.elements, seen, strict=True) if known) or self.elements

    def _check_level(self, level: str | None, elements: Tensor) -> None:
        """Raises UnsupportedElementError where the energy of an atom would lack its reference."""
        unseen = self.references[self.level_index(level)] == 0
        if bool(unseen[elements].any()) and not bool(unseen.all()):
            known, present = self.level_elements(level), {self.elements[k] for k in elements.tolist()}
            missing = ", ".join(symbol(z) for z in sorted(present - set(known)))
            others = [repr(other) for other in self.levels if present <= set(self.level_elements(other))]
            raise UnsupportedElementError(
                f"The level {level or self.levels[0]!r} does not know {missing}: its training data held "
                f"{', '.join(map(symbol, known))} only. Energies would be off by the energy of whole atoms; "
                f"levels that know all elements here: {', '.join(others) or 'none'}."
            )

    def element_indices(self, batch: StructureBatch) -> Tensor:
        """int64 ``[n_atoms]``, rows of the element table, on the model's device."""
        indices = self.lookup[batch.numbers.to(self.device).clamp(0, 119)]
        if bool((indices < 0).any()):
            batch.validate(self.elements, warn_odd_electrons=False)
            raise UnsupportedElementError("The batch holds an element outside the model's table.")
        return indices

    # ------------------------------------------------------------------ structure

    def structure_graph(self, batch: StructureBatch, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`denoise` works out first: int64 elements ``[n_atoms]``, edges ``[2, n]`` and their kinds ``[n]``.

        Args and errors as in :meth:`denoise`.
        """
        if batch.bonds is None or batch.stereo is None:
            raise InvalidStructureError("The structure head needs the molecular graph; use StructureBatch.from_rdkit.")
        scaled = batch.with_positions(batch.positions * self.preconditioning.c_in(sigma)[batch.graph, None])
        return self.element_indices(batch), *graph_pairs(scaled, neighbor_list(scaled, self.cutoff).edges)

    def denoise(
        self,
        batch: StructureBatch,
        sigma: Tensor,
        *,
        graph: tuple[Tensor, Tensor, Tensor] | None = None,
        displacements: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Predicts the clean structure from a noisy one (differentiable).

        Args:
            batch: noisy positions, with bonds and stereo tags.
            sigma: ``[n_graphs]``, noise level of each structure, Angstrom.
            graph: :meth:`structure_graph` of the same arguments, if known already.
            displacements: a compiled :meth:`displacements`, for training.

        Returns:
            ``[n_atoms, 3]``, the denoiser's estimate of the clean positions, Angstrom.

        Raises:
            InvalidStructureError: without bonds the molecular graph is unknown.
        """
        elements, edges, kinds = graph or self.structure_graph(batch, sigma)
        assert batch.stereo is not None
        scaled = batch.positions * self.preconditioning.c_in(sigma)[batch.graph, None]
        arguments = scaled, elements, edges, kinds, batch.graph, batch.charge, batch.stereo, sigma
        if torch.is_grad_enabled():
            output = (displacements or self.displacements)(*arguments)
        else:
            output = self.displacements(*arguments, self._kernels())
        skip = self.preconditioning.c_skip(sigma)[batch.graph, None]
        # Written as a correction, so that c_skip = 1 leaves the positions as they are to the last digit.
        kept = batch.positions + (skip - 1) * centered(batch.positions, batch.graph, batch.n_graphs)
        return kept + self.preconditioning.c_out(sigma)[batch.graph, None] * output

    def displacements(
        self,
        positions: Tensor,
        elements: Tensor,
        edges: Tensor,
        kinds: Tensor,
        graph: Tensor,
        charge: Tensor,
        stereo: Tensor,
        sigma: Tensor,
        kernels: Kernels = PLAIN,
    ) -> Tensor:
        """The structure network F of ``D = c_skip x + c_out F(c_in x)``: ``[n_atoms, 3]``, in units of ``c_out``.

        Pure function of tensors; ``positions`` are scaled already, shapes as in :meth:`atomic` and :meth:`denoise`.
        """
        receiver, sender = edges
        vectors = positions[sender] - positions[receiver]
        # Noise can put two atoms on top of each other; a floor keeps the direction finite.
        vectors = vectors + 1e-4 * (vectors.abs().sum(1, keepdim=True) < 1e-3)
        distances = vectors.norm(dim=1)
        noise = self.preconditioning.c_noise(sigma)[graph]
        condition = self.structure_head.condition(positions, edges, distances, kinds, stereo, noise)
        return self.structure_head(self.encoder(elements, vectors, edges, graph, charge, condition, kernels))
