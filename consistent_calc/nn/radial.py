"""Radial functions: a smooth cutoff and a Bessel basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Order of the envelope.
ORDER = 6


def envelope_coefficients(p: int = ORDER) -> tuple[float, float, float]:
    """``a, b, c`` of the envelope ``1 + x^p (a + b x + c x^2)``, see :func:`polynomial_cutoff`."""
    return -(p + 1) * (p + 2) / 2, float(p * (p + 2)), -p * (p + 1) / 2


def envelope(x, coefficients):  # type: ignore[no-untyped-def]
    """The envelope ``1 + x^p (a + b x + c x^2)`` and its derivative, of numbers or tensors.

    Args:
        x: distance over cutoff, at most 1.
        coefficients: ``p, a, b, c``.
    """
    p, a, b, c = coefficients
    value = 1 + x**p * (a + x * (b + x * c))
    return value, x ** (p - 1) * (p * a + x * ((p + 1) * b + x * (p + 2) * c))


def polynomial_cutoff(distance: Tensor, cutoff: float, p: int = ORDER) -> Tensor:
    """Envelope that goes from 1 at zero to 0 at the cutoff, where its first two derivatives vanish too.

    Equation 8 of Gasteiger et al., "Directional Message Passing for Molecular Graphs" (2020).

    Args:
        distance: any shape, Angstrom.
        cutoff: Angstrom.
        p: order; a larger one keeps the envelope at 1 for longer.

    Returns:
        The same shape; exactly 0 at and beyond the cutoff.
    """
    x = (distance / cutoff).clamp(max=1.0)
    a, b, c = envelope_coefficients(p)
    return 1 + x**p * (a + x * (b + x * c))


class BesselBasis(nn.Module):
    """``sqrt(2/c) sin(n pi d / c) / d`` for ``n = 1..size``, times the cutoff envelope.

    Equation 7 of Gasteiger et al. (2020). All functions vanish smoothly at the cutoff.
    """

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.size = size
        self.orders: Tensor
        # The dtype is explicit, so that the function does not depend on the process's default one.
        self.register_buffer("orders", torch.arange(1, size + 1, dtype=torch.float32), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """``[n]`` distances in Angstrom to ``[n, size]``."""
        d = distance[:, None]
        envelope = polynomial_cutoff(d, self.cutoff) * math.sqrt(2 / self.cutoff)
        # Multiplied here, in the precision of the distances.
        return torch.sin(self.orders * (math.pi / self.cutoff) * d) / d * envelope
