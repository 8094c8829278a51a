"""Energy and partial charges from the encoder's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EnergyHead(nn.Module):
    """Atomic energies, one readout per level of theory, and partial charges.

    Args:
        features: scalar channels of the encoder.
        n_levels: number of levels of theory.
    """

    def __init__(self, features: int, n_levels: int) -> None:
        super().__init__()
        self.normalize = nn.LayerNorm(features)
        self.hidden = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features // 2), nn.SiLU()
        )
        self.readout = nn.Linear(features // 2, n_levels)
        self.charges = nn.Sequential(nn.Linear(features, features // 2), nn.SiLU(), nn.Linear(features // 2, 2))

    def forward(self, scalars: Tensor, graph: Tensor, charge: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Interaction energies and partial charges.

        Args:
            scalars: ``[n_atoms, features]``.
            graph: int64 ``[n_atoms]``.
            charge: ``[n_graphs]``, total charges in e.
            level: int64 ``[n_graphs]``, readout of each structure.

        Returns:
            Energies ``[n_atoms]`` in eV without atomic references, and charges ``[n_atoms]`` in e that sum to the
            total charge.
        """
        x = self.normalize(scalars)
        energies = self.readout(self.hidden(x)).gather(1, level[graph][:, None])[:, 0]
        return energies, self.neutralize(self.charges(x), graph, charge)

    @staticmethod
    def neutralize(charges: Tensor, graph: Tensor, charge: Tensor) -> Tensor:
        """Partial charges: a raw prediction plus a share of what is missing to the total charge.

        As in the neutralisation of AIMNet2 (Anstine, Zubatyuk, Isayev 2025), with learned positive weights.

        Args:
            charges: ``[n_atoms, 2]``, raw charges and weights.
            graph, charge: as in :meth:`forward`.

        Returns:
            ``[n_atoms]`` in e.
        """
        raw, weight = charges.unbind(1)
        weight = torch.nn.functional.softplus(weight) + 1e-3
        missing = charge - torch.zeros_like(charge).index_add(0, graph, raw)
        total = torch.zeros_like(charge).index_add(0, graph, weight)
        return raw + weight * (missing / total)[graph]
