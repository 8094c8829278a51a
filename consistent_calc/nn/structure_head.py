"""The structure head: conditions the shared encoder on the molecular graph and the noise level, and reads out a
displacement of every atom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from consistent_calc.molgraph import signed_volumes
from consistent_calc.nn.encoder import GraphCondition
from consistent_calc.nn.layers import RelatedFilters

#: Kinds of pairs: unrelated; bonded with order 1, 1.5, 2, 3; two bonds apart; three bonds apart, of these cis, trans.
UNRELATED, SINGLE, AROMATIC, DOUBLE, TRIPLE, ONE_THREE, ONE_FOUR, CIS, TRANS = range(9)
N_PAIR_KINDS = 9

#: A regular tetrahedron of bonds of 1.3 Angstrom spans about this signed volume (cubic Angstrom).
TYPICAL_VOLUME = 3.4


class StructureHead(nn.Module):
    """Embeds what the denoiser knows beyond the positions, and reads out its displacements.

    Args:
        channels: channels of the encoder per degree.
        layers: number of message layers of the encoder.
        n_filters: filters of each of them.
        radial_size: size of the radial basis of related pairs.
    """

    def __init__(self, channels: tuple[int, ...], layers: int, n_filters: int, radial_size: int = 16) -> None:
        super().__init__()
        f0, f1 = channels[0], channels[1]
        self.centers: Tensor
        self.register_buffer("centers", torch.linspace(0.5, 6.0, radial_size, dtype=torch.float32), persistent=False)
        self.noise = nn.Sequential(nn.Linear(16, f0), nn.SiLU(), nn.Linear(f0, f0))
        self.bonding = nn.Embedding(N_PAIR_KINDS, f0)
        self.pair_radial = nn.ModuleList(nn.Linear(radial_size, n_filters, bias=False) for _ in range(layers))
        self.pair_scale = nn.ModuleList(nn.Embedding(N_PAIR_KINDS, n_filters) for _ in range(layers))
        self.pair_shift = nn.ModuleList(nn.Embedding(N_PAIR_KINDS, n_filters) for _ in range(layers))
        self.chirality = nn.Sequential(nn.Linear(2, f0), nn.SiLU(), nn.Linear(f0, f0))
        self.chiral_vector = nn.Linear(1, f1, bias=False)
        self.gate = nn.Sequential(nn.LayerNorm(f0), nn.Linear(f0, f0), nn.SiLU(), nn.Linear(f0, f1))
        self.displacement = nn.Linear(f1, 1, bias=False)

    def condition(
        self,
        positions: Tensor,
        edges: Tensor,
        distances: Tensor,
        pair_kinds: Tensor,
        stereo: Tensor,
        noise: Tensor,
    ) -> GraphCondition:
        """Embeds graph, stereo and noise level for the encoder.

        Args:
            positions: ``[n_atoms, 3]``, scaled noisy positions, Angstrom.
            edges: int64 ``[2, n_edges]``.
            distances: ``[n_edges]``, Angstrom.
            pair_kinds: int64 ``[n_edges]``, one of the constants above.
            stereo: int64 ``[n_stereo, 5]``, tags of :mod:`consistent_calc.molgraph`.
            noise: ``[n_atoms]``, c_noise = ln(sigma) / 4 of the atom's structure.
        """
        harmonics = torch.arange(1, 9, device=noise.device, dtype=noise.dtype) * (math.pi / 2)
        phases = noise[:, None] * harmonics
        scalars = self.noise(torch.cat([phases.sin(), phases.cos()], dim=1))
        bonded = ((pair_kinds >= SINGLE) & (pair_kinds <= TRIPLE)).to(scalars.dtype)
        scalars = scalars.index_add(0, edges[0], self.bonding(pair_kinds) * bonded[:, None])
        handedness, direction, present = self._handedness(positions, stereo)
        scalars = scalars + self.chirality(torch.stack([torch.tanh(handedness), present], dim=1)) * present[:, None]
        smeared = torch.exp(-2.5 * (distances[:, None] - self.centers) ** 2)
        return GraphCondition(
            scalars=scalars,
            vectors=self.chiral_vector(direction[:, :, None]),
            # Filters of unrelated pairs (kind 0) are left to the radial basis, which vanishes at the cutoff.
            filters=[
                RelatedFilters(smeared, pair_kinds, *(part.get_parameter("weight") for part in parts))
                for parts in zip(self.pair_radial, self.pair_scale, self.pair_shift, strict=True)
            ],
        )

    @staticmethod
    def _handedness(positions: Tensor, stereo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pseudoscalars made invariant: signed volume times its target sign, and its gradient on each atom.

        E(3)-equivariant features cannot tell a centre from its mirror image; these can, and change with it.

        Returns:
            ``[n_atoms]`` (positive where the centre is as wanted) and ``[n_atoms, 3]`` vectors, in typical units; and
            ``[n_atoms]``, 1 for the neighbors of a tagged centre, else 0.
        """
        sign = torch.where(stereo[:, 4].abs() == 1, stereo[:, 4], 0).to(positions.dtype)
        quadruples = stereo[:, :4]
        volumes = signed_volumes(positions, quadruples) * sign / TYPICAL_VOLUME
        a, b, c, d = positions[quadruples].unbind(1)
        towards = torch.stack(
            [torch.linalg.cross(b - d, c - d), torch.linalg.cross(c - d, a - d), torch.linalg.cross(a - d, b - d)],
            dim=1,
        )
        towards = torch.cat([towards, -towards.sum(1, keepdim=True)], dim=1) * (sign / TYPICAL_VOLUME)[:, None, None]
        atoms = quadruples.reshape(-1)
        handedness = positions.new_zeros(len(positions)).index_add(0, atoms, volumes.repeat_interleave(4))
        direction = torch.zeros_like(positions).index_add(0, atoms, towards.reshape(-1, 3))
        present = torch.zeros_like(handedness).index_add(0, atoms, sign.abs().repeat_interleave(4)).clamp(max=1)
        return handedness, direction, present

    def forward(self, features: list[Tensor]) -> Tensor:
        """Displacements ``[n_atoms, 3]`` in units of the noise level."""
        # e3nn's order of the components of l = 1 is (x, y, z), so they are Cartesian as they are.
        return self.displacement(features[1] * self.gate(features[0])[:, None])[:, :, 0]
