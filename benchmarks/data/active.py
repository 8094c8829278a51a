"""Active learning: structures that the model itself visits and is not sure of.

    python benchmarks/data/active.py explore datasets/new_molecules.h5 --contacts datasets/tiny.h5 \\
        --committee base stages/d214e91/base.json --seconds 900 -o datasets/explored.h5
    consistent-calc label datasets/explored.h5 -o datasets/active.h5 --engine aimnet2 \\
        --model-file aimnet2_wb97m_ens_f.jpt
    python benchmarks/data/active.py report datasets/active.h5 --committee base stages/d214e91/base.json

``explore`` lets the first checkpoint move molecules: dynamics at 300-1000 K from its minima, torsions turned at random
and relaxed a few steps, molecules and ions next to each other. All checkpoints judge every structure. Kept are
structures where they disagree most (the largest standard deviation of the force on an atom), structures whose bonds
changed on the way, and, to compare, a random choice. Molecules keep their bucket; test molecules never come. Labels
come from the package's own ``label`` command; with the four networks of the teacher their mean is the label, and a
structure on which they disagree is left out.

``report`` says how large the errors are in each part, and whether disagreement tells the error
(``results/active.csv``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from contacts import clusters
from numpy.typing import NDArray
from sample import read
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from consistent_calc import ConsistentModel, StructureBatch, load_model, relax
from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter
from consistent_calc.ensemble import predict_ensemble
from consistent_calc.errors import InvalidStructureError

sys.path += [str(Path(__file__).parents[1] / name) for name in ("accuracy", "dynamics")]
from batched_dynamics import BondCheck, Dynamics
from summary import write_csv

RESULTS = Path(__file__).parent / "results"
WAYS = ("dynamics", "turned torsion", "contact")
REASONS = ("random choice", "checkpoints disagree", "bonds changed")
KINDS = {3 * w + r: f"{way}, {reason}" for w, way in enumerate(WAYS) for r, reason in enumerate(REASONS)}
RANDOM, DISAGREE, CHANGED = range(3)

#: Atoms that move together, and structures of a run of dynamics, so many fs apart.
ATOMS, FRAMES, EVERY = 600, 8, 60
#: Structures on which the first checkpoint sees a larger force (eV/Angstrom) have exploded and teach nothing.
MAX_FORCE = 30.0


@dataclass(frozen=True)
class Visit:
    """A structure that the model came to.

    Attributes:
        molecule: index of its record.
        positions: ``[n_atoms, 3]``, Angstrom.
        way: index into :data:`WAYS`.
        score: largest standard deviation of the force on an atom, eV/Angstrom.
        changed: whether bonds are not those of the start.
    """

    molecule: int
    positions: NDArray[np.float64]
    way: int
    score: float
    changed: bool


def together(records: Sequence[MoleculeRecord]) -> StructureBatch:
    """The first conformations as one batch."""
    return StructureBatch.concatenate(
        [StructureBatch.from_arrays(r.numbers, np.asarray(r.positions)[0], charge=r.charge) for r in records]
    )


def turned(record: MoleculeRecord, rng: np.random.Generator) -> MoleculeRecord | None:
    """Half of the molecule turned about a random single bond; None if there is no such bond."""
    bonds, x = np.asarray(record.bonds), np.array(record.positions, dtype=np.float64)[0]
    n_neighbors = np.bincount(bonds[:, :2].ravel(), minlength=len(x))
    for k in rng.permutation(len(bonds)):
        i, j, order = (int(v) for v in bonds[k])
        if order != 2 or min(n_neighbors[i], n_neighbors[j]) == 1:
            continue
        others = np.delete(bonds[:, :2], k, axis=0)
        _, piece = connected_components(coo_array((np.ones(len(others)), others.T), shape=(len(x), len(x))), False)
        if piece[i] != piece[j]:
            axis = (x[j] - x[i]) / np.linalg.norm(x[j] - x[i])
            side = piece == piece[j]
            x[side] = Rotation.from_rotvec(rng.uniform(0.5, 5.8) * axis).apply(x[side] - x[i]) + x[i]
            return replace(record, positions=x[None])
    return None


def visit(
    models: Sequence[ConsistentModel], records: Sequence[MoleculeRecord], way: int, rng: np.random.Generator
) -> Iterator[tuple[StructureBatch, NDArray[np.bool_]]]:
    """Structures that the first model comes to from these, and whose bonds have changed."""
    start = together(records)
    steps = {"dynamics": 200, "turned torsion": 5, "contact": 12}[WAYS[way]]
    batch = relax(models[0], start, fmax=0.05, max_steps=steps).batch
    # A structure that is not the molecule any more before anything happened tells nothing about the model.
    bonds = BondCheck(start if WAYS[way] == "turned torsion" else batch)
    yield batch, bonds.changed(batch.positions).numpy()
    if WAYS[way] != "turned torsion":
        temperature = 300 * (10 / 3) ** rng.random()
        dynamics = Dynamics(models[0], batch, 1.0, seed=int(rng.integers(10**6)))
        dynamics.thermalize(temperature)
        for _ in range(FRAMES):
            dynamics.run(EVERY, temperature, friction=0.02)
            yield batch.with_positions(dynamics.positions), bonds.changed(dynamics.positions).numpy()


def explore(
    models: Sequence[ConsistentModel], pools: Sequence[list[MoleculeRecord]], seconds: float, rng: np.random.Generator
) -> tuple[list[MoleculeRecord], list[Visit]]:
    """Visits until the time is over, half of them of dynamics."""
    deadline, records, visits = time.monotonic() + seconds, [], []
    while time.monotonic() < deadline:
        way = int(rng.choice(len(WAYS), p=(0.5, 0.25, 0.25)))
        chosen: list[MoleculeRecord] = []
        while sum(len(r.numbers) for r in chosen) < ATOMS:
            record = pools[way][int(rng.integers(len(pools[way])))]
            start = turned(record, rng) if WAYS[way] == "turned torsion" else record
            chosen += [start] if start else []
        try:
            for batch, changed in visit(models, chosen, way, rng):
                found = predict_ensemble(models, batch)
                assert found.forces_std is not None
                assert found.mean.forces is not None
                sizes = batch.counts.tolist()
                parts = (x.split(sizes) for x in (batch.positions, found.mean.forces, found.forces_std))
                for k, (x, force, spread) in enumerate(zip(*parts, strict=True)):
                    if float(force.norm(dim=1).max()) < MAX_FORCE:
                        score = float(spread.max())
                        visits.append(Visit(len(records) + k, x.numpy().copy(), way, score, bool(changed[k])))
        except InvalidStructureError as error:  # of a start
            print(f"left out {len(chosen)} molecules: {error}")
        records += chosen
        print(f"{len(visits)} structures of {len(records)} molecules", flush=True)
    return records, visits


def choose(visits: Sequence[Visit], share: float, rng: np.random.Generator) -> dict[int, int]:
    """Reason by index of the visits that are kept: as many at random as disagree most, at most two of a molecule."""
    n = round(share * len(visits))
    kept = dict.fromkeys(rng.permutation(len(visits))[:n].tolist(), RANDOM)
    of_molecule: dict[int, int] = {}
    chosen = 0
    for k in sorted(range(len(visits)), key=lambda k: -visits[k].score):
        molecule = visits[k].molecule
        if k not in kept and not visits[k].changed and chosen < n and of_molecule.get(molecule, 0) < 2:
            kept[k] = DISAGREE
            of_molecule[molecule] = of_molecule.get(molecule, 0) + 1
            chosen += 1
    changed = [k for k, v in enumerate(visits) if v.changed and k not in kept]
    return kept | dict.fromkeys(rng.permutation(changed)[:n].tolist(), CHANGED)


def write(path: Path, records: Sequence[MoleculeRecord], visits: Sequence[Visit], kept: dict[int, int]) -> None:
    """A molecule with its kept structures, without labels."""
    with StoreWriter(
        path,
        level="none",
        provenance="visited by the model, no labels; benchmarks/data/active.py",
        licence="MIT",
        kinds=KINDS,
    ) as writer:
        for molecule, record in enumerate(records):
            own = [k for k in kept if visits[k].molecule == molecule]
            if own:
                positions = np.stack([visits[k].positions for k in own])
                kinds = [3 * visits[k].way + kept[k] for k in own]
                writer.add(replace(record, positions=positions, kind=kinds, equilibrium=False))


def report(models: Sequence[ConsistentModel], path: Path) -> None:
    """Errors of the first model by kind, and what the disagreement says of them."""
    data = Store(path).read(Split.TRAIN, Split.VALIDATION)
    assert data.forces is not None
    scores, errors, mae = np.zeros(len(data)), np.zeros(len(data)), np.zeros(len(data))
    for k in range(len(data)):
        batch = data.batch([k])[0]
        found, single = predict_ensemble(models, batch), models[0].predict(batch)
        assert found.forces_std is not None
        assert single.forces is not None
        wrong = single.forces.numpy() - data.forces[data.row_offset[k] : data.row_offset[k + 1]]
        scores[k], errors[k], mae[k] = found.forces_std.max(), np.linalg.norm(wrong, axis=1).max(), np.abs(wrong).mean()
    rows = []
    for kind, name in KINDS.items():
        own = data.kind == kind
        if own.any():
            row = {"kind": name, "structures": own.sum(), "force_mae_eV_A": f"{mae[own].mean():.4f}"}
            row |= {"median_of_largest_force_error_eV_A": f"{np.median(errors[own]):.3f}"}
            rows.append(row | {"rank_correlation_of_score_and_error": f"{spearmanr(scores[own], errors[own])[0]:.2f}"})
            print(rows[-1])
    write_csv(RESULTS / "active.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("explore", "report"))
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument(
        "--contacts", type=Path, nargs="*", default=[], help="stores with minima of what is put together"
    )
    parser.add_argument("--committee", nargs="+", default=["base"], help="checkpoints; the first one moves the atoms")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--share", type=float, default=0.1, help="of the structures that is kept for disagreement")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = [load_model(name) for name in options.committee]
    if options.task == "report":
        report(models, options.stores[0])
        return
    rng = np.random.default_rng(0)
    molecules = read(options.stores)
    placed = clusters(read(options.contacts, equilibrium=True), 4000, rng) if options.contacts else molecules
    records, visits = explore(models, (molecules, molecules, placed), options.seconds, rng)
    write(options.output, records, visits, choose(visits, options.share, rng))


if __name__ == "__main__":
    main()
