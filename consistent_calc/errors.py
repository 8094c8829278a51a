"""The package's exceptions and warnings: one small hierarchy, every message says what, why and the remedy."""

from __future__ import annotations


class ConsistentCalcError(Exception):
    """Base of every error raised on purpose by this package.

    ``reason`` is a short machine-readable code, used in failure tables of batch jobs: that of the class, or one given
    with the message.
    """

    reason = "error"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class InvalidStructureError(ConsistentCalcError, ValueError):
    """The structure itself cannot be evaluated: NaN, coincident atoms, no atoms, a singular cell."""

    reason = "invalid_structure"


class UnsupportedElementError(InvalidStructureError):
    """An element the model was never trained on."""

    reason = "unsupported_element"


class ChargeError(InvalidStructureError):
    """A total charge that is fractional, not finite or contradicts the molecule."""

    reason = "invalid_charge"


class UnknownLevelError(ConsistentCalcError, ValueError):
    """A level of theory for which the checkpoint has no readout."""

    reason = "unknown_level"


class MoleculeInputError(ConsistentCalcError, ValueError):
    """A SMILES or a molecule that cannot be read or used as given."""

    reason = "invalid_molecule"


class ConformerError(ConsistentCalcError, RuntimeError):
    """No acceptable conformer could be made; the message and ``reason`` tell which step failed."""

    reason = "no_conformer"


class CheckpointError(ConsistentCalcError, RuntimeError):
    """A checkpoint that is missing, truncated, altered or of an unknown format."""

    reason = "invalid_checkpoint"


class DataError(ConsistentCalcError, RuntimeError):
    """A data set that cannot be read, or that breaks the rules of the store (schema, split)."""

    reason = "invalid_data"


class LabellingError(ConsistentCalcError, RuntimeError):
    """A labelling engine gave no usable result for one structure."""

    reason = "engine_failed"


class ConfigurationError(ConsistentCalcError, ValueError):
    """A training configuration or an option with an unknown, missing or impossible value."""

    reason = "invalid_configuration"


class DivergedError(ConsistentCalcError, RuntimeError):
    """A training run whose gradients stay infinite or NaN."""

    reason = "diverged"


class MissingDependencyError(ConsistentCalcError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    reason = "missing_dependency"


class OddElectronWarning(UserWarning):
    """The system has an odd number of electrons; the model was trained on closed shells only."""
