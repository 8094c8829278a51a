"""Whether the two heads of a model agree: score consistency and optimality consistency as measurements.

They are measured by the functions that the training uses as losses (:mod:`consistent_calc.losses`). Unlike the checks
of :mod:`consistent_calc.checks`, agreement is no property of the architecture: a model must have learned it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from consistent_calc.checks import Check, single
from consistent_calc.diffusion.noise import noised
from consistent_calc.diffusion.samplers import denoise_once
from consistent_calc.losses.frozen import FrozenEnergy, frozen
from consistent_calc.losses.optimality import gap_loss
from consistent_calc.losses.score import score
from consistent_calc.relaxation import relax
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

#: Noise level at which the heads are compared, Angstrom: low enough that the score is that of one minimum.
SIGMA = 0.05


def check_agreement(model: ConsistentModel, source: Mol | StructureBatch, *, level: str | None = None) -> list[Check]:
    """Optimality and score consistency next to the minimum that a molecule relaxes to, of a trained model.

    Nothing is checked for a single atom, which has no structure.

    Args:
        model: in any precision, on any device.
        source: one molecule with its graph and a geometry.
        level: level of theory of the energy, by default the model's first.
    """
    start = single(source)
    if start.n_atoms == 1:
        return []
    relaxed = relax(model, start, level=level, fmax=0.01).batch.to(model.device, model.dtype)
    noisy = _noisy(relaxed)
    denoised = denoise_once(model, noisy, SIGMA)
    judge = frozen(model)
    energy = FrozenEnergy(judge, relaxed, judge.level_index(level))
    with torch.no_grad():
        left, before = (float(gap_loss(energy, x, relaxed.positions)) for x in (denoised, noisy.positions))
    cosine = float(_cosines(model, noisy, denoised, level)[0])
    where = f"noise of {SIGMA:g} Angstrom on the relaxed structure"
    return [
        Check("optimality consistency", left / before, 0.5, "", f"energy that denoising leaves of the {where}"),
        Check("score consistency", 1 - cosine, 0.8, "", f"1 - cosine of score and force, {where}"),
    ]


def score_force_cosines(model: ConsistentModel, minima: StructureBatch, *, level: str | None = None) -> Tensor:
    """Cosine between the score of the structure head and the force next to minima of the energy.

    Each structure is displaced by the same noise; score and force both lead back, by score consistency in the same
    direction. A low value marks a minimum that the structure head does not know, or would not place there.

    Args:
        model: both heads.
        minima: relaxed structures of any molecules, with their graphs.
        level: of the force.

    Returns:
        float64 ``[n_graphs]``, in [-1, 1]; NaN where the score or all forces vanish.
    """
    if minima.n_graphs == 0:
        return torch.zeros(0, dtype=torch.float64)
    noisy = _noisy(minima.to(model.device, model.dtype))
    return _cosines(model, noisy, denoise_once(model, noisy, SIGMA), level)


def _noisy(structures: StructureBatch) -> StructureBatch:
    """Displaced by noise of :data:`SIGMA`, the same for every structure."""
    seeds = [0] * structures.n_graphs
    return structures.with_positions(noised(structures.positions, structures.graph, SIGMA, seeds))


def _cosines(model: ConsistentModel, noisy: StructureBatch, denoised: Tensor, level: str | None) -> Tensor:
    """See :func:`score_force_cosines`; ``noisy`` is on the device and in the dtype of the model."""
    forces = model.predict(noisy, level=level).forces
    assert forces is not None
    sigma = torch.full_like(noisy.charge, SIGMA)
    a, b = score(denoised, noisy.positions, sigma, noisy.graph).double(), forces.double()

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(noisy.n_graphs).index_add(0, noisy.graph, (x * y).sum(1))

    return (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).cpu()
