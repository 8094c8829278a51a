"""Labelled structures in memory, and the batches made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consistent_calc.structures import StructureBatch


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch; None where the data set has no such label, NaN where one entry lacks it.

    Attributes:
        level: level of theory.
        molecule: int64 ``[n_graphs]``, index of the molecule in its data set (conformations of one molecule share it).
        energy: float64 ``[n_graphs]``, eV.
        forces: float32 ``[n_atoms, 3]``, eV/Angstrom.
        partial_charges: float32 ``[n_atoms]``, e.
        dipole: float32 ``[n_graphs, 3]``, e Angstrom.
    """

    level: str
    molecule: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None
    partial_charges: Tensor | None = None
    dipole: Tensor | None = None

    def to(self, device: torch.device | str) -> Labels:
        """The same labels on a device."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One side of the split of one store, in memory. ``len`` is the number of conformations.

    Offsets have one entry more than there are items, so item ``i`` spans ``offset[i]:offset[i + 1]``.

    Attributes:
        level: level of theory of the labels.
        kinds: meaning of the values of ``kind``.
        smiles, source: object ``[n_molecules]``, text.
        charge, bucket: integers ``[n_molecules]``.
        numbers: uint8 ``[sum n_atoms]``, atomic numbers.
        bonds: int16 ``[sum n_bonds, 3]``; stereo: int16 ``[sum n_stereo, 5]``; atom indices within the molecule.
        atom_offset, bond_offset, stereo_offset: int64 ``[n_molecules + 1]``.
        molecule: int64 ``[n_conformations]``, the molecule of each conformation.
        kind: uint8 ``[n_conformations]``; equilibrium: bool ``[n_conformations]``.
        positions: float32 ``[n_rows, 3]``, Angstrom; a row is one atom of one conformation.
        row_offset: int64 ``[n_conformations + 1]``, rows of each conformation.
        energy: float64 ``[n_conformations]``, eV, or None.
        forces: float32 or float16 ``[n_rows, 3]``, eV/Angstrom, or None.
        partial_charges: float32 or float16 ``[n_rows]``, e, or None.
        dipole: float32 ``[n_conformations, 3]``, e Angstrom, or None.
        cell: float32 ``[n_conformations, 3, 3]``, Angstrom, or None; pbc: bool ``[n_conformations, 3]``, or None.
        barrier: float64 ``[n_molecules]``, eV, or None.
    """

    level: str
    kinds: Mapping[int, str]
    smiles: NDArray[Any]
    source: NDArray[Any]
    charge: NDArray[Any]
    bucket: NDArray[Any]
    numbers: NDArray[Any]
    bonds: NDArray[Any]
    stereo: NDArray[Any]
    atom_offset: NDArray[np.int64]
    bond_offset: NDArray[np.int64]
    stereo_offset: NDArray[np.int64]
    molecule: NDArray[np.int64]
    kind: NDArray[Any]
    equilibrium: NDArray[np.bool_]
    positions: NDArray[np.float32]
    row_offset: NDArray[np.int64]
    energy: NDArray[np.float64] | None = None
    forces: NDArray[Any] | None = None
    partial_charges: NDArray[Any] | None = None
    dipole: NDArray[Any] | None = None
    cell: NDArray[Any] | None = None
    pbc: NDArray[np.bool_] | None = None
    barrier: NDArray[np.float64] | None = None
    n_atoms: NDArray[np.int64] = field(init=False)
    """int64 ``[n_conformations]``, atoms of each conformation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_atoms", np.diff(self.row_offset))

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]], *, level: str, kinds: Mapping[int, str]) -> Dataset:
        """From the columns of a store (see :mod:`consistent_calc.data.schema`)."""
        arrays = {name: array for name, array in columns.items() if not name.startswith("n_")}
        molecule = np.repeat(np.arange(len(columns["n_atoms"]), dtype=np.int64), columns["n_conformations"])
        return cls(
            level=level,
            kinds=kinds,
            atom_offset=_offsets(columns["n_atoms"]),
            bond_offset=_offsets(columns["n_bonds"]),
            stereo_offset=_offsets(columns["n_stereo"]),
            molecule=molecule,
            row_offset=_offsets(columns["n_atoms"][molecule]),
            **arrays,
        )

    def __len__(self) -> int:
        return len(self.molecule)

    @property
    def elements(self) -> set[int]:
        """Atomic numbers that occur."""
        return {int(z) for z in np.unique(self.numbers)}

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return len(self.bucket)

    def batch(
        self, indices: Sequence[int] | NDArray[np.integer], *, with_graph: bool = False
    ) -> tuple[StructureBatch, Labels]:
        """Conformations as one batch, in the order asked for.

        Args:
            indices: ``[n_graphs]``, which conformations.
            with_graph: also give bonds and stereo tags (empty tables for molecules whose graph is unknown).

        Returns:
            The structures in float32, and their labels.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        molecule = self.molecule[chosen]
        rows = _rows(self.row_offset, chosen)
        sizes = self.n_atoms[chosen]
        n = len(chosen)
        structures = StructureBatch(
            numbers=torch.from_numpy(self.numbers[_rows(self.atom_offset, molecule)].astype(np.int64)),
            positions=torch.from_numpy(self.positions[rows]),
            graph=torch.from_numpy(np.repeat(np.arange(n), sizes)),
            cell=torch.zeros(n, 3, 3) if self.cell is None else torch.from_numpy(self.cell[chosen]),
            pbc=torch.zeros(n, 3, dtype=torch.bool) if self.pbc is None else torch.from_numpy(self.pbc[chosen]),
            charge=torch.from_numpy(self.charge[molecule].astype(np.float32)),
            bonds=self._table("bonds", molecule, sizes) if with_graph else None,
            stereo=self._table("stereo", molecule, sizes) if with_graph else None,
        )
        labels = Labels(
            level=self.level,
            molecule=torch.from_numpy(molecule),
            energy=None if self.energy is None else torch.from_numpy(self.energy[chosen]),
            forces=_float32(self.forces, rows),
            partial_charges=_float32(self.partial_charges, rows),
            dipole=None if self.dipole is None else torch.from_numpy(self.dipole[chosen]),
        )
        return structures, labels

    def _table(self, name: str, molecule: NDArray[np.int64], sizes: NDArray[np.int64]) -> Tensor:
        """``bonds`` or ``stereo`` of the molecules, with atom indices shifted to those of the batch."""
        table, offset = (self.bonds, self.bond_offset) if name == "bonds" else (self.stereo, self.stereo_offset)
        joined = table[_rows(offset, molecule)].astype(np.int64)
        joined[:, :-1] += np.repeat(np.cumsum(sizes) - sizes, offset[molecule + 1] - offset[molecule])[:, None]
        return torch.from_numpy(joined)


def _offsets(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Running sums from zero, int64 ``[len(counts) + 1]``."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _rows(offset: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows ``offset[i] .. offset[i + 1] - 1`` of all items, in order."""
    sizes = offset[items + 1] - offset[items]
    return np.arange(sizes.sum()) + np.repeat(offset[items] - (np.cumsum(sizes) - sizes), sizes)


def _float32(array: NDArray[Any] | None, rows: NDArray[np.int64]) -> Tensor | None:
    return None if array is None else torch.from_numpy(array[rows].astype(np.float32))
