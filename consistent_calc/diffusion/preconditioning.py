"""How the structure network is wrapped into a denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """EDM preconditioning ``D(x, s) = c_skip x + c_out F(c_in x, c_noise)`` (Karras et al. 2022) for molecules.

    ``x`` is measured from the centre of its molecule. Karras et al. choose ``c_skip = d^2 / (s^2 + d^2)`` for data of
    standard deviation d. In a large molecule the network, which sees neighborhoods only, cannot tell how far an atom
    lies from the centre and so cannot undo a ``c_skip`` below one; at low noise it must therefore stay at one. At high
    noise it must vanish, or the output is mostly noise. Hence a switch, ``c_skip = 1 / (1 + (s / d)^6)``: it shrinks
    the molecule by 0.04% at 0.4 Angstrom, and forgets the input beyond twice d. ``c_out`` follows from the demand that
    the network's target has unit variance, ``c_out^2 = c_skip^2 s^2 + (1 - c_skip)^2 d^2``. ``c_in`` brings strongly
    noised distances back into the range of the radial basis and tends to one at low noise, where the encoder sees the
    very distances the energy head sees.

    Attributes:
        scale: d, typical distance of an atom from the centre along one axis, Angstrom.
    """

    scale: float = 1.5

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Factor on the noisy positions in the output."""
        return 1 / (1 + (sigma / self.scale) ** 6)

    def c_in(self, sigma: Tensor) -> Tensor:
        """Factor on the noisy positions in the input."""
        return self.scale / (sigma**2 + self.scale**2).sqrt()

    def c_out(self, sigma: Tensor) -> Tensor:
        """Factor on the network's output, Angstrom; the scale of the denoising loss."""
        skip = self.c_skip(sigma)
        return ((skip * sigma) ** 2 + ((1 - skip) * self.scale) ** 2).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """Noise level as the network sees it, ``ln(s) / 4``."""
        return sigma.log() / 4
