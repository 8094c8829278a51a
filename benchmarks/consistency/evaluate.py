"""Evaluation of one checkpoint: predicted structures, energy gaps and energy errors, per molecule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from testset import Array, Molecule, geometry_errors, shift

from consistent_calc import StructureBatch
from consistent_calc.diffusion.samplers import from_noise, refine
from consistent_calc.labelling.engine import Engine
from consistent_calc.model import ConsistentModel

LEVEL = "wB97M-D3/def2-TZVPP"

#: Steps of each test mode from noise; one step is the paper's "Denoising".
MODES = {"denoising": 1, "many_step": 8}

#: Steps and start of the third mode, which refines the PM6 structure: what the product does with its seeds.
REFINE_STEPS, REFINE_SIGMA = 4, 0.3

#: An energy gap per atom (eV) at which the errors of broken structures are cut off, in the means only.
GAP_CUTOFF = 10.0

N_SAMPLES = 3
BATCH = 64


def evaluate(
    model: ConsistentModel, molecules: list[Molecule], oracle: Engine | None, n_samples: int = N_SAMPLES
) -> dict[str, Array]:
    """All errors of a model, as arrays with one row a molecule.

    Args:
        model: the checkpoint.
        molecules: test or validation molecules.
        oracle: engine of the accurate level, for the first sample of each mode; None leaves its gap out.
        n_samples: samples of each molecule and mode; sample k of molecule i draws the same noise for every model.

    Returns:
        ``<mode>/<reference>/<error>`` ``[n_molecules, n_samples]``, ``<mode>/gap_model_eV``, ``<mode>/gap_oracle_eV``,
        ``<mode>/shift`` with ``shift_norm``, and ``energy_pm6_eV``, ``energy_minimum_eV`` (errors of the
        energy head), ``n_atoms``.
    """
    rows: dict[str, list[Array]] = {}
    minima = _energies(model, [m.accurate for m in molecules], molecules)
    for mode in (*MODES, "refined"):
        samples = sample(model, molecules, MODES.get(mode), n_samples)
        flat = [x for row in samples for x in row]
        predicted = _energies(model, flat, [m for m in molecules for _ in range(n_samples)])
        gaps = predicted.reshape(-1, n_samples) - minima[:, None]
        for molecule, row, gap in zip(molecules, samples, gaps, strict=True):
            found = {f"{mode}/gap_model_eV": gap}
            for name, reference in (("accurate", molecule.accurate), ("dft", molecule.dft)):
                errors = geometry_errors(row, reference, molecule)
                found |= {f"{mode}/{name}/{k}": v for k, v in errors.items()}
            found[f"{mode}/shift"] = shift(row, molecule)[0]
            if oracle is not None:
                found[f"{mode}/gap_oracle_eV"] = np.array([oracle_gap(oracle, molecule, row[0])])
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
    out = {key: np.stack(values) for key, values in rows.items()}
    out["shift_norm"] = np.array([shift(m.pm6[None], m)[1] for m in molecules])
    at_pm6 = _energies(model, [m.pm6 for m in molecules], molecules)
    out["energy_pm6_eV"] = at_pm6 - np.array([m.energy_pm6 for m in molecules])
    out["n_atoms"] = np.array([m.graph.n_atoms for m in molecules], dtype=np.float64)
    out["energy_minimum_eV"] = minima - np.array([m.energy_accurate for m in molecules])
    return out


def oracle_gap(oracle: Engine, molecule: Molecule, positions: Array) -> float:
    """Energy above the accurate minimum at the accurate level, eV."""
    numbers = molecule.graph.numbers.numpy()
    return oracle.single_point(numbers, positions, 0).energy - molecule.energy_accurate


def sample(model: ConsistentModel, molecules: list[Molecule], n_steps: int | None, n_samples: int) -> list[Array]:
    """Structures ``[n_samples, n_atoms, 3]`` of each molecule: from noise, or refined from PM6 without ``n_steps``."""
    order = [(i, k) for i in range(len(molecules)) for k in range(n_samples)]
    parts: list[Array] = []
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        batch = StructureBatch.concatenate([molecules[i].graph for i, _ in some]).to(model.device, model.dtype)
        seeds = [1000 * i + k for i, k in some]
        if n_steps is None:
            x = refine(model, batch, sigma_start=REFINE_SIGMA, n_steps=REFINE_STEPS, seeds=seeds)
        else:
            x = from_noise(model, batch, n_steps=n_steps, seeds=seeds)
        parts += [p.double().numpy() for p in x.cpu().split(batch.counts.tolist())]
    return [np.stack(parts[i * n_samples : (i + 1) * n_samples]) for i in range(len(molecules))]


def _energies(model: ConsistentModel, positions: list[Array], molecules: list[Molecule]) -> Array:
    """Energies in eV by the energy head; NaN for structures with two atoms at one place."""
    out = np.full(len(positions), np.nan)
    good = [i for i, x in enumerate(positions) if _closest(x) > 0.15]
    for start in range(0, len(good), BATCH):
        some = good[start : start + BATCH]
        parts = [molecules[i].graph.with_positions(torch.from_numpy(positions[i])) for i in some]
        out[some] = model.predict(StructureBatch.concatenate(parts), level=LEVEL, forces=False).energy.numpy()
    return out


def _closest(x: Array) -> float:
    distances = np.linalg.norm(x[:, None] - x, axis=-1)
    return float(distances[np.triu_indices(len(x), 1)].min())


def summarize(found: dict[str, Array]) -> dict[str, Array]:
    """One number a molecule and metric: the quantities whose means are reported and tested.

    Args:
        found: from :func:`evaluate`, or from the controls.
    """
    out: dict[str, Array] = {}
    sizes = found["n_atoms"]
    for key, value in found.items():
        if "rmsd" in key:
            out[f"{key}_mean"], out[f"{key}_min"] = value.mean(1), value.min(1)
        elif "gap" in key:
            # Broken structures have any energy; their gap counts as the cutoff.
            cut = np.where(np.isfinite(value), value, np.inf) / sizes[:, None]
            out[key.replace("_eV", "_meV_per_atom")] = 1000 * np.minimum(cut, GAP_CUTOFF).mean(1)
        elif key.endswith("/shift"):
            # The mean over molecules of numerator / mean denominator is the ratio of the sums.
            out[f"{key}_to_accurate"] = value.mean(1) / found["shift_norm"].mean()
        elif key.startswith("energy"):
            out[key.replace("_eV", "_mae_meV_per_atom")] = 1000 * np.abs(value) / sizes
        elif key not in ("shift_norm", "n_atoms"):
            out[key] = value.mean(1)
    return out


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Writes the arrays in one step."""
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
