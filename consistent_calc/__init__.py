"""One trained model that is an ASE calculator and a predictor of molecular structures at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consistent_calc.calculator import ConsistentCalculator
    from consistent_calc.checkpoint import load_model
    from consistent_calc.conformers import generate_conformers, generate_many
    from consistent_calc.model import ConsistentModel
    from consistent_calc.relaxation import relax
    from consistent_calc.structures import StructureBatch

__version__ = "0.1.0"

# Public names are imported on first use, so that `import consistent_calc` is fast and loads neither torch nor ASE.
_HOMES = {
    "ConsistentCalculator": "consistent_calc.calculator",
    "ConsistentModel": "consistent_calc.model",
    "StructureBatch": "consistent_calc.structures",
    "generate_conformers": "consistent_calc.conformers",
    "generate_many": "consistent_calc.conformers",
    "load_model": "consistent_calc.checkpoint",
    "relax": "consistent_calc.relaxation",
}

__all__ = [
    "ConsistentCalculator",
    "ConsistentModel",
    "StructureBatch",
    "__version__",
    "generate_conformers",
    "generate_many",
    "load_model",
    "relax",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
