"""Whether the two heads of the model agree on a structure: the score of one against the force of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

#: Noise level at which the structure head is asked, Angstrom: typical of generated structures.
SIGMA = 0.1


def score_force_cosines(
    model: ConsistentModel, mol: Mol, positions: Sequence[Tensor], level: str | None = None
) -> Tensor:
    """Cosine between the structure head's displacement ``D(x) - x`` and the force at generated geometries.

    Both lead to the equilibrium structure, by score consistency in the same direction (up to the stiffness of the
    modes); a low value is a structure on which the model contradicts itself.

    Args:
        model: both heads.
        mol: molecule with at least one conformer, for its graph.
        positions: of each geometry, ``[n_atoms, 3]``, Angstrom.
        level: of the force.

    Returns:
        float64 ``[n]``, in [-1, 1]; NaN where a displacement or all forces vanish.
    """
    if not positions:
        return torch.zeros(0, dtype=torch.float64)
    graph = StructureBatch.from_rdkit(mol)[0]
    batch = StructureBatch.concatenate([graph.with_positions(x.double().cpu()) for x in positions])
    forces = model.predict(batch, level=level).forces
    assert forces is not None
    moved = batch.to(model.device, model.dtype)
    with torch.no_grad():
        displacements = model.denoise(moved, torch.full_like(moved.charge, SIGMA)) - moved.positions
    a, b = (x.double().cpu().reshape(len(positions), -1) for x in (displacements, forces))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
