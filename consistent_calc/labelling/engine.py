"""What every labelling engine offers: a single point, and a relaxation to a minimum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from consistent_calc.errors import ConfigurationError, LabellingError
from consistent_calc.labelling.names import EngineName
from consistent_calc.model import ConsistentModel, Prediction
from consistent_calc.structures import StructureBatch

Array = NDArray[np.float64]

#: Steps after which a relaxation counts as failed.
MAX_STEPS = 500


@dataclass(frozen=True, eq=False)
class Label:
    """What an engine says of one structure.

    Attributes:
        positions: ``[n_atoms, 3]``, Angstrom, where the labels were taken.
        energy: eV.
        forces: ``[n_atoms, 3]``, eV/Angstrom.
        charges: ``[n_atoms]``, partial charges in e, or None.
        dipole: ``[3]``, e Angstrom, about the origin, or None.
    """

    positions: Array
    energy: float
    forces: Array
    charges: Array | None = None
    dipole: Array | None = None


class Engine(ABC):
    """One method at one level of theory.

    Attributes:
        level: name of the level, as stored with the labels.
        provenance: program, version and settings.
    """

    level: str
    provenance: str

    @abstractmethod
    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        """Energy and forces of one closed-shell molecule.

        Args:
            numbers: ``[n_atoms]``, atomic numbers.
            positions: ``[n_atoms, 3]``, Angstrom.
            charge: total charge, e.

        Raises:
            LabellingError: the engine did not converge or gave no result.
        """

    def minimum(self, numbers: NDArray[Any], positions: Array, charge: int, fmax: float) -> Label:
        """Relaxes a molecule (as :func:`consistent_calc.relax` does, unless the engine has its own optimiser).

        Args:
            fmax: largest force on an atom at the end, eV/Angstrom.

        Raises:
            LabellingError: not converged in :data:`MAX_STEPS` steps, or the engine failed on the way.
        """
        from consistent_calc.relaxation import relax

        start = StructureBatch.from_arrays(numbers, positions, charge=charge)
        found = relax(cast(ConsistentModel, _Surface(self)), start, fmax=fmax, max_steps=MAX_STEPS)
        if found.failed[0] is not None:
            raise LabellingError(found.failed[0])
        if not bool(found.converged[0]):
            raise LabellingError(f"not relaxed to {fmax} eV/Angstrom in {MAX_STEPS} steps", "not_converged")
        return self.single_point(numbers, found.batch.positions.numpy(), charge)


class _Surface:
    """An engine in the place of a model, for the package's own optimiser; for one structure at a time."""

    device = torch.device("cpu")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def predict(self, batch: StructureBatch, *, level: str | None = None, forces: bool = True) -> Prediction:
        label = self._engine.single_point(batch.numbers.numpy(), batch.positions.numpy(), round(float(batch.charge[0])))
        nothing = torch.zeros(batch.n_atoms, dtype=torch.float64)
        energy = torch.tensor([label.energy], dtype=torch.float64)
        return Prediction(energy, nothing, torch.from_numpy(label.forces), nothing, None)


def new_engine(name: EngineName, method: str | None = None, model_file: str | Path | None = None) -> Engine:
    """An engine by name.

    Args:
        name: which program.
        method: one of the engine's methods; None is its first (see the modules of this package).
        model_file: the TorchScript file of aimnet2.

    Raises:
        ConfigurationError: unknown method, or a model file that is missing or not wanted.
        MissingDependencyError: the program is not installed.
    """
    if (model_file is None) == (name is EngineName.aimnet2):
        raise ConfigurationError("The engine aimnet2, and no other, takes a model file (--model-file).")
    if name is EngineName.mopac:
        from consistent_calc.labelling.mopac import Mopac

        return Mopac(method or "PM6")
    if name is EngineName.xtb:
        from consistent_calc.labelling.xtb import Xtb

        return Xtb(method or "GFN2-xTB")
    if name is EngineName.tblite:
        from consistent_calc.labelling.gfn2 import Tblite

        return Tblite(method or "GFN2-xTB")
    if name is EngineName.pyscf:
        from consistent_calc.labelling.dft import Pyscf

        return Pyscf(method or "B3LYP/6-31G(2df,p)")
    from consistent_calc.labelling.aimnet2 import AimNet2

    assert model_file is not None
    return AimNet2(method or "wB97M-D3/def2-TZVPP", model_file)


def checked_method(method: str, known: tuple[str, ...]) -> str:
    """The method if it is one of ``known``, else ConfigurationError."""
    if method not in known:
        raise ConfigurationError(f"Unknown method {method!r}; this engine knows {', '.join(known)}.")
    return method
