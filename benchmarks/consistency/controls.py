"""Controls that a sceptical reader asks for, on checkpoints of the experiment.

* descent: does the learned energy, followed downhill from the PM6 geometry, lead to the accurate minimum? If it does
  not, consistency has nothing to teach. A model of two levels is asked for both;
* labelled step: the Newton step of the optimality loss with the labelled forces, the best that it can teach;
* relaxation: the same energy head relaxes the baseline's own predictions: the obvious competitor of consistency, which
  pays at every prediction instead of once in training.
"""

from __future__ import annotations

import numpy as np
import torch
from evaluate import BATCH, LEVEL, MODES, N_SAMPLES, oracle_gap, sample
from testset import Array, Molecule, geometry_errors, shift

from consistent_calc import StructureBatch, relax
from consistent_calc.data import Dataset
from consistent_calc.labelling.engine import Engine
from consistent_calc.losses.optimality import nearby_minimum
from consistent_calc.model import ConsistentModel

#: Evaluations of energy and forces a relaxation may take. Eight Heun steps are 15 evaluations of the denoiser.
STEPS = (5, 30)


def descent(model: ConsistentModel, molecules: list[Molecule], oracle: Engine | None) -> dict[str, Array]:
    """Errors of structures relaxed from the PM6 geometry on the learned energy, and of the PM6 geometry itself."""
    out = _errors("pm6", [m.pm6 for m in molecules], molecules, oracle)
    for level in model.levels:
        suffix = "" if level == LEVEL else f"_{level.split('/')[0]}"
        for steps in STEPS:
            found = _relaxed(model, [m.pm6 for m in molecules], molecules, steps, level)
            out |= _errors(f"descent_{steps}{suffix}", found, molecules, oracle)
    return out


def labelled_step(data: Dataset, molecules: list[Molecule], max_step: float) -> dict[str, Array]:
    """Errors of PM6 structures after the Newton step of the loss, with labelled in the place of learned forces.

    Args:
        data: accurate labels at the PM6 structures.
        molecules: those to move.
        max_step: as in training, Angstrom.
    """
    rows = {str(s): i for i, s in enumerate(data.source)}
    out = []
    for molecule in molecules:
        forces = data.batch([rows[molecule.source]])[1].forces
        assert forces is not None
        out.append(nearby_minimum(molecule.graph, forces.double(), max_step).numpy())
    return _errors("labelled_step", out, molecules, None)


def relaxation(model: ConsistentModel, molecules: list[Molecule], oracle: Engine | None) -> dict[str, Array]:
    """Errors of the model's predictions after a relaxation on its own energy head."""
    out: dict[str, Array] = {}
    for mode, n_steps in MODES.items():
        first = [row[0] for row in sample(model, molecules, n_steps, N_SAMPLES)]
        for steps in STEPS:
            found = _relaxed(model, first, molecules, steps)
            out |= _errors(f"{mode}_relaxed_{steps}", found, molecules, oracle)
    return out


def _relaxed(
    model: ConsistentModel, positions: list[Array], molecules: list[Molecule], steps: int, level: str = LEVEL
) -> list[Array]:
    """Structures after some steps of the package's relaxation; where it fails, the start."""
    out = list(positions)
    for start in range(0, len(positions), BATCH):
        some = range(start, min(start + BATCH, len(positions)))
        parts = [molecules[i].graph.with_positions(torch.from_numpy(positions[i])) for i in some]
        found = relax(model, StructureBatch.concatenate(parts), level=level, fmax=0.02, max_steps=steps)
        ends = found.batch.positions.split(found.batch.counts.tolist())
        for k, i in enumerate(some):
            if found.failed[k] is None and bool(torch.isfinite(ends[k]).all()):
                out[i] = ends[k].numpy()
    return out


def _errors(name: str, positions: list[Array], molecules: list[Molecule], oracle: Engine | None) -> dict[str, Array]:
    """Arrays named and shaped as in :func:`evaluate.evaluate`, with one sample."""
    rows: dict[str, list[Array]] = {}
    for x, molecule in zip(positions, molecules, strict=True):
        found = {f"{name}/shift": shift(x[None], molecule)[0]}
        for reference, target in (("accurate", molecule.accurate), ("dft", molecule.dft)):
            errors = geometry_errors(x[None], target, molecule)
            found |= {f"{name}/{reference}/{k}": v for k, v in errors.items()}
        if oracle is not None:
            found[f"{name}/gap_oracle_eV"] = np.array([oracle_gap(oracle, molecule, x)])
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
    return {key: np.stack(values) for key, values in rows.items()} | {
        "shift_norm": np.array([shift(m.pm6[None], m)[1] for m in molecules]),
        "n_atoms": np.array([m.graph.n_atoms for m in molecules], dtype=np.float64),
    }
