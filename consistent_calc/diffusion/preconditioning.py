"""How the structure network is wrapped into a denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """EDM preconditioning ``D(x, s) = c_skip x + c_out F(c_in x, c_noise)`` (Karras et al. 2022) for molecules.

    Karras et al. choose ``c_skip = d^2 / (s^2 + d^2)`` for data of standard deviation d. A translation-invariant
    network with a cutoff cannot know where an atom lies in a large molecule, so it cannot undo a ``c_skip`` below one,
    whose correction grows with the molecule. We take the limit of a wide data distribution for the output,
    ``c_skip = 1, c_out = s``, and keep ``c_in`` only to bring strongly noised distances back into the range of the
    radial basis; it tends to 1 at low noise, where the encoder sees the very distances the energy head sees.

    Attributes:
        scale: noise level in Angstrom beyond which positions are shrunk.
    """

    scale: float = 1.5

    def c_in(self, sigma: Tensor) -> Tensor:
        """Factor on the noisy positions."""
        return self.scale / (sigma**2 + self.scale**2).sqrt()

    def c_out(self, sigma: Tensor) -> Tensor:
        """Factor on the network's output, Angstrom."""
        return sigma

    def c_noise(self, sigma: Tensor) -> Tensor:
        """Noise level as the network sees it, ``ln(s) / 4``."""
        return sigma.log() / 4
