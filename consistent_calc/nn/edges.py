"""Functions of the edge vectors that all layers share: the radial basis and the spherical harmonics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from e3nn import o3
from torch import Tensor

from consistent_calc.nn.radial import BesselBasis

#: Signature of :func:`edge_functions`.
EdgeFunctions = Callable[[Tensor, BesselBasis, Sequence[int]], tuple[Tensor, list[Tensor]]]


def edge_functions(vectors: Tensor, basis: BesselBasis, degrees: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Radial functions and spherical harmonics of edges.

    Args:
        vectors: ``[n_edges, 3]``, Angstrom, none of length zero.
        basis: radial functions.
        degrees: of the harmonics.

    Returns:
        ``[n_edges, radial_size]``, zero at the cutoff, and for each degree l ``[n_edges, 2l + 1]``, in e3nn's order and
        normalization "component".
    """
    distance = torch.sqrt((vectors * vectors).sum(1))
    directions = vectors / distance[:, None]
    harmonics = [
        o3.spherical_harmonics(degree, directions, normalize=False, normalization="component") for degree in degrees
    ]
    return basis(distance), harmonics
