"""Radial functions and spherical harmonics on the CPU as one numba kernel, forward and backward.

In torch they are a hundred small operations, which for a single molecule take longer than the layers' arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from consistent_calc.jit import compiled, helper
from consistent_calc.nn.edges import edge_functions as plain_functions
from consistent_calc.nn.fused import as_array
from consistent_calc.nn.radial import ORDER, BesselBasis, envelope, envelope_coefficients

#: Degrees of the harmonics that the kernels know.
DEGREES = [1, 2]
SQRT3, SQRT5, SQRT15 = 3**0.5, 5**0.5, 15**0.5
#: Given to the kernels as an argument: numba would not notice a change of a global and keep what it has compiled.
ENVELOPE = (ORDER, *envelope_coefficients())


_envelope = helper(envelope)


@helper
def _geometry(vector, cutoff, coefficients):  # type: ignore[no-untyped-def]
    """Direction, length, and the normalized envelope at it with its derivative.

    Scalars are Python floats, so in double precision: the sines come from a recurrence.
    """
    x, y, z = float(vector[0]), float(vector[1]), float(vector[2])
    d = np.sqrt(x * x + y * y + z * z)
    height, slope = _envelope(min(d / cutoff, 1.0), coefficients)
    norm = np.sqrt(2 / cutoff)
    return x / d, y / d, z / d, d, norm * height, (norm * slope / cutoff if d < cutoff else 0.0)


@compiled
def _forward(vectors, cutoff, coefficients, radial, harmonics):  # type: ignore[no-untyped-def]
    size = radial.shape[1]
    for e in range(len(vectors)):
        x, y, z, d, height, _ = _geometry(vectors[e], cutoff, coefficients)
        factor = height / d
        angle = np.pi * d / cutoff
        twice, before, sine = 2 * np.cos(angle), 0.0, np.sin(angle)
        for n in range(size):
            radial[e, n] = factor * sine
            before, sine = sine, twice * sine - before
        harmonics[e, 0], harmonics[e, 1], harmonics[e, 2] = SQRT3 * x, SQRT3 * y, SQRT3 * z
        harmonics[e, 3], harmonics[e, 4] = SQRT15 * x * z, SQRT15 * x * y
        harmonics[e, 5] = SQRT5 * (y * y - (x * x + z * z) / 2)
        harmonics[e, 6], harmonics[e, 7] = SQRT15 * y * z, SQRT15 / 2 * (z * z - x * x)


@compiled
def _backward(vectors, cutoff, coefficients, on_radial, on_harmonics, out):  # type: ignore[no-untyped-def]
    size = on_radial.shape[1]
    for e in range(len(vectors)):
        x, y, z, d, height, slope = _geometry(vectors[e], cutoff, coefficients)
        angle = np.pi * d / cutoff
        first_cosine = np.cos(angle)
        twice, before, sine = 2 * first_cosine, 0.0, np.sin(angle)
        cosine_before, cosine = 1.0, first_cosine
        along = 0.0  # derivative with respect to the distance
        for n in range(size):
            turn = (n + 1) * np.pi / cutoff * cosine
            along += on_radial[e, n] * ((slope - height / d) * sine + height * turn) / d
            before, sine = sine, twice * sine - before
            cosine_before, cosine = cosine, twice * cosine - cosine_before
        g = on_harmonics[e]
        gx = SQRT3 * g[0] + SQRT15 * (z * g[3] + y * g[4] - x * g[7]) - SQRT5 * x * g[5]
        gy = SQRT3 * g[1] + SQRT15 * (x * g[4] + z * g[6]) + 2 * SQRT5 * y * g[5]
        gz = SQRT3 * g[2] + SQRT15 * (x * g[3] + y * g[6] + z * g[7]) - SQRT5 * z * g[5]
        # A change of the direction is a change of the vector across it, divided by its length.
        inward = along - (x * gx + y * gy + z * gz) / d
        out[e, 0], out[e, 1], out[e, 2] = gx / d + inward * x, gy / d + inward * y, gz / d + inward * z


@compiled
def _any_within(vectors, receiver, sender, reach):  # type: ignore[no-untyped-def]
    for e in range(len(vectors)):
        x, y, z = vectors[e]
        if x * x + y * y + z * z < (reach[receiver[e]] + reach[sender[e]]) ** 2:
            return True
    return False


def any_within(vectors: Tensor, edges: Tensor, reach: Tensor) -> bool:
    """Whether any edge is shorter than the sum of what its atoms reach, on the CPU.

    Args:
        vectors: ``[n_edges, 3]``.
        edges: int64 ``[2, n_edges]``.
        reach: ``[n_atoms]``.
    """
    return bool(_any_within(*map(as_array, (vectors, *edges, reach))))


def edge_functions(vectors: Tensor, basis: BesselBasis, degrees: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """As :func:`consistent_calc.nn.edges.edge_functions`, on the CPU and without autograd graph."""
    if list(degrees) != DEGREES:
        return plain_functions(vectors.detach(), basis, degrees)
    array = as_array(vectors)
    radial, harmonics = np.empty((len(array), basis.size), array.dtype), np.empty((len(array), 8), array.dtype)
    _forward(array, float(basis.cutoff), ENVELOPE, radial, harmonics)
    found = torch.from_numpy(harmonics)
    return torch.from_numpy(radial), [found[:, :3], found[:, 3:]]


def edge_functions_backward(
    vectors: Tensor, basis: BesselBasis, degrees: Sequence[int], on_radial: Tensor, on_harmonics: Tensor
) -> Tensor:
    """The gradient of the vectors from those of the functions.

    Args:
        vectors, basis, degrees: of :func:`edge_functions`.
        on_radial: ``[n_edges, radial_size]``.
        on_harmonics: ``[n_edges, sum of 2l + 1]``, one degree after the other.
    """
    if list(degrees) != DEGREES:
        by_degree = list(on_harmonics.split([2 * degree + 1 for degree in degrees], dim=1))
        with torch.enable_grad():
            leaf = vectors.detach().requires_grad_()
            radial, harmonics = plain_functions(leaf, basis, degrees)
        return torch.autograd.grad([radial, *harmonics], leaf, [on_radial, *by_degree])[0]
    array = as_array(vectors)
    out = np.empty_like(array)
    _backward(array, float(basis.cutoff), ENVELOPE, on_radial.numpy(), on_harmonics.numpy(), out)
    return torch.from_numpy(out)
