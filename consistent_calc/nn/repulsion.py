"""The repulsion of nuclei where no training data reach: it keeps atoms from falling through a bond into a hole.

Closer than any bond the network has learned nothing and may say anything: of all 24 kinds of bonds that were tried, the
energy falls again when they are compressed enough (``benchmarks/accuracy/compressed_bonds.py``). From :data:`REACH`
times the sum of the covalent radii inward the screened repulsion of the nuclei is added, the universal potential of
Ziegler, Biersack & Littmark ("The Stopping and Range of Ions in Solids", 1985), switched on smoothly. All but a handful
of the bonds of the training data are longer. Networks are trained to the rest that it leaves of the labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.elements import COVALENT_RADII
from consistent_calc.nn.radial import ORDER, envelope, envelope_coefficients
from consistent_calc.units import BOHR, HARTREE

#: Multiple of the sum of the covalent radii where the repulsion begins. The triple bonds of N2, CO and acetylene are at
#: 0.77-0.79; of 9,000 validation structures one has a bond shorter than 0.70.
REACH = 0.70
# The universal screening function: sum of amplitude * exp(-decay * r / length).
_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
_RADII = torch.tensor(COVALENT_RADII, dtype=torch.float64)


def short_range_repulsion(vectors: Tensor, numbers: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Energies and their derivatives.

    Args:
        vectors: ``[n_edges, 3]``, receiver to sender, Angstrom, both directions of every pair.
        numbers: int64 ``[n_atoms]``, atomic numbers; elements beyond curium take its radius.
        edges: int64 ``[2, n_edges]``.

    Returns:
        Float64 ``[n_atoms]``, eV, half of each pair's energy to either atom, and ``[n_edges, 3]``, its derivative with
        respect to the edge vectors, eV/Angstrom.
    """
    energies = torch.zeros(len(numbers), dtype=torch.float64, device=vectors.device)
    gradients = torch.zeros_like(vectors)
    close, reach = close_edges(vectors, numbers, edges)
    if len(close) == 0:
        return energies, gradients
    energy, slopes = edge_repulsion(vectors[close], numbers[edges[:, close]], reach)
    gradients[close] = slopes.to(vectors.dtype)
    return energies.index_add(0, edges[0, close], energy), gradients


def close_edges(vectors: Tensor, numbers: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The edges that feel the repulsion.

    Args:
        vectors, numbers, edges: as in :func:`short_range_repulsion`.

    Returns:
        int64 ``[n]``, which edges, and float64 ``[n]``, where each one's repulsion begins, Angstrom.
    """
    radii = _RADII.to(vectors)[numbers.clamp(max=len(_RADII) - 1)]
    none = edges.new_zeros(0), torch.zeros(0, dtype=torch.float64, device=vectors.device)
    if len(radii) == 0:
        return none
    if vectors.device.type == "cpu":
        from consistent_calc.nn.fused_edges import any_within  # numba takes a while to import

        if not any_within(vectors, edges, REACH * radii):
            return none
    squared = (vectors * vectors).sum(1)
    # Few edges are within the longest reach of all, hardly any within their own.
    close = (squared < (2 * REACH * radii.amax()) ** 2).nonzero()[:, 0]
    reach = REACH * radii[edges[:, close]].sum(0)
    inside = squared[close] < reach**2
    return close[inside], reach[inside].double()


def edge_repulsion(vectors: Tensor, numbers: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """What one direction of a pair contributes, differentiable; half of the pair's energy.

    Args:
        vectors: ``[n, 3]``, Angstrom.
        numbers: int64 ``[2, n]``, atomic numbers of both ends.
        reach: float64 ``[n]``, see :func:`close_edges`.

    Returns:
        Float64 ``[n]``, eV, and ``[n, 3]``, its derivative, eV/Angstrom.
    """
    vectors = vectors.double()
    distance = vectors.norm(dim=1)
    energy, slope = pair_repulsion(distance, numbers[0], numbers[1], reach)
    return energy / 2, slope[:, None] / 2 * vectors / distance[:, None]


def pair_repulsion(distance: Tensor, first: Tensor, second: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The repulsion of pairs of atoms and its derivative with respect to their distance.

    Args:
        distance: float64 ``[n]``, Angstrom, below ``reach``.
        first, second: int64 ``[n]``, atomic numbers.
        reach: float64 ``[n]``, where it vanishes with its first two derivatives, Angstrom.

    Returns:
        Two float64 ``[n]``, eV and eV/Angstrom.
    """
    z1, z2 = first.double(), second.double()
    length = 0.8854 * BOHR / (z1**0.23 + z2**0.23)
    amplitudes, decays = distance.new_tensor(_AMPLITUDES), distance.new_tensor(_DECAYS) / length[:, None]
    terms = amplitudes * torch.exp(-decays * distance[:, None])
    coulomb = HARTREE * BOHR * z1 * z2 / distance
    screened = coulomb * terms.sum(1)
    slope = -screened / distance - coulomb * (decays * terms).sum(1)
    height, steepness = envelope(distance / reach, (ORDER, *envelope_coefficients()))
    return screened * height, slope * height + screened * steepness / reach
