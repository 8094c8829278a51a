"""Molecules placed next to each other: dimers and small clusters, some closer than they would like."""

from __future__ import annotations

import numpy as np
from ase.data import vdw_radii
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from consistent_calc.data import MoleculeRecord, Split

#: Shares of the first partners that are ions, and of the others that are water; half of the rest are small.
IONS, WATER = 0.35, 0.3
SMALL = 10  # atoms
#: Closest contact over the sum of the van der Waals radii (of unknown radii: 2 Angstrom), and of a fifth of the pairs
#: that are far apart: they teach which of the partners a total charge belongs to.
CONTACT, APART, SHARE_APART = (0.55, 1.4), (1.4, 4.0), 0.2
MAX_ATOMS = 60
RADII = np.nan_to_num(vdw_radii, nan=2.0)


def clusters(monomers: list[MoleculeRecord], n: int, rng: np.random.Generator) -> list[MoleculeRecord]:
    """``n`` clusters of two molecules, every fifth of three to six, of partners from one side of the split.

    Monomers of large charge repel each other out of any contact: the total charge stays between -1 and 1.
    """
    sides = [
        [r for r in monomers if r.bucket in Split.TRAIN.buckets],
        [r for r in monomers if r.bucket in Split.VALIDATION.buckets],
    ]
    pools = [_Pool(side) for side in sides if side]
    out: list[MoleculeRecord] = []
    while len(out) < n:
        pool = pools[0] if rng.random() < 0.93 else pools[-1]
        size = 2 if rng.random() < 0.8 else int(rng.integers(3, 7))
        parts = [pool.first(rng), *(pool.other(rng) for _ in range(size - 1))]
        charge = sum(r.charge for r in parts)
        if abs(charge) <= 1 and sum(len(r.numbers) for r in parts) <= MAX_ATOMS:
            out.append(_cluster(parts, charge, rng))
    return out


class _Pool:
    """The monomers of one side of the split."""

    def __init__(self, records: list[MoleculeRecord]) -> None:
        self.all = records
        self.waters = [r for r in records if sorted(r.numbers) == [1, 1, 8] and r.charge == 0] or records
        self.ions = [r for r in records if r.charge != 0] or records
        self.small = [r for r in records if len(r.numbers) <= SMALL] or records

    def first(self, rng: np.random.Generator) -> MoleculeRecord:
        return _choice(self.ions, rng) if rng.random() < IONS else self._any(rng)

    def other(self, rng: np.random.Generator) -> MoleculeRecord:
        return _choice(self.waters, rng) if rng.random() < WATER else self._any(rng)

    def _any(self, rng: np.random.Generator) -> MoleculeRecord:
        return _choice(self.small if rng.random() < 0.5 else self.all, rng)


def _choice(records: list[MoleculeRecord], rng: np.random.Generator) -> MoleculeRecord:
    return records[int(rng.integers(len(records)))]


def _cluster(parts: list[MoleculeRecord], charge: int, rng: np.random.Generator) -> MoleculeRecord:
    numbers, positions = np.asarray(parts[0].numbers), _centred(parts[0])
    for part in parts[1:]:
        z, x = np.asarray(part.numbers), _centred(part) @ Rotation.random(random_state=rng).as_matrix().T
        positions = np.concatenate([positions, x + _shift(numbers, positions, z, x, rng)])
        numbers = np.concatenate([numbers, z])
    return MoleculeRecord(
        numbers=numbers,
        positions=positions[None],
        smiles=".".join(r.smiles for r in parts),
        bucket=parts[0].bucket,
        source="contact",
        charge=charge,
    )


def _centred(record: MoleculeRecord) -> NDArray[np.float64]:
    x = np.asarray(record.positions, dtype=np.float64)[0]
    return x - x.mean(0)


def _shift(
    numbers: NDArray[np.integer],
    positions: NDArray[np.float64],
    z: NDArray[np.integer],
    x: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Moves ``x`` in from far away in a random direction until the closest contact is as wanted."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    factor = rng.uniform(*(APART if rng.random() < SHARE_APART else CONTACT))
    wanted = factor * (RADII[numbers][:, None] + RADII[z])
    # |d + t u| = wanted has its last solution at t = -d.u + sqrt((d.u)^2 - d^2 + wanted^2), where there is one.
    d = x - positions[:, None]
    along = d @ direction
    root = along**2 - (d**2).sum(-1) + wanted**2
    touching = root > 0
    t = (-along + np.sqrt(root.clip(0)))[touching]
    return (t.max() if touching.any() else 0.0) * direction
