"""Equivariant interaction layers.

Node features are one tensor per degree l = 0, 1, ... of shape ``[n_atoms, 2l + 1, channels_l]`` (the scalars have no
middle axis), in e3nn's component order. Messages multiply learned radial filters with spherical harmonics of the edge
and with the sender's features, degree by degree; updates mix channels and turn invariant products into scalars. This
is the scheme of PaiNN (Schuett, Unke, Gastegger 2021), extended to degrees above one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Scale below which lengths are smoothed.
LENGTH_EPS = 1e-2


def norm(x: Tensor, eps: float = LENGTH_EPS) -> Tensor:
    """Smooth length over axis 1: ``sqrt(|x|^2 + eps^2) - eps``, which has all derivatives at zero."""
    return torch.sqrt((x * x).sum(1) + eps * eps) - eps


@dataclass(frozen=True)
class RelatedFilters:
    """What the molecular graph adds to the filters of the pairs that it relates: ``weight @ basis * scale + shift``.

    Attributes:
        basis: ``[n_edges, size]``, functions of the distance.
        kinds: int64 ``[n_edges]``, kind of the pair; 0 is unrelated and adds nothing.
        weight: ``[filters, size]``.
        scale, shift: ``[kinds, filters]``.
    """

    basis: Tensor
    kinds: Tensor
    weight: Tensor
    scale: Tensor
    shift: Tensor

    def dense(self) -> Tensor:
        """``[n_edges, filters]``."""
        filters = torch.nn.functional.linear(self.basis, self.weight)
        scale, shift = (torch.nn.functional.embedding(self.kinds, table) for table in (self.scale, self.shift))
        return (filters * scale + shift) * (self.kinds != 0).to(filters.dtype)[:, None]


class Message(nn.Module):
    """Sends the neighbors' features along the edges.

    Args:
        channels: channels per degree, the scalars first.
        radial_size: size of the radial basis.
        mean_neighbors: typical number of neighbors; sums are divided by its square root.
    """

    def __init__(self, channels: tuple[int, ...], radial_size: int, mean_neighbors: float) -> None:
        super().__init__()
        f0 = channels[0]
        # One filter for scalars; for each higher degree one on the harmonics and one on the sender's features.
        self.splits = [f0] + [f for f in channels[1:] for _ in range(2)]
        self.scale = mean_neighbors**-0.5
        self.normalize = nn.LayerNorm(f0)
        self.node = nn.Sequential(nn.Linear(f0, f0), nn.SiLU(), nn.Linear(f0, sum(self.splits)))
        self.filter = nn.Linear(radial_size, sum(self.splits), bias=False)

    def forward(
        self,
        features: list[Tensor],
        edges: Tensor,
        radial: Tensor,
        harmonics: list[Tensor],
        related: RelatedFilters | None = None,
        messages: MessageSum | None = None,
    ) -> list[Tensor]:
        """One round of messages.

        Args:
            features: per degree, see the module's docstring.
            edges: int64 ``[2, n_edges]``, receiver and sender.
            radial: ``[n_edges, radial_size]``, zero at the cutoff.
            harmonics: per degree l >= 1 ``[n_edges, 2l + 1]``.
            related: what the molecular graph adds to the filters, for the structure head.
            messages: :func:`sum_messages`, or a faster way to the same result.

        Returns:
            What to add to ``features``.
        """
        node = self.node(self.normalize(features[0])) * self.scale
        return (messages or sum_messages)(node, self.filter.weight, radial, related, harmonics, features, edges)


def sum_messages(
    node: Tensor,
    weight: Tensor,
    radial: Tensor,
    related: RelatedFilters | None,
    harmonics: list[Tensor],
    features: list[Tensor],
    edges: Tensor,
) -> list[Tensor]:
    """What every atom receives from its neighbors.

    The edge from j to i has the filters ``w = node[j] (weight @ radial + related)``, which split into ``w_0`` and, for
    each degree l, ``a_l`` and ``b_l``. Atom i receives ``sum_j w_0`` and ``sum_j a_l Y_l + b_l x_l[j]``.

    Args:
        node: ``[n_atoms, filters]``.
        weight: ``[filters, radial_size]``.
        radial, related, harmonics, features, edges: as in :class:`Message`.

    Returns:
        Per degree, shapes of ``features``.
    """
    receiver, sender = edges
    filters = torch.nn.functional.linear(radial, weight)
    if related is not None:
        filters = filters + related.dense()
    widths = [features[0].shape[1], *(x.shape[2] for x in features[1:] for _ in range(2))]
    parts = (node[sender] * filters).split(widths, dim=1)
    out = [torch.zeros_like(features[0]).index_add(0, receiver, parts[0])]
    for degree, x in enumerate(features[1:]):
        on_harmonics, on_sender = parts[1 + 2 * degree], parts[2 + 2 * degree]
        message = on_harmonics[:, None] * harmonics[degree][:, :, None] + on_sender[:, None] * x[sender]
        out.append(torch.zeros_like(x).index_add(0, receiver, message))
    return out


def per_degree(flat: Tensor, features: list[Tensor]) -> list[Tensor]:
    """Splits ``[n_atoms, sum of all]`` into tensors of the shapes of ``features``."""
    parts = flat.split([x[0].numel() for x in features], dim=1)
    return [part.view(x.shape) for part, x in zip(parts, features, strict=True)]


#: Signature of :func:`sum_messages`.
MessageSum = Callable[[Tensor, Tensor, Tensor, RelatedFilters | None, list[Tensor], list[Tensor], Tensor], list[Tensor]]


class Update(nn.Module):
    """Mixes the channels of each atom; invariant products of the higher degrees enter the scalars."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        f0, higher = channels[0], channels[1:]
        self.left = nn.ModuleList(nn.Linear(f, f, bias=False) for f in higher)
        self.right = nn.ModuleList(nn.Linear(f, f, bias=False) for f in higher)
        self.splits = [f0, *(f for f in higher for _ in range(2))]
        self.normalize = nn.LayerNorm(f0)
        self.mlp = nn.Sequential(nn.Linear(f0 + sum(higher), f0), nn.SiLU(), nn.Linear(f0, sum(self.splits)))
        self.products = nn.Linear(sum(higher), f0, bias=False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """What to add to ``features`` (same shapes)."""
        left = [linear(x) for linear, x in zip(self.left, features[1:], strict=True)]
        right = [linear(x) for linear, x in zip(self.right, features[1:], strict=True)]
        hidden = torch.cat([self.normalize(features[0]), *(norm(x) for x in right)], dim=1)
        gates = self.mlp(hidden).split(self.splits, dim=1)
        products = [(a * b).sum(1) * gates[2 + 2 * k] for k, (a, b) in enumerate(zip(left, right, strict=True))]
        scalars = gates[0] + self.products(torch.cat(products, dim=1))
        return [scalars, *(x * gates[1 + 2 * k][:, None] for k, x in enumerate(left))]
