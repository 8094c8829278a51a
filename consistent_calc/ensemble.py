"""Several models as one: the mean of what they say, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consistent_calc.errors import ConfigurationError
from consistent_calc.model import ConsistentModel, Prediction
from consistent_calc.structures import StructureBatch


@dataclass(frozen=True, eq=False)
class EnsemblePrediction:
    """What an ensemble says of a batch.

    Attributes:
        mean: of the members.
        energy_std: float64 ``[n_graphs]``, standard deviation of the members' energies, eV.
        forces_std: float64 ``[n_atoms]``, root mean square length of the members' deviations from the mean force,
            eV/Angstrom, or None if forces were not asked for.
    """

    mean: Prediction
    energy_std: Tensor
    forces_std: Tensor | None


def predict_ensemble(
    models: Sequence[ConsistentModel],
    batch: StructureBatch,
    *,
    level: str | None = None,
    forces: bool = True,
    stress: bool = False,
) -> EnsemblePrediction:
    """Mean and spread of two or more models; both standard deviations are unbiased (n - 1 members).

    Args:
        models: members; each is asked on its own device.
        batch, forces, stress: as in :meth:`ConsistentModel.predict`.
        level: level of theory, by default the first of the first member.

    Raises:
        ConfigurationError: fewer than two models.
        InvalidStructureError, UnsupportedElementError, ChargeError: what a member could not answer.
        UnknownLevelError: a member has no readout for this level.
    """
    if len(models) < 2:
        raise ConfigurationError(f"An ensemble needs at least two models, got {len(models)}.")
    level = models[0].levels[models[0].level_index(level)]
    said = [m.predict(batch, level=level, forces=forces, stress=stress) for m in models]
    energy = _stacked([p.energy for p in said])
    force = _stacked([p.forces for p in said if p.forces is not None]) if forces else None
    mean = Prediction(
        energy=energy.mean(0),
        energies=_stacked([p.energies for p in said]).mean(0),
        forces=None if force is None else force.mean(0),
        charges=_stacked([p.charges for p in said]).mean(0),
        stress=_stacked([p.stress for p in said if p.stress is not None]).mean(0) if stress else None,
    )
    return EnsemblePrediction(
        mean=mean,
        energy_std=energy.std(0),
        forces_std=None if force is None else force.var(0).sum(1).sqrt(),
    )


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """``[n_members, ...]`` in float64 on the device of the first."""
    return torch.stack([v.to(values[0].device).double() for v in values])
