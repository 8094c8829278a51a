"""Errors of a model on labelled data."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from consistent_calc.data.dataset import Dataset
from consistent_calc.diffusion.noise import centered, standard_normal
from consistent_calc.diffusion.prior import harmonic_positions
from consistent_calc.diffusion.samplers import denoise_once
from consistent_calc.elements import symbol
from consistent_calc.errors import DataError
from consistent_calc.losses.frozen import FrozenEnergy, frozen
from consistent_calc.losses.optimality import gap_loss, nearby_minimum
from consistent_calc.losses.score import score_force_loss
from consistent_calc.losses.structure import align
from consistent_calc.losses.symmetry import equivalent_sets, match_equivalent
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import energy_batch
from consistent_calc.train.configuration import Consistency, Weights
from consistent_calc.train.objective import Objective
from consistent_calc.units import KCAL_PER_MOL

#: Structures evaluated at once.
BATCH = 48


@dataclass(frozen=True, eq=False)
class EnergyErrors:
    """Errors of single conformations and atoms; NaN where there is no label.

    Attributes:
        indices: int64 ``[n]``, conformations of the data set.
        energy: ``[n]``, predicted minus reference, eV.
        forces: ``[n_atoms]``, mean absolute component error of each atom, eV/Angstrom.
        force_rms: ``[n]``, root mean square of the predicted force components, eV/Angstrom.
        charges: ``[n_atoms]``, absolute, e.
        molecule, kind: ``[n]``.
        numbers, owner: ``[n_atoms]``, element, and row of the conformation the atom belongs to.
    """

    indices: NDArray[np.int64]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    force_rms: NDArray[np.float64]
    charges: NDArray[np.float64]
    molecule: NDArray[np.int64]
    kind: NDArray[np.int64]
    numbers: NDArray[np.int64]
    owner: NDArray[np.int64]

    def relative_energy_mae(self, chosen: NDArray[np.bool_] | None = None) -> float:
        """Mean absolute error within molecules, kcal/mol: each molecule's mean error is taken off.

        Molecules with one conformation do not count.
        """
        chosen = np.ones(len(self.energy), bool) if chosen is None else chosen
        chosen = chosen & ~np.isnan(self.energy)
        _, owner, count = np.unique(self.molecule[chosen], return_inverse=True, return_counts=True)
        error = self.energy[chosen]
        error = error - (np.bincount(owner, weights=error) / count)[owner]
        error = error[count[owner] > 1]
        return float(np.abs(error).mean() / KCAL_PER_MOL) if len(error) else float("nan")

    def summary(self) -> dict[str, float]:
        """The figures to watch: force MAE, relative and total energy MAE, charge MAE (those with labels)."""
        return _known(
            {
                "force_mae_eV_A": _mean(self.forces),
                "relative_energy_mae_kcal_mol": self.relative_energy_mae(),
                "energy_mae_eV": _mean(np.abs(self.energy)),
                "charge_mae_e": _mean(self.charges),
            }
        )

    def by_kind(self, names: dict[int, str]) -> dict[str, dict[str, float]]:
        """Force and relative-energy MAE of each kind of conformation."""
        out = {}
        for kind in np.unique(self.kind):
            chosen = self.kind == kind
            out[names.get(int(kind), str(kind))] = _known(
                {
                    "force_mae_eV_A": _mean(self.forces[chosen[self.owner]]),
                    "relative_energy_mae_kcal_mol": self.relative_energy_mae(chosen),
                    "n": int(chosen.sum()),
                }
            )
        return out

    def by_element(self) -> dict[str, dict[str, float]]:
        """Force and charge MAE of each element."""
        return {
            symbol(int(z)): _known(
                {
                    "force_mae_eV_A": _mean(self.forces[self.numbers == z]),
                    "charge_mae_e": _mean(self.charges[self.numbers == z]),
                    "n": int((self.numbers == z).sum()),
                }
            )
            for z in np.unique(self.numbers)
        }


def _known(figures: dict[str, float]) -> dict[str, float]:
    """Without those of which there are no labels."""
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def evaluate_energy(
    model: ConsistentModel,
    data: Dataset,
    *,
    limit: int | None = None,
    level: str | None = None,
    indices: NDArray[np.int64] | None = None,
) -> EnergyErrors:
    """Compares energies, forces and charges with the labels of a data set.

    Args:
        model: on any device.
        data: one side of a store.
        limit: evaluate a fixed sample of whole molecules of about this many conformations.
        level: readout to use; by default the one of the data's level.
        indices: ``[n]``, conformations to evaluate; by default all, or those that ``limit`` chooses.

    Raises:
        DataError: there are no structures.
    """
    if len(data) == 0:
        raise DataError("There are no structures to evaluate: this side of the split is empty.")
    if indices is None:
        indices = np.arange(len(data)) if limit is None else sample_molecules(data, limit)
    objective = Objective(model, Weights())
    rows: dict[str, list[NDArray[np.float64]]] = {"energy": [], "forces": [], "charges": [], "force_rms": []}
    for start in range(0, len(indices), BATCH):
        structures, labels = data.batch(indices[start : start + BATCH])
        if level is not None:
            labels = replace(labels, level=level)
        batch = energy_batch([(structures, labels)], model)
        with torch.no_grad():
            predicted = objective.predict(batch)
        forces = predicted["forces"].double()
        squares = torch.zeros(structures.n_graphs, dtype=torch.float64, device=forces.device)
        squares = squares.index_add(0, batch.graph, (forces**2).mean(1))
        rows["energy"].append(_numpy(predicted["energy"] - batch.energy))
        rows["forces"].append(_numpy((forces - batch.forces).abs().mean(1)))
        rows["force_rms"].append(_numpy((squares / batch.counts).sqrt()))
        rows["charges"].append(_numpy((predicted["charges"] - batch.charges).abs()))
    molecule = data.molecule[indices]
    slices = [data.numbers[data.atom_offset[m] : data.atom_offset[m + 1]] for m in molecule]
    return EnergyErrors(
        indices=indices,
        **{name: np.concatenate(values) for name, values in rows.items()},
        molecule=molecule,
        kind=data.kind[indices].astype(np.int64),
        numbers=np.concatenate(slices).astype(np.int64),
        owner=np.repeat(np.arange(len(indices)), data.n_atoms[indices]),
    )


def sample_molecules(data: Dataset, limit: int) -> NDArray[np.int64]:
    """Conformations of whole molecules, evenly spread over the data set, about ``limit`` of them."""
    share = min(1.0, limit / max(len(data), 1))
    n = max(1, round(data.n_molecules * share))
    chosen = np.unique(np.linspace(0, data.n_molecules - 1, n).astype(np.int64))
    return np.flatnonzero(np.isin(data.molecule, chosen))


def evaluate_structure(
    model: ConsistentModel,
    data: Dataset,
    indices: NDArray[np.int64],
    sigmas: tuple[float, ...] = (0.1, 0.3, 1.0),
) -> dict[str, float]:
    """One-step denoising: RMSD in Angstrom to the clean structure after one step, per noise level.

    Args:
        indices: conformations with a molecular graph.
        sigmas: noise levels, Angstrom.

    Returns:
        ``denoised_rmsd_<sigma>_A`` for each level: mean over structures, all atoms, aligned. If the model knows the
        harmonic prior, also ``denoised_rmsd_prior_A`` from samples of it; there, equivalent hydrogens are not told
        apart, as in the training. Of the first level the consistency of both heads, by the functions that the training
        uses: ``optimality_gap_<sigma>_eV``, the energy per atom of the denoised structures above the minima of the
        model's default level next to the labelled ones, and ``score_force_<sigma>``, the score loss.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    judge, atoms = frozen(model), int(data.n_atoms[indices].sum())
    for start in range(0, len(indices), BATCH):
        clean = data.batch(indices[start : start + BATCH], with_graph=True)[0].to(model.device, model.dtype)
        normal = standard_normal(clean.graph, range(start, start + clean.n_graphs))
        noise = centered(normal, clean.graph, clean.n_graphs).to(clean.positions)
        for k, sigma in enumerate(sigmas):
            noisy = clean.positions + sigma * noise
            denoised = denoise_once(model, clean.with_positions(noisy), sigma)
            totals[f"denoised_rmsd_{sigma:g}_A"] += _sum_rmsd(denoised, clean) / len(indices)
            if k == 0:
                gap, apart = _disagreement(judge, clean, noisy, denoised, sigma)
                # Means over the atoms of the batch.
                totals[f"optimality_gap_{sigma:g}_eV"] += gap * clean.n_atoms / atoms
                totals[f"score_force_{sigma:g}"] += apart * clean.n_atoms / atoms
        if model.prior_level is not None:
            prior = harmonic_positions(clean, normal)
            aligned = align(clean.positions, prior, clean.graph, clean.n_graphs)
            matched = clean.with_positions(match_equivalent(aligned, prior, equivalent_sets(clean)))
            denoised = denoise_once(model, clean.with_positions(prior), model.prior_level)
            totals["denoised_rmsd_prior_A"] += _sum_rmsd(denoised, matched) / len(indices)
    return dict(totals)


def _disagreement(
    judge: ConsistentModel, clean: StructureBatch, noisy: torch.Tensor, denoised: torch.Tensor, sigma: float
) -> tuple[float, float]:
    """Optimality gap (eV per atom) and score loss of denoised structures, see :func:`evaluate_structure`."""
    energy, settings = FrozenEnergy(judge, clean), Consistency()
    minimum = nearby_minimum(clean, energy.forces(clean.positions), settings.max_step)
    with torch.no_grad():
        gap = gap_loss(energy, denoised, minimum)
    levels, kt = torch.full_like(clean.charge, sigma), settings.temperature_energy
    apart = score_force_loss(denoised, noisy, levels, energy.forces(noisy), kt, clean.graph)
    return float(gap), float(apart)


def _sum_rmsd(denoised: torch.Tensor, clean: StructureBatch) -> float:
    """Sum over structures of the RMSD between denoised and clean positions, Angstrom."""
    moved = align(denoised, clean.positions, clean.graph, clean.n_graphs)
    squares = torch.zeros_like(clean.charge).index_add(0, clean.graph, ((moved - clean.positions) ** 2).sum(1))
    return float((squares / clean.counts).sqrt().sum())


def _numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
