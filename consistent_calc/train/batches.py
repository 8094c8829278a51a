"""Training batches, with everything that does not depend on the weights worked out already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consistent_calc.data.dataset import Labels
from consistent_calc.diffusion.noise import training_levels
from consistent_calc.diffusion.prior import harmonic_positions
from consistent_calc.forces import forces_from_edges
from consistent_calc.losses.structure import align
from consistent_calc.losses.symmetry import equivalent_sets, match_equivalent
from consistent_calc.model import ConsistentModel
from consistent_calc.neighbors import neighbor_list
from consistent_calc.nn.repulsion import short_range_repulsion
from consistent_calc.structures import StructureBatch
from consistent_calc.train.configuration import Noise


@dataclass(frozen=True, eq=False)
class EnergyBatch:
    """Structures of mixed levels with their labels, on the device of the model; NaN where a label is missing.

    Attributes:
        positions: ``[n_atoms, 3]``, Angstrom.
        elements: int64 ``[n_atoms]``, rows of the model's element table.
        graph: int64 ``[n_atoms]``, structure of each atom.
        vectors: ``[n_edges, 3]``, receiver to sender, Angstrom.
        edges: int64 ``[2, n_edges]``, receiver and sender.
        counts: int64 ``[n_graphs]``, atoms of each structure.
        charge: ``[n_graphs]``, total charges in e.
        level: int64 ``[n_graphs]``, readout.
        energy: ``[n_graphs]``, eV, atomic references subtracted.
        forces: ``[n_atoms, 3]``, eV/Angstrom.
        charges: ``[n_atoms]``, e.
        dipole: ``[n_graphs, 3]``, e Angstrom.
        repulsion: ``[n_graphs]``, eV, the part of the model's energy that is not learned
            (:mod:`consistent_calc.nn.repulsion`).
        repulsive_forces: ``[n_atoms, 3]``, the same of the forces, eV/Angstrom.
        has_forces: whether any force is known (asking the tensor would wait for the device).
    """

    positions: Tensor
    elements: Tensor
    graph: Tensor
    vectors: Tensor
    edges: Tensor
    counts: Tensor
    charge: Tensor
    level: Tensor
    energy: Tensor
    forces: Tensor
    charges: Tensor
    dipole: Tensor
    repulsion: Tensor
    repulsive_forces: Tensor
    has_forces: bool


def energy_batch(parts: list[tuple[StructureBatch, Labels]], model: ConsistentModel) -> EnergyBatch:
    """Joins batches of several data sets, each with its level, on the device and in the dtype of the model."""
    structures = StructureBatch.concatenate([s for s, _ in parts])
    columns: dict[str, list[Tensor]] = {k: [] for k in ("level", "energy", "forces", "charges", "dipole")}
    for s, labels in parts:
        level = model.level_index(labels.level)
        missing = torch.full((1,), torch.nan)
        energy = missing.expand(s.n_graphs) if labels.energy is None else labels.energy
        columns["energy"].append(energy.double() - composition_energy(model, s, level))
        columns["level"].append(torch.full_like(s.counts, level))
        columns["forces"].append(missing.expand(s.n_atoms, 3) if labels.forces is None else labels.forces)
        columns["charges"].append(
            missing.expand(s.n_atoms) if labels.partial_charges is None else labels.partial_charges
        )
        # The dipole of an ion depends on the origin, that of a crystal on the choice of the cell.
        undefined = (s.charge != 0) | s.pbc.any(1)
        dipole = missing.expand(s.n_graphs, 3) if labels.dipole is None else labels.dipole
        columns["dipole"].append(torch.where(undefined[:, None], missing, dipole))
    tensors = {}
    for name, values in columns.items():
        joined = torch.cat(values)
        tensors[name] = joined.to(model.device, model.dtype if joined.is_floating_point() else None)
    structures = structures.to(model.device, model.dtype)
    edges = (neighbors := neighbor_list(structures, model.cutoff)).edges
    vectors = neighbors.vectors(structures)
    repulsion, gradients = short_range_repulsion(vectors, structures.numbers, edges)
    return EnergyBatch(
        positions=structures.positions,
        elements=model.element_indices(structures),
        graph=structures.graph,
        vectors=vectors,
        edges=edges,
        counts=structures.counts,
        charge=structures.charge,
        repulsion=torch.zeros_like(structures.charge).index_add(0, structures.graph, repulsion.to(model.dtype)),
        repulsive_forces=forces_from_edges(gradients, edges, structures.n_atoms),
        has_forces=not all(bool(f.isnan().all()) for f in columns["forces"]),
        **tensors,
    )


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """Equilibrium structures and what the denoiser is given to find them from.

    Attributes:
        target: the structures with their graphs, aligned to ``noisy``, equivalent atoms exchanged to come closest.
        noisy: ``[n_atoms, 3]``, Angstrom.
        sigma: ``[n_graphs]``, noise levels, Angstrom.
        graph: of the noisy structures, see :meth:`ConsistentModel.structure_graph`.
    """

    target: StructureBatch
    noisy: Tensor
    sigma: Tensor
    graph: tuple[Tensor, Tensor, Tensor]


def draw_noise(clean: StructureBatch, settings: Noise, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What moves the structures: Gaussian noise, or for some of them all that leads to a sample of the harmonic prior.

    Args:
        clean: equilibrium structures with their graphs, on the CPU.
        settings: kinds and levels.
        generator: CPU generator.

    Returns:
        Noise levels ``[n_graphs]``, Angstrom, and displacements in units of them, ``[n_atoms, 3]``.
    """
    sigma = training_levels(
        clean.n_graphs, generator, median=settings.median, spread=settings.spread, low=settings.low, high=settings.high
    )
    normal = torch.randn(clean.n_atoms, 3, generator=generator)
    if settings.prior_share == 0:
        return sigma, normal
    chosen = torch.rand(clean.n_graphs, generator=generator) < settings.prior_share
    displacement = (harmonic_positions(clean, normal) - clean.positions) / settings.prior_level
    return (
        torch.where(chosen, settings.prior_level, sigma),
        torch.where(chosen[clean.graph, None], displacement, normal),
    )


def noisy_batch(clean: StructureBatch, sigma: Tensor, noise: Tensor, model: ConsistentModel) -> NoisyBatch:
    """Moves equilibrium structures by noise.

    Args:
        clean: with their graphs, on the device and in the dtype of the model.
        sigma: ``[n_graphs]``, Angstrom.
        noise: ``[n_atoms, 3]``, displacements in units of ``sigma``, see :func:`draw_noise`.
    """
    graph = clean.graph
    noisy = clean.positions + sigma[graph, None] * noise
    aligned = align(clean.positions, noisy, graph, clean.n_graphs)
    matched = match_equivalent(aligned, noisy, equivalent_sets(clean))
    target = align(matched, noisy, graph, clean.n_graphs)
    return NoisyBatch(
        target=clean.with_positions(target),
        noisy=noisy,
        sigma=sigma,
        graph=model.structure_graph(clean.with_positions(noisy), sigma),
    )


def composition_energy(model: ConsistentModel, structures: StructureBatch, level: int) -> Tensor:
    """Sum of the atomic reference energies: float64 ``[n_graphs]`` on the CPU, eV. The batch must be on the CPU."""
    references = model.references[level].cpu()[model.lookup.cpu()[structures.numbers]]
    return references.new_zeros(structures.n_graphs).index_add(0, structures.graph, references)
