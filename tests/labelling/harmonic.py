"""A harmonic engine, and stores of diatomic molecules that it labels."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data import MoleculeRecord, StoreWriter
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.engine import Engine, Label
from consistent_calc.labelling.job import LabellingJob
from consistent_calc.labelling.names import EngineName

#: Of the harmonic engine's bonds, Angstrom, and its spring, eV/Angstrom^2.
LENGTH, SPRING = 0.74, 20.0


class Died(BaseException):
    """Stands for the death of a worker where there is none."""


class Harmonic(Engine):
    """Springs between the first atom and the others. The charge of a molecule sets what goes wrong with it."""

    level, provenance = "harmonic", "test"

    def die(self) -> None:
        os._exit(3)

    def single_point(self, numbers: NDArray[Any], positions: Any, charge: int) -> Label:
        if charge == 2:
            raise LabellingError("no field", "not_converged")
        if charge == 4:
            time.sleep(60)
        if charge == 6:
            self.die()
        if charge == 8:
            raise np.linalg.LinAlgError("singular")
        bond = positions[1:] - positions[0]
        r = np.linalg.norm(bond, axis=1, keepdims=True)
        pull = SPRING * (r - LENGTH) * bond / r
        energy = np.nan if charge == 10 else 0.5 * SPRING * ((r - LENGTH) ** 2).sum()
        forces = np.concatenate([pull.sum(0, keepdims=True), -pull])
        return Label(positions, float(energy), forces, charges=np.zeros(len(numbers)))


def dihydrogen(name: str, bucket: int, charge: int = 0, **changes: Any) -> MoleculeRecord:
    """H2 in two conformations; the charges are even, and so are the electrons."""
    positions = np.array([[[0, 0, 0], [0, 0, 0.8]], [[0, 0, 0], [0.7, 0, 0]]])
    values = {"numbers": [1, 1], "positions": positions, "smiles": name, "source": "test", "bonds": [(0, 1, 2)]}
    return MoleculeRecord(**(values | {"bucket": bucket, "charge": charge} | changes))


def write_job(folder: Path, records: list[MoleculeRecord], **changes: Any) -> LabellingJob:
    """A job over a store of these molecules."""
    with StoreWriter(folder / "in.h5", level="none", provenance="made up", licence="MIT", kinds={0: "a"}) as writer:
        for record in records:
            writer.add(record)
    values = {"engine": EngineName.tblite, "chunk": 2, "timeout": 5.0} | changes
    return LabellingJob(str(folder / "in.h5"), str(folder / "out.h5"), **values)
