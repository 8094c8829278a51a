"""The HDF5 store of labelled structures: one file is one level of theory.

Layout (schema version 1). All arrays are flat, molecules in order; a molecule's conformations follow each other, and
so do the atoms of a conformation. ``consistent_calc.data.schema.COLUMNS`` is this table in code.

====================  =========================================  ====================================================
dataset               shape                                      meaning
====================  =========================================  ====================================================
``smiles``            [n_molecules] UTF-8                        empty where unknown
``source``            [n_molecules] UTF-8                        where the molecule comes from
``charge``            [n_molecules] int8                         total charge, e
``bucket``            [n_molecules] uint8                        0-99, decides the split
``n_atoms``           [n_molecules] int32                        and likewise ``n_bonds, n_stereo, n_conformations``
``numbers``           [sum n_atoms] uint8                        atomic numbers
``bonds``             [sum n_bonds, 3] int16                     i, j, twice the bond order; none: graph unknown
``stereo``            [sum n_stereo, 5] int16                    see :mod:`consistent_calc.molgraph`
``kind``              [sum n_conformations] uint8                meaning in the attribute ``kinds``
``equilibrium``       [sum n_conformations] bool                 a (near-)minimum, a target of the structure head
``positions``         [sum n_atoms*n_conformations, 3] float32   Angstrom
``energy``            [sum n_conformations] float64, optional    eV
``forces``            like positions, float32/16, optional       eV/Angstrom
``partial_charges``   [rows of positions] float32/16, optional   e
``dipole``            [sum n_conformations, 3], optional         e Angstrom
``cell``, ``pbc``     [sum n_conformations, 3, 3] and [.., 3]    Angstrom; present in periodic data only
``barrier``           [n_molecules] float64, optional            eV, of the reaction the molecule belongs to
====================  =========================================  ====================================================

A label that is missing everywhere is an absent dataset, one that is missing for some entries is NaN there.
File attributes: ``format``, ``schema_version``, ``level``, ``provenance``, ``licence``, ``kinds`` (JSON: number ->
meaning), ``units``. The split of :mod:`consistent_calc.data.split` is enforced here: there is no way to read a file
without naming the sides wanted, so test molecules cannot slip into training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.dataset import Dataset
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.schema import COLUMNS, COUNT_OF_AXIS, FORMAT, SCHEMA_VERSION, Axis, Column
from consistent_calc.data.split import N_BUCKETS, Split
from consistent_calc.errors import DataError

#: Molecules collected before they are written: large enough for efficient appends, small in memory.
_BUFFERED_MOLECULES = 256

#: Bytes of an HDF5 chunk before compression.
_CHUNK_BYTES = 2**18


class StoreWriter:
    """Writes a store, molecule by molecule; a context manager.

    The file is written under a temporary name and takes its place only when the block ends without an error, so an
    import that is killed never leaves half a file under ``path``.

    Args:
        path: the file to make (an existing one is replaced on success).
        level: level of theory of all labels.
        provenance: where the labels come from, in words.
        licence: of the data.
        kinds: meaning of each value of ``kind``.
        half_precision: keep forces and partial charges as float16 (for labels known no better than that).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        level: str,
        provenance: str,
        licence: str,
        kinds: Mapping[int, str] | None = None,
        half_precision: bool = False,
    ) -> None:
        self.path = Path(path)
        self.n_molecules = 0
        self.n_conformations = 0
        self._attributes: dict[str, str | int] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "level": level,
            "provenance": provenance,
            "licence": licence,
            "kinds": json.dumps({str(k): v for k, v in (kinds or {}).items()}),
            "units": "eV, Angstrom, eV/Angstrom, e, e Angstrom",
        }
        self._half_precision = half_precision
        self._temporary = self.path.with_name(f".{self.path.name}.partial")
        self._file: h5py.File | None = None
        self._buffer: list[dict[str, Any]] = []
        self._lengths: dict[Axis, int] = dict.fromkeys(("molecule", "row", *COUNT_OF_AXIS), 0)

    def __enter__(self) -> StoreWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._temporary, "w")
        self._file.attrs.update(self._attributes)
        for name, column in COLUMNS.items():
            if not column.optional:
                self._create(name, column)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        complete = False
        try:
            if kind is None:
                self._flush()
                complete = True
        finally:
            self._file.close()
            self._file = None
            if not complete:
                self._temporary.unlink(missing_ok=True)
        if complete:
            os.replace(self._temporary, self.path)

    def add(self, record: MoleculeRecord) -> None:
        """Appends one molecule.

        Raises:
            DataError: the record has no bucket, or its arrays do not fit together; nothing is added then.
        """
        if self._file is None:
            raise DataError('A StoreWriter writes only inside its "with" block.')
        self._buffer.append(record.columns())
        self.n_molecules += 1
        self.n_conformations += int(np.shape(record.positions)[0])
        if len(self._buffer) >= _BUFFERED_MOLECULES:
            self._flush()

    def _create(self, name: str, column: Column) -> None:
        assert self._file is not None
        half = self._half_precision and name in ("forces", "partial_charges")
        dtype = h5py.string_dtype() if column.dtype == "str" else np.dtype("float16" if half else column.dtype)
        width = 16 if column.dtype == "str" else dtype.itemsize * max(int(np.prod(column.tail)), 1)
        data = self._file.create_dataset(
            name,
            # An optional column that appears late is filled up with "missing" for all rows so far.
            shape=(self._lengths[column.axis], *column.tail),
            maxshape=(None, *column.tail),
            chunks=(_CHUNK_BYTES // width, *column.tail),
            dtype=dtype,
            fillvalue=None if column.dtype == "str" else column.missing,
            compression="gzip",
            shuffle=True,
        )
        if column.unit:
            data.attrs["unit"] = column.unit

    def _flush(self) -> None:
        """Writes the buffered molecules."""
        if not self._buffer:
            return
        assert self._file is not None
        counts = {axis: [int(r[name][0]) for r in self._buffer] for axis, name in COUNT_OF_AXIS.items()}
        counts["molecule"] = [1] * len(self._buffer)
        counts["row"] = [a * c for a, c in zip(counts["atom"], counts["conformation"], strict=True)]
        for name, column in COLUMNS.items():
            rows = [record[name] for record in self._buffer]
            if name not in self._file:
                if all(r is None for r in rows):
                    continue
                self._create(name, column)
            filled = [
                np.full((n, *column.tail), column.missing, dtype=column.dtype) if r is None else r
                for r, n in zip(rows, counts[column.axis], strict=True)
            ]
            data, start = self._file[name], self._lengths[column.axis]
            new = np.concatenate(filled)
            data.resize(start + len(new), axis=0)
            data[start:] = new
        for axis in self._lengths:
            self._lengths[axis] += sum(counts[axis])
        self._buffer.clear()


class Store:
    """A store on disk; reading needs the side of the split to be named.

    Attributes:
        path, level, provenance, licence: as written.
        kinds: meaning of each value of ``kind``.

    Raises:
        DataError: the file is missing, truncated, not a store, or of another schema version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._open() as file:
            attributes = dict(file.attrs)
            if attributes.get("format") != FORMAT:
                raise DataError(f"{self.path} is an HDF5 file but not a consistent_calc data store; import it first.")
            version = attributes.get("schema_version")
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{self.path} has schema version {version}, this release reads {SCHEMA_VERSION}; import it again."
                )
            absent = [name for name, c in COLUMNS.items() if not c.optional and name not in file]
            if absent:
                raise DataError(f"{self.path} lacks the datasets {', '.join(absent)}; it is damaged, import it again.")
            try:
                self.level = str(attributes["level"])
                self.provenance, self.licence = str(attributes["provenance"]), str(attributes["licence"])
                self.kinds = {int(k): str(v) for k, v in json.loads(attributes["kinds"]).items()}
            except (KeyError, ValueError) as error:
                raise DataError(f"{self.path} has damaged attributes ({error}); import it again.") from error

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise DataError(f"There is no data store at {self.path}.")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(f"{self.path} is truncated or not an HDF5 file ({error}); import it again.") from error

    def count(self, *splits: Split) -> tuple[int, int]:
        """Number of molecules and of conformations on these sides of the split."""
        with self._open() as file:
            columns = {name: self._column(file, name) for name in ("bucket", "n_conformations")}
        chosen = self._chosen(columns["bucket"], splits)
        return int(chosen.sum()), int(columns["n_conformations"][chosen].sum())

    def read(self, *splits: Split) -> Dataset:
        """Loads all molecules on these sides of the split into memory.

        Args:
            *splits: at least one; ``Split.TEST`` only ever comes when it is named.

        Raises:
            DataError: no side was named, or the file is damaged.
        """
        with self._open() as file:
            columns = {name: self._column(file, name) for name in COLUMNS if name in file}
        keep = {"molecule": self._chosen(columns["bucket"], splits)}
        for axis, name in COUNT_OF_AXIS.items():
            keep[axis] = np.repeat(keep["molecule"], columns[name])
        keep["row"] = np.repeat(
            keep["conformation"], np.repeat(columns["n_atoms"], columns["n_conformations"]).astype(np.int64)
        )
        for name, array in columns.items():
            mask = keep[COLUMNS[name].axis]
            if len(array) != len(mask):
                raise DataError(
                    f"{self.path}: {name} has {len(array)} rows, expected {len(mask)}; the file is damaged."
                )
            columns[name] = array if mask.all() else array[mask]
        return Dataset.from_columns(columns, level=self.level, kinds=self.kinds)

    def _column(self, file: h5py.File, name: str) -> NDArray[Any]:
        try:
            data = file[name]
            return data.asstr()[:].astype(object) if COLUMNS[name].dtype == "str" else data[:]
        except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({error}); import the data again.") from error

    def _chosen(self, buckets: NDArray[Any], splits: tuple[Split, ...]) -> NDArray[np.bool_]:
        """bool ``[n_molecules]``: which molecules lie on these sides of the split."""
        if not splits:
            raise DataError("Name the sides of the split to read, for example read(Split.TRAIN).")
        if len(buckets) and buckets.max() >= N_BUCKETS:
            raise DataError(f"{self.path}: a bucket is above {N_BUCKETS - 1}; the file is damaged.")
        return np.isin(buckets, [b for split in splits for b in Split(split).buckets])
