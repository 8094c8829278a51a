"""The structure head at work: seeds are refined, or structures made from noise; the last steps follow the forces.

Sample k of a molecule draws its own random numbers, whatever else is in the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from consistent_calc.conformers.deduplicate import different_basins
from consistent_calc.conformers.generate import (
    ConformerOptions,
    Samples,
    derived_seed,
    n_samples,
    relax_samples,
    renumber,
    with_conformers,
)
from consistent_calc.conformers.result import conformer_positions
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel

#: Steps of the sampler from noise, unless it takes one step only.
NOISE_STEPS = 16
#: Times that new noise is tried for a sample that has not become the molecule.
ROUNDS = 3
#: Steps along the forces after which candidates are compared.
SCREENING = 3
#: Alike samples whose energies then differ by more than this (kcal/mol) may still lead to different minima.
SAME_ENERGY = 1.0


def draw_samples(model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions) -> None:
    """Everything before the relaxation: seeds are refined, or structures made from noise, and guided by the forces.

    A molecule that noise never becomes is left without conformers.
    """
    seeded = [samples for samples in batch if not samples.from_noise]
    if options.denoise and seeded:
        refine_samples(model, seeded, options)
    sample_from_noise(model, [samples for samples in batch if samples.from_noise], options)
    sampled = [s for s in batch if s.mol.GetNumConformers() > 0 and (options.denoise or s.from_noise)]
    if options.guidance and sampled:
        many = [s for s in sampled if s.mol.GetNumConformers() > n_samples(options)]
        for samples, energies in zip(many, follow_forces(model, many, options, SCREENING), strict=True):
            keep_lowest(samples, energies, n_samples(options))
        for samples, energies in zip(sampled, follow_forces(model, sampled, options, options.guidance), strict=True):
            keep_lowest(samples, energies, n_samples(options))


def refine_samples(model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions) -> None:
    """Replaces the seeds by denoised samples; a sample that breaks the molecule falls back to its seed."""
    from consistent_calc.diffusion.samplers import refine

    structures = StructureBatch.from_rdkit([samples.mol for samples in batch])
    sizes = structures.counts.tolist()
    seeds = [
        derived_seed(options.seed, samples.input.smiles, f"noise {k}")
        for samples in batch
        for k in range(samples.mol.GetNumConformers())
    ]
    refined: list[Tensor] = []
    for part in _parts(sizes, options.max_atoms_per_batch):
        some = structures.select(part).to(model.device, model.dtype)
        noise = [seeds[i] for i in part]
        x = refine(model, some, sigma_start=options.sigma_start, n_steps=options.n_steps, seeds=noise)
        refined.extend(x.detach().cpu().double().split([sizes[i] for i in part]))
    results = iter(refined)
    for samples in batch:
        for conformer in samples.mol.GetConformers():
            x = next(results)
            problem = samples.check.problem(x)
            if problem is None:
                conformer.SetPositions(x.numpy())
            samples.counts["denoised" if problem is None else f"denoising_{problem}"] += 1
        fallen = sum(n for name, n in samples.counts.items() if name.startswith("denoising_"))
        if fallen:
            samples.notes.append(f"{fallen} samples fell back to their ETKDG seed after denoising")


def sample_from_noise(model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions) -> None:
    """Makes the samples of molecules that have no seeds; those that never become the molecule are removed.

    So are those that ``max_time``, taken for every molecule, does not suffice for.
    """
    from consistent_calc.diffusion.samplers import from_noise

    deadline = math.inf if options.max_time is None else time.monotonic() + options.max_time * len(batch)
    missing = [(samples, c) for samples in batch for c in samples.mol.GetConformers()]
    n_steps = 1 if options.method == "denoising" else NOISE_STEPS
    for attempt in range(ROUNDS):
        if not missing:
            break
        left = []
        sizes = [samples.mol.GetNumAtoms() for samples, _ in missing]
        for part in _parts(sizes, options.max_atoms_per_batch):
            chosen = [missing[i] for i in part]
            if time.monotonic() >= deadline:
                left.extend(chosen)
                continue
            graphs = {id(s): StructureBatch.from_rdkit(s.mol)[0] for s, _ in chosen}
            structures = StructureBatch.concatenate([graphs[id(s)] for s, _ in chosen]).to(model.device, model.dtype)
            seeds = [derived_seed(options.seed, s.input.smiles, f"from noise {c.GetId()} {attempt}") for s, c in chosen]
            found = from_noise(model, structures, n_steps=n_steps, seeds=seeds).detach().cpu().double()
            for (samples, conformer), x in zip(chosen, found.split([sizes[i] for i in part]), strict=True):
                problem = samples.check.problem(x)
                samples.counts["sampled" if problem is None else f"sampling_{problem}"] += 1
                if problem is None:
                    conformer.SetPositions(x.numpy())
                else:
                    left.append((samples, conformer))
        missing = left
    for samples, conformer in missing:
        samples.mol.RemoveConformer(conformer.GetId())
    if missing and time.monotonic() >= deadline:
        for samples in {id(samples): samples for samples, _ in missing}.values():
            made, wanted = samples.mol.GetNumConformers(), samples.counts["requested"]
            samples.notes.append(f"only {made} of {wanted} samples from noise within max_time")
    for samples in batch:
        renumber(samples.mol)


def follow_forces(
    model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions, n_steps: int
) -> list[list[float]]:
    """The last steps of the sampling, along the model's forces: as the noise vanishes, the score becomes the force.

    Each is a quasi-Newton step. A sample that would break the molecule stays as it is.

    Returns:
        For each molecule the energies of its samples then, eV.
    """
    if not batch:
        return []
    out = []
    for samples, guided in zip(batch, relax_samples(model, batch, options, n_steps), strict=True):
        positions = guided.batch.positions.cpu().split(guided.batch.counts.tolist())
        energies = guided.initial_energy.tolist()
        for k, (conformer, x) in enumerate(zip(samples.mol.GetConformers(), positions, strict=True)):
            if guided.failed[k] is None and samples.check.problem(x) is None:
                conformer.SetPositions(x.numpy())
                energies[k] = float(guided.energy[k])
        out.append(energies)
    return out


def keep_lowest(samples: Samples, energies: Sequence[float], wanted: int) -> None:
    """Leaves the samples that are lowest in energy, one for each minimum that they seem to lead to.

    Args:
        samples: of one molecule.
        energies: of its conformers, eV; NaN counts as high.
        wanted: how many are left at most.
    """
    known = [e if math.isfinite(e) else math.inf for e in energies]
    distinct = different_basins(samples.mol, known, energy_window=SAME_ENERGY)
    positions = conformer_positions(samples.mol)
    samples.mol = with_conformers(samples.mol, [positions[k] for k in distinct[:wanted]])
    samples.counts["screened"] += len(known) - samples.mol.GetNumConformers()


def _parts(sizes: Sequence[int], max_atoms: int) -> list[list[int]]:
    """Splits structures into consecutive groups of at most ``max_atoms`` atoms, or of one structure."""
    parts: list[list[int]] = [[]]
    total = 0
    for i, size in enumerate(sizes):
        if parts[-1] and total + size > max_atoms:
            parts.append([])
            total = 0
        parts[-1].append(i)
        total += size
    return parts
