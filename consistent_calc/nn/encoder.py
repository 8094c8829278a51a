"""The shared encoder: atoms and edge vectors to equivariant node features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consistent_calc.nn.kernels import PLAIN, Kernels
from consistent_calc.nn.layers import Message, RelatedFilters, Update
from consistent_calc.nn.radial import BesselBasis


@dataclass(frozen=True)
class GraphCondition:
    """What only the structure head tells the encoder (already embedded); the energy never sees it.

    Attributes:
        scalars: ``[n_atoms, channels_0]``, added to the embedding of the elements.
        vectors: ``[n_atoms, 3, channels_1]``, initial vectors (chirality).
        filters: per layer, added to the radial filters.
    """

    scalars: Tensor
    vectors: Tensor
    filters: list[RelatedFilters]


class Encoder(nn.Module):
    """E(3)-equivariant message passing.

    Args:
        n_elements: size of the element table.
        channels: channels per degree, the scalars first, e.g. ``(128, 64, 32)`` for l = 0, 1, 2.
        n_layers: interaction layers.
        radial_size: Bessel functions.
        cutoff: Angstrom.
        mean_neighbors: typical number of neighbors.
    """

    def __init__(
        self,
        n_elements: int,
        channels: tuple[int, ...],
        n_layers: int,
        radial_size: int,
        cutoff: float,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.degrees = list(range(1, len(channels)))
        self.elements = nn.Embedding(n_elements, channels[0])
        self.radial = BesselBasis(radial_size, cutoff)
        messages = [Message(channels, radial_size, mean_neighbors) for _ in range(n_layers)]
        self.n_filters = sum(messages[0].splits)
        self.messages = nn.ModuleList(messages)
        self.updates = nn.ModuleList(Update(channels) for _ in range(n_layers))
        self.charge_site = nn.Sequential(nn.Linear(channels[0], 32), nn.SiLU(), nn.Linear(32, 1))
        self.charge_embedding = nn.Linear(2, channels[0], bias=False)

    def forward(
        self,
        elements: Tensor,
        vectors: Tensor,
        edges: Tensor,
        graph: Tensor,
        charge: Tensor,
        condition: GraphCondition | None = None,
        kernels: Kernels = PLAIN,
    ) -> list[Tensor]:
        """Encodes a batch.

        Args:
            elements: int64 ``[n_atoms]``, indices into the element table.
            vectors: ``[n_edges, 3]`` from receiver to sender, Angstrom.
            edges: int64 ``[2, n_edges]``, receiver and sender.
            graph: int64 ``[n_atoms]``.
            charge: ``[n_graphs]``, total charges in e.
            condition: given by the structure head only.
            kernels: how it is computed.

        Returns:
            Features per degree: ``[n_atoms, channels_0]``, ``[n_atoms, 3, channels_1]``, ...
        """
        radial, harmonics = kernels.edge_functions(vectors, self.radial, self.degrees)
        scalars = self.elements(elements)
        features = [scalars]
        features += [scalars.new_zeros(len(scalars), 2 * k + 1, self.channels[k]) for k in self.degrees]
        if condition is not None:
            features[0] = features[0] + condition.scalars
            features[1] = features[1] + condition.vectors
        for k, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            related = None if condition is None else condition.filters[k]
            received = message(features, edges, radial, harmonics, related, kernels.sum_messages)
            features = [x + dx for x, dx in zip(features, received, strict=True)]
            features = [x + dx for x, dx in zip(features, update(features), strict=True)]
            if k == 0:
                features[0] = features[0] + self.spread_charge(features[0], graph, charge)
        return features

    def spread_charge(self, scalars: Tensor, graph: Tensor, charge: Tensor) -> Tensor:
        """Embeds the total charge on the atoms that attract it; to be added to the scalars.

        A softmax over each structure, on features that know the first neighbor shell, places the charge; nothing is
        added at zero charge, so distant neutral molecules stay independent.
        """
        score = torch.exp(5 * torch.tanh(self.charge_site(scalars)[:, 0] / 5))
        total = torch.zeros_like(charge).index_add(0, graph, score)
        share = score * (charge / total)[graph]
        return self.charge_embedding(torch.stack([share.clamp(min=0), share.clamp(max=0)], dim=1))
