"""MoleculeRecord: one molecule with its conformations and labels, as it enters the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.dataset import Dataset
from consistent_calc.data.schema import COLUMNS
from consistent_calc.data.split import N_BUCKETS, bucket_of_smiles
from consistent_calc.errors import DataError


@dataclass(frozen=True, eq=False)
class MoleculeRecord:
    """A molecule and its conformations; every array may be anything NumPy takes.

    Attributes:
        numbers: ``[n_atoms]``, atomic numbers.
        positions: ``[n_conformations, n_atoms, 3]``, Angstrom.
        smiles: SMILES, empty where unknown.
        bucket: 0-99; None takes it from the SMILES. See :mod:`consistent_calc.data.split`.
        source: where the molecule comes from, a free word.
        charge: total charge in e.
        bonds: ``[n_bonds, 3]`` (i, j, twice the bond order); None where the graph is unknown.
        stereo: ``[n_stereo, 5]``, see :mod:`consistent_calc.molgraph`.
        kind: one or ``[n_conformations]``, meaning in the store's ``kinds``.
        equilibrium: one or ``[n_conformations]``, whether the structure is a (near-)minimum.
        energy: ``[n_conformations]``, eV.
        forces: ``[n_conformations, n_atoms, 3]``, eV/Angstrom.
        partial_charges: ``[n_conformations, n_atoms]``, e.
        dipole: ``[n_conformations, 3]``, e Angstrom.
        cell: ``[n_conformations, 3, 3]``, Angstrom; None for a molecule.
        pbc: ``[n_conformations, 3]``.
        barrier: energy barrier of the reaction the molecule takes part in, eV.
    """

    numbers: Any
    positions: Any
    smiles: str = ""
    bucket: int | None = None
    source: str = ""
    charge: int = 0
    bonds: Any = None
    stereo: Any = None
    kind: Any = 0
    equilibrium: Any = False
    energy: Any = None
    forces: Any = None
    partial_charges: Any = None
    dipole: Any = None
    cell: Any = None
    pbc: Any = None
    barrier: float | None = None

    @classmethod
    def from_dataset(cls, data: Dataset, molecule: int) -> MoleculeRecord:
        """The molecule with this index, with all its conformations and labels."""
        conformations = np.flatnonzero(data.molecule == molecule)
        rows = slice(data.row_offset[conformations[0]], data.row_offset[conformations[-1] + 1])
        atoms, bonds, stereo = (
            slice(offset[molecule], offset[molecule + 1])
            for offset in (data.atom_offset, data.bond_offset, data.stereo_offset)
        )
        shape = (len(conformations), atoms.stop - atoms.start)

        def taken(column: NDArray[Any] | None, chosen: Any, *tail: int) -> NDArray[Any] | None:
            return None if column is None else column[chosen].reshape(-1, *tail)

        return cls(
            numbers=data.numbers[atoms],
            positions=data.positions[rows].reshape(*shape, 3),
            smiles=str(data.smiles[molecule]),
            bucket=int(data.bucket[molecule]),
            source=str(data.source[molecule]),
            charge=int(data.charge[molecule]),
            bonds=data.bonds[bonds],
            stereo=data.stereo[stereo],
            kind=data.kind[conformations],
            equilibrium=data.equilibrium[conformations],
            energy=None if data.energy is None else data.energy[conformations],
            forces=taken(data.forces, rows, shape[1], 3),
            partial_charges=taken(data.partial_charges, rows, shape[1]),
            dipole=None if data.dipole is None else data.dipole[conformations],
            cell=None if data.cell is None else data.cell[conformations],
            pbc=None if data.pbc is None else data.pbc[conformations],
            barrier=None if data.barrier is None else float(data.barrier[molecule]),
        )

    def at(self, positions: Any) -> MoleculeRecord:
        """The molecule and its graph at other positions, without labels."""
        return MoleculeRecord(
            numbers=self.numbers,
            positions=positions,
            smiles=self.smiles,
            bucket=self.bucket,
            source=self.source,
            charge=self.charge,
            bonds=self.bonds,
            stereo=self.stereo,
        )

    def columns(self) -> dict[str, NDArray[Any] | None]:
        """Rows of every column of the schema, None for an absent label.

        Raises:
            DataError: no bucket, wrong shapes, non-finite positions, or indices outside the molecule.
        """
        n_atoms, n_conf = self._shape()
        lengths = {"molecule": 1, "atom": n_atoms, "conformation": n_conf, "row": n_conf * n_atoms}
        out: dict[str, Any] = {}
        for name, column in COLUMNS.items():
            if name.startswith("n_"):
                continue
            value = self._checked_bucket() if name == "bucket" else getattr(self, name)
            if value is None and column.optional:
                out[name] = None
                continue
            dtype = np.dtype(object if column.dtype == "str" else column.dtype)
            array = np.asarray([] if value is None else value, dtype=dtype)
            if array.ndim == 0 and not column.tail and column.axis in ("molecule", "conformation"):
                array = np.full(lengths[column.axis], array, dtype=dtype)
            expected = lengths.get(column.axis, array.size // max(int(np.prod(column.tail)), 1))
            if array.size != expected * int(np.prod(column.tail)):
                raise DataError(f"{self._name()}: {name} has shape {array.shape}, expected {expected} rows.")
            out[name] = array.reshape(expected, *column.tail)
        self._check_indices(out, n_atoms)
        sizes = (n_atoms, len(out["bonds"]), len(out["stereo"]), n_conf)
        for name, size in zip(("n_atoms", "n_bonds", "n_stereo", "n_conformations"), sizes, strict=True):
            out[name] = np.array([size], dtype=COLUMNS[name].dtype)
        return out

    def _name(self) -> str:
        return f"Molecule {self.smiles or '(no SMILES)'}"

    def _shape(self) -> tuple[int, int]:
        n_atoms, shape = len(self.numbers), np.shape(self.positions)
        if n_atoms == 0 or len(shape) != 3 or shape[1:] != (n_atoms, 3) or shape[0] == 0:
            raise DataError(
                f"{self._name()}: positions have shape {shape}, expected [n_conformations, {n_atoms} atoms, 3]."
            )
        if not np.isfinite(self.positions).all():
            raise DataError(f"{self._name()}: positions are NaN or infinite.")
        return n_atoms, shape[0]

    def _checked_bucket(self) -> int:
        if self.bucket is None:
            if not self.smiles:
                raise DataError("A molecule needs a bucket or a SMILES, else its side of the split is unknown.")
            return bucket_of_smiles(self.smiles)
        if not 0 <= self.bucket < N_BUCKETS:
            raise DataError(f"{self._name()}: a bucket is an integer in 0-{N_BUCKETS - 1}, got {self.bucket}.")
        return self.bucket

    def _check_indices(self, columns: dict[str, Any], n_atoms: int) -> None:
        for name, n_indices in (("bonds", 2), ("stereo", 4)):
            indices = columns[name][:, :n_indices]
            if indices.size and (indices.min() < 0 or indices.max() >= n_atoms):
                raise DataError(f"{self._name()}: {name} refer to atoms outside the {n_atoms} of the molecule.")
