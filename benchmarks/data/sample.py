"""Samples structures on the teacher's surface and labels them: the training set of the shipped checkpoint grows.

    python benchmarks/data/sample.py --engine aimnet2_wb97m-d3_0.jpt --device cuda relabel datasets/organic.h5 -o ...
    python benchmarks/data/sample.py --engine ... --device cuda molecules datasets/new_molecules.h5 --seconds 150 -o ...
    python benchmarks/data/sample.py --engine ... --device cuda vibrations datasets/qm9.h5 --seconds 60 -o ...
    python benchmarks/data/sample.py --engine ... --device cuda contacts datasets/qm9.h5 datasets/tiny.h5 -o ...

``relabel`` computes labels of given structures in float64. ``molecules`` relaxes given structures (the minimum is a
target of the structure head), then runs Langevin dynamics from it; ``vibrations`` runs dynamics from given minima.
``contacts`` puts molecules, ions and water among them, next to each other at 0.55-1.4 of their van der Waals distance,
and lets them relax and move. All stop after ``--seconds``, with what there is then; molecules come in random order.
Molecules keep their bucket; the partners of a contact are from one side of the split, test molecules never come.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.data import atomic_masses, covalent_radii
from contacts import clusters
from numpy.typing import NDArray
from teacher import LEVEL, Teacher
from torch import Tensor

from consistent_calc import StructureBatch, relax
from consistent_calc.data import Dataset, MoleculeRecord, Split, Store, StoreWriter
from consistent_calc.molgraph import stereo_satisfied

KINDS = {
    0: "as given",
    1: "on the way down the surface of the labels",
    2: "relaxed on the surface of the labels",
    3: "Langevin dynamics at 200-1000 K on the surface of the labels",
    4: "molecules placed next to each other",
}
GIVEN, DOWN, RELAXED, DYNAMICS, PLACED = range(5)

#: Atoms moved at once on a GPU.
ATOMS = {"cpu": 600, "cuda": 20_000}
#: Structures with a larger force (eV/Angstrom) have collapsed or exploded and teach nothing.
MAX_FORCE = 30.0


@dataclass
class Group:
    """Molecules of one size and everything sampled of them so far.

    Attributes:
        records: one a molecule, whose first conformation is the start.
        numbers: int64 ``[B, n]``; charge: ``[B]``.
        frames: kind and positions float64 ``[B, n, 3]``.
    """

    records: list[MoleculeRecord]
    numbers: Tensor
    charge: Tensor
    frames: list[tuple[int, Tensor]]

    @classmethod
    def make(cls, records: list[MoleculeRecord], device: torch.device, kind: int = GIVEN) -> Group:
        x = np.stack([np.asarray(r.positions, dtype=np.float64)[0] for r in records])
        numbers = torch.from_numpy(np.stack([np.asarray(r.numbers, dtype=np.int64) for r in records]))
        charge = torch.tensor([float(r.charge) for r in records])
        return cls(records, numbers.to(device), charge.to(device), [(kind, torch.from_numpy(x).to(device))])


def relaxed(teacher: Teacher, group: Group, x: Tensor, max_steps: int) -> Tensor:
    """``[B, n, 3]`` after at most that many steps of relaxation."""
    n, size = x.shape[:2]
    batch = StructureBatch(
        numbers=group.numbers.reshape(-1),
        positions=x.reshape(-1, 3),
        graph=torch.arange(n, device=x.device).repeat_interleave(size),
        cell=torch.zeros(n, 3, 3, dtype=x.dtype, device=x.device),
        pbc=torch.zeros(n, 3, dtype=torch.bool, device=x.device),
        charge=group.charge.to(x),
    )
    found = relax(teacher, batch, fmax=0.05, max_steps=max_steps, max_atoms_per_batch=n * size)
    return found.batch.positions.view(n, size, 3)


def dynamics(teacher: Teacher, group: Group, x: Tensor, frames: int, every: int = 15) -> list[Tensor]:
    """Langevin dynamics (BAOAB, Leimkuhler & Matthews 2013) at a temperature of its own for every molecule.

    Returns:
        ``frames`` times ``[B, n, 3]``, every 15 fs.
    """
    mass = torch.from_numpy(atomic_masses)[group.numbers.cpu()].to(x.device, torch.float32)[:, :, None]
    temperature = 200 * 5 ** torch.rand(len(x), 1, 1, device=x.device)
    spread = (units.kB * temperature / mass).sqrt()
    dt, kept = units.fs, float(np.exp(-0.03))  # friction 0.03/fs
    x = x.float()
    # Half of the kinetic energy turns into potential energy at once.
    v = torch.randn_like(x) * spread * 2**0.5
    force = teacher.label(x, group.numbers, group.charge)[1]
    out = []
    for _ in range(frames):
        for _ in range(every):
            v = v + 0.5 * dt * force / mass
            x = x + 0.5 * dt * v
            v = kept * v + (1 - kept**2) ** 0.5 * spread * torch.randn_like(v)
            x = x + 0.5 * dt * v
            force = teacher.label(x, group.numbers, group.charge)[1]
            v = v + 0.5 * dt * force / mass
        out.append(x.double())
    return out


def labelled(teacher: Teacher, group: Group) -> Iterator[MoleculeRecord]:
    """The records of a group with all its frames and their labels; without frames that are of no use."""
    results = [[r.cpu().numpy() for r in teacher.label(x, group.numbers, group.charge)] for _, x in group.frames]
    energy, forces, charges = (np.stack(column, axis=1) for column in zip(*results, strict=True))
    positions = np.stack([x.cpu().numpy() for _, x in group.frames], axis=1)
    kinds = np.array([k for k, _ in group.frames])
    largest = np.sqrt((forces**2).sum(-1)).max(-1)
    good = np.isfinite(energy) & np.isfinite(positions).all((2, 3)) & (np.nan_to_num(largest, nan=np.inf) < MAX_FORCE)
    for b, record in enumerate(group.records):
        rows = good[b]
        if rows.any():
            yield replace(
                record,
                positions=positions[b, rows],
                kind=kinds[rows],
                equilibrium=[
                    k == RELAXED and f < 0.1 and is_same_molecule(record, x)
                    for k, f, x in zip(kinds[rows], largest[b, rows], positions[b, rows], strict=True)
                ],
                energy=energy[b, rows],
                forces=forces[b, rows],
                partial_charges=charges[b, rows],
            )


def is_same_molecule(record: MoleculeRecord, x: NDArray[np.float64]) -> bool:
    """Whether all bonds have their length, no others have come about, and stereo is as tagged."""
    bonds, numbers = np.asarray(record.bonds), np.asarray(record.numbers)
    if len(bonds) == 0:
        return False
    distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
    ratio = distance / (covalent_radii[numbers][:, None] + covalent_radii[numbers])
    bonded = np.zeros_like(ratio, dtype=bool)
    bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = True
    apart = ratio[~bonded & ~np.eye(len(x), dtype=bool)]
    stereo = torch.as_tensor(np.asarray(record.stereo, dtype=np.int64).reshape(-1, 5))
    right = bool(stereo_satisfied(torch.from_numpy(x), stereo).all())
    return right and bool(ratio[bonded].max() < 1.3 and (len(apart) == 0 or apart.min() > 1.25))


def groups(
    records: list[MoleculeRecord], teacher: Teacher, kind: int, rng: np.random.Generator, shard: tuple[int, int]
) -> Iterator[Group]:
    """Molecules of one size together, in random order; a shard takes its share of these groups."""
    sizes = np.array([len(r.numbers) for r in records])
    batches = []
    for size in np.unique(sizes):
        chosen = rng.permutation(np.flatnonzero(sizes == size))
        step = max(1, ATOMS[teacher.device.type] // int(size))
        batches += [chosen[k : k + step] for k in range(0, len(chosen), step)]
    for k in rng.permutation(len(batches))[shard[0] :: shard[1]]:
        yield Group.make([records[i] for i in batches[k]], teacher.device, kind)


def read(paths: list[Path], equilibrium: bool = False) -> list[MoleculeRecord]:
    """Molecules of the training and validation sides, a record a conformation (a group has one size, not molecule)."""
    out = []
    for path in paths:
        data = Store(path).read(Split.TRAIN, Split.VALIDATION)
        for molecule in range(data.n_molecules):
            record = MoleculeRecord.from_dataset(data, molecule)
            for k, x in enumerate(record.positions):
                if record.equilibrium[k] or not equilibrium:
                    out.append(record.at(x[None]))
    return out


def relabelled(teacher: Teacher, paths: list[Path], shard: tuple[int, int]) -> Iterator[MoleculeRecord]:
    """Molecules with all their conformations and new labels."""
    for path in paths:
        data = Store(path).read(Split.TRAIN, Split.VALIDATION)
        sizes = np.diff(data.atom_offset)
        for size in np.unique(sizes):
            for part in _parts(data, np.flatnonzero(sizes == size)[shard[0] :: shard[1]], ATOMS[teacher.device.type]):
                yield from _relabelled(teacher, [MoleculeRecord.from_dataset(data, int(m)) for m in part])


def _parts(data: Dataset, molecules: NDArray[np.int64], atoms: int) -> Iterator[NDArray[np.int64]]:
    """Molecules of one size in parts whose conformations have about that many atoms."""
    rows = np.bincount(data.molecule, weights=data.n_atoms, minlength=data.n_molecules)[molecules]
    ends = np.flatnonzero(np.diff(rows.cumsum() // atoms)) + 1
    yield from (part for part in np.split(molecules, ends) if len(part))


def _relabelled(teacher: Teacher, records: list[MoleculeRecord]) -> Iterator[MoleculeRecord]:
    counts = [len(r.positions) for r in records]
    x = torch.from_numpy(np.concatenate([r.positions for r in records])).to(teacher.device, torch.float64)
    numbers = torch.from_numpy(np.stack([r.numbers for r in records]).astype(np.int64)).to(teacher.device)
    charge = torch.tensor([float(r.charge) for r in records], device=teacher.device)
    owner = torch.repeat_interleave(torch.tensor(counts, device=teacher.device))
    labels = [y.cpu().numpy() for y in teacher.label(x, numbers[owner], charge[owner])]
    for record, end, count in zip(records, np.cumsum(counts), counts, strict=True):
        energy, forces, charges = (y[end - count : end] for y in labels)
        good = np.isfinite(energy) & (np.nan_to_num(np.abs(forces), nan=np.inf).max((1, 2)) < MAX_FORCE)
        if good.any():
            yield replace(
                record,
                positions=record.positions[good],
                kind=record.kind[good],
                equilibrium=record.equilibrium[good],
                energy=energy[good],
                forces=forces[good],
                partial_charges=charges[good],
            )


def sampled(task: str, teacher: Teacher, found: Iterator[Group]) -> Iterator[MoleculeRecord]:
    """Molecules with the structures of a task and their labels."""
    for group in found:
        sample(task, teacher, group)
        yield from labelled(teacher, group)


def sample(task: str, teacher: Teacher, group: Group) -> None:
    """Adds the frames of a task to a group."""
    x = group.frames[0][1]
    if task == "molecules":
        group.frames.append((DOWN, relaxed(teacher, group, x, max_steps=3)))
        x = relaxed(teacher, group, group.frames[-1][1], max_steps=60)
        group.frames.append((RELAXED, x))
    if task == "contacts":
        x = relaxed(teacher, group, x, max_steps=12)
        group.frames.append((DOWN, x))
    frames = {"molecules": 8, "vibrations": 3, "contacts": 3}[task]
    group.frames += [(DYNAMICS, y) for y in dynamics(teacher, group, x, frames)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("relabel", "molecules", "vibrations", "contacts"))
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1), metavar=("I", "N"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.shard[0])
    rng = np.random.default_rng(0)  # the same for all shards, which share the groups out
    deadline = time.monotonic() + arguments.seconds
    teacher = Teacher(arguments.engine, arguments.device)
    task, shard = arguments.task, tuple(arguments.shard)
    if task == "relabel":
        found = relabelled(teacher, arguments.stores, shard)
    else:
        records = read(arguments.stores, equilibrium=task == "contacts")
        if task == "contacts":
            records = clusters(records, 12_000, rng)
        kind = PLACED if task == "contacts" else GIVEN
        found = sampled(task, teacher, groups(records, teacher, kind, rng, shard))
    atoms = 0
    provenance = f"{teacher.provenance}, benchmarks/data/sample.py"
    with StoreWriter(arguments.output, level=LEVEL, provenance=provenance, licence="MIT", kinds=KINDS) as writer:
        for record in found:
            writer.add(record)
            atoms += record.positions.shape[0] * record.positions.shape[1]
            if time.monotonic() > deadline:
                break
    print(f"{task} {shard}: {writer.n_molecules} molecules, {writer.n_conformations} structures, {atoms} atoms")


if __name__ == "__main__":
    main()
