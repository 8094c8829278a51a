"""The columns of the HDF5 store, in one table; :mod:`consistent_calc.data.store` describes the format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

FORMAT = "consistent_calc.data"
SCHEMA_VERSION = 1

#: What one row of a column stands for. A ``row`` is one atom of one conformation, conformations in order.
Axis = Literal["molecule", "atom", "bond", "stereo", "conformation", "row"]


@dataclass(frozen=True)
class Column:
    """One dataset of the store.

    Attributes:
        axis: what a row stands for.
        dtype: NumPy type on disk, ``"str"`` for UTF-8 text.
        tail: shape of one row.
        unit: physical unit, empty where there is none.
        optional: whether the dataset may be absent.
        missing: the value of a row without this label.
    """

    axis: Axis
    dtype: str
    tail: tuple[int, ...] = ()
    unit: str = ""
    optional: bool = False
    missing: Any = 0


COLUMNS: dict[str, Column] = {
    "smiles": Column("molecule", "str", missing=""),
    "source": Column("molecule", "str", missing=""),
    "charge": Column("molecule", "int8", unit="e"),
    "bucket": Column("molecule", "uint8"),
    "n_atoms": Column("molecule", "int32"),
    "n_bonds": Column("molecule", "int32"),
    "n_stereo": Column("molecule", "int32"),
    "n_conformations": Column("molecule", "int32"),
    "numbers": Column("atom", "uint8"),
    "bonds": Column("bond", "int16", (3,)),
    "stereo": Column("stereo", "int16", (5,)),
    "kind": Column("conformation", "uint8"),
    "equilibrium": Column("conformation", "bool", missing=False),
    "positions": Column("row", "float32", (3,), unit="Angstrom"),
    "energy": Column("conformation", "float64", unit="eV", optional=True, missing=math.nan),
    "dipole": Column("conformation", "float32", (3,), unit="e Angstrom", optional=True, missing=math.nan),
    "cell": Column("conformation", "float32", (3, 3), unit="Angstrom", optional=True),
    "pbc": Column("conformation", "bool", (3,), optional=True, missing=False),
    "forces": Column("row", "float32", (3,), unit="eV/Angstrom", optional=True, missing=math.nan),
    "partial_charges": Column("row", "float32", unit="e", optional=True, missing=math.nan),
    "barrier": Column("molecule", "float64", unit="eV", optional=True, missing=math.nan),
}

#: Which count of a molecule gives its number of rows on each axis (a ``row``: atoms times conformations).
COUNT_OF_AXIS: dict[Axis, str] = {
    "atom": "n_atoms",
    "bond": "n_bonds",
    "stereo": "n_stereo",
    "conformation": "n_conformations",
}
