"""Importers, one file each: other people's data to stores of this package. They need RDKit or ASE."""

from __future__ import annotations

from consistent_calc.data.importers.extxyz import import_extxyz
from consistent_calc.data.importers.organic import import_organic_wb97m
from consistent_calc.data.importers.qm9 import import_qm9
from consistent_calc.data.importers.rdb7 import import_rdb7
from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.importers.small_molecules import import_small_molecules

__all__ = [
    "ImportReport",
    "import_extxyz",
    "import_organic_wb97m",
    "import_qm9",
    "import_rdb7",
    "import_small_molecules",
]
