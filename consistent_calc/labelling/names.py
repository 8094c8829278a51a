"""Names of the engines, apart from their code so that the command line starts at once."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """Engines of :func:`consistent_calc.labelling.engine.new_engine`."""

    mopac = "mopac"
    xtb = "xtb"
    tblite = "tblite"
    pyscf = "pyscf"
    aimnet2 = "aimnet2"
