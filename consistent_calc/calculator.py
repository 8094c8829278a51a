"""ConsistentCalculator, the ASE adapter: it translates, caches and refuses; the physics is in the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, Parameters, PropertyNotImplementedError, all_changes
from ase.data import atomic_masses
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from consistent_calc.checkpoint import load_model, to_device
from consistent_calc.ensemble import predict_ensemble
from consistent_calc.errors import ChargeError, ConfigurationError
from consistent_calc.hessian import hessian
from consistent_calc.model import ConsistentModel, Prediction
from consistent_calc.structures import StructureBatch, total_charge

#: Precisions that can be given by name.
DTYPES = {"float32": torch.float32, "float64": torch.float64}

#: What an ensemble gives beyond the properties of a single model.
ENSEMBLE_PROPERTIES = ("energy_std", "forces_std")


class ConsistentCalculator(Calculator):
    """Energies, forces, partial charges, dipole and stress from a :class:`ConsistentModel`, for ASE.

    The total charge is ``charge`` if given, else ``atoms.info["charge"]`` or ``["total_charge"]``, else the sum of the
    initial charges. It is read at every call: a change of any of them is noticed, as is a change of the atoms.

    Units are ASE's: eV, eV/Angstrom, e, e Angstrom, eV/Angstrom^3. Available are

    * ``energy``, ``free_energy`` (the same), ``energies`` (atomic contributions), ``forces``, ``charges``: always;
    * ``dipole``: of systems without periodic directions, ``sum q_i (r_i - r_com)``; the origin is the centre of mass
      (of standard atomic weights), which matters for ions only;
    * ``stress``: of systems with a periodic direction and three lattice vectors, ``dE/d(strain) / V`` in Voigt order
      xx, yy, zz, yz, xz, xy.

    Several models make an ensemble: results are their means, at their cost, and the last two tell how far they disagree

    * ``energy_std``: standard deviation of the members' energies, eV;
    * ``forces_std``: of each atom, root mean square length of the members' deviations from the mean force, eV/Angstrom.

    Calculators can be copied, pickled (they carry their weights) and used side by side with any settings; in threads,
    each thread needs a calculator of its own, but they may share one model. Processes should be spawned: torch's own
    threads do not survive a fork, and ions and Hessians may wait for them forever. No global state is changed.

    Args:
        model: a model, the path of a checkpoint or the name of a shipped one, or None for the default one; a list of
            these is an ensemble.
        level: level of theory, by default the (first) model's first.
        device: "cpu", "cuda", ...; None leaves a given model where it is, and loads a checkpoint onto the CPU.
        dtype: ``torch.float32`` or ``"float32"``, ``torch.float64`` or ``"float64"``; None keeps that of a given model,
            and loads a checkpoint in float32. A given model is never altered: other settings work on a copy of it.
        charge: total charge in e, above whatever the atoms say.

    Raises:
        CheckpointError: the checkpoint is missing, truncated or altered.
        ConfigurationError: an empty list of models.
        UnknownLevelError: a model has no readout for ``level``.
    """

    name = "consistent_calc"
    # Mutable class attributes, because ASE declares them so.
    implemented_properties = ["energy", "free_energy", "energies", "forces", "charges", "dipole", "stress"]  # noqa: RUF012
    default_parameters: dict[str, Any] = {"level": None, "charge": None}  # noqa: RUF012
    discard_results_on_any_change = True

    def __init__(
        self,
        model: ConsistentModel | str | Path | Sequence[ConsistentModel | str | Path] | None = None,
        *,
        level: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        charge: float | None = None,
    ) -> None:
        members = model if isinstance(model, Sequence) and not isinstance(model, str) else [model]
        if not members:
            raise ConfigurationError("The list of models is empty; an ensemble needs at least two.")
        self.models = tuple(_ready(member, device, _dtype(dtype)) for member in members)
        if len(self.models) > 1:
            self.implemented_properties = [*self.implemented_properties, *ENSEMBLE_PROPERTIES]
        # What the cached results and the last warning belong to, beyond what ASE compares.
        self._evaluated: tuple[float, int] | None = None
        self._checked: tuple[bytes, float] | None = None
        super().__init__(level=level, charge=charge)

    def set(self, **changes: Any) -> dict[str, Any]:
        """Changes ``level`` or ``charge``, as ASE's calculators do; results are discarded. None is the default again.

        Raises:
            TypeError: another parameter.
            ChargeError: the charge is no number.
            UnknownLevelError: the model has no readout for the level.
        """
        if unknown := set(changes) - set(self.default_parameters):
            raise TypeError(
                f"ConsistentCalculator has no parameter {', '.join(sorted(unknown))} to set; it has level and charge. "
                "Model, device and dtype are chosen at construction."
            )
        if changes.get("charge") is not None:
            try:
                float(changes["charge"])
            except (TypeError, ValueError):
                raise ChargeError(f"The charge must be a number of e or None, got {changes['charge']!r}.") from None
        if "level" in changes:
            # By name, so that ASE's databases and trajectories record it.
            changes["level"] = self.model.levels[self.model.level_index(changes["level"])]
            for member in self.models:
                member.level_index(changes["level"])
        return dict(super().set(**changes))

    def __copy__(self) -> ConsistentCalculator:
        """Shares the models with the original, but neither parameters nor results."""
        made = self.__class__.__new__(self.__class__)
        made.__dict__ |= self.__dict__
        made.parameters, made.results = Parameters(self.parameters), dict(self.results)
        return made

    # ------------------------------------------------------------------ ASE's protocol

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last evaluation; ASE's own comparison knows neither ``atoms.info`` nor parameters."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        try:
            settings = self._settings(atoms)
        except ChargeError:
            self.reset()  # as calculate does: an error must not leave results of other atoms behind
            raise
        if not changes and self._evaluated != settings:
            changes.append("charge")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property, from the cache if nothing changed.

        Raises:
            PropertyNotImplementedError: ``dipole`` of a periodic system, ``stress`` of one without volume, or a
                property that this calculator never has.
        """
        subject = self.atoms if atoms is None else atoms
        if subject is not None:
            if name == "dipole" and subject.pbc.any():
                raise PropertyNotImplementedError(
                    "The dipole of a periodic system is not defined; set pbc=False for an isolated molecule."
                )
            if name == "stress" and not has_volume(subject):
                raise PropertyNotImplementedError(
                    "Stress needs a periodic direction and three lattice vectors; this system is "
                    f"{'open' if not subject.pbc.any() else 'without a volume'} (pbc and cell say so)."
                )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluates everything that is defined for these atoms, whatever was asked for: it costs one evaluation.

        Raises:
            InvalidStructureError, UnsupportedElementError, ChargeError: what no model could answer.
        """
        # Emptied first: an error must not leave results of other atoms behind.
        self.results = {}
        super().calculate(atoms, properties or ["energy"], system_changes)
        batch = self._batch(self.atoms)
        with_stress = has_volume(self.atoms)
        level = self.parameters["level"]
        if len(self.models) > 1:
            ensemble = predict_ensemble(self.models, batch, level=level, stress=with_stress)
            assert ensemble.forces_std is not None
            spread = {"energy_std": float(ensemble.energy_std[0]), "forces_std": _numpy(ensemble.forces_std)}
            self.results = ase_results(self.atoms, ensemble.mean) | spread
        else:
            self.results = ase_results(self.atoms, self.model.predict(batch, level=level, stress=with_stress))
        self._evaluated = self._settings(self.atoms)

    def export_properties(self) -> Properties:
        """The results under the names that ASE knows, which has none for the disagreement of an ensemble."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def get_hessian(self, atoms: Atoms | None = None) -> NDArray[np.float64]:
        """Exact second derivatives of the (mean) energy, computed anew at every call.

        Args:
            atoms: by default those of the last calculation.

        Returns:
            ``[3 n_atoms, 3 n_atoms]``, eV/Angstrom^2, as ``ase.vibrations.VibrationsData.from_2d`` takes it.
        """
        subject = self.atoms if atoms is None else atoms
        if subject is None:
            raise ValueError("No atoms were given and none were calculated before.")
        batch, level = self._batch(subject), self.parameters["level"]
        return np.mean([_numpy(hessian(member, batch, level=level)) for member in self.models], axis=0)

    # ------------------------------------------------------------------ parts

    @property
    def model(self) -> ConsistentModel:
        """The model, of an ensemble the first member."""
        return self.models[0]

    def _charge(self, atoms: Atoms) -> float:
        """Total charge of the atoms as this calculator sees it, e."""
        charge = self.parameters["charge"]
        return total_charge(atoms) if charge is None else float(charge)

    def _settings(self, atoms: Atoms) -> tuple[float, int]:
        """What determines the results beside the atoms' arrays: charge and row of the level."""
        return self._charge(atoms), self.model.level_index(self.parameters["level"])

    def _batch(self, atoms: Atoms) -> StructureBatch:
        """The atoms as a batch of one; warns of an odd number of electrons at a new composition or charge only."""
        charge = self._charge(atoms)
        batch = StructureBatch.from_ase(atoms, charge=charge)
        state = (atoms.numbers.tobytes(), charge)
        if state != self._checked:
            for member in self.models:
                batch.validate(member.elements, warn_odd_electrons=member is self.model)
            self._checked = state
        return batch


def ase_results(atoms: Atoms, prediction: Prediction) -> dict[str, Any]:
    """ASE's table of results: Python floats and float64 arrays."""
    assert prediction.forces is not None
    energy, charges = float(prediction.energy[0]), _numpy(prediction.charges)
    results: dict[str, Any] = {
        "energy": energy,
        "free_energy": energy,
        "energies": _numpy(prediction.energies),
        "forces": _numpy(prediction.forces),
        "charges": charges,
    }
    if prediction.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(_numpy(prediction.stress[0]))
    if not atoms.pbc.any():
        # Standard atomic weights, not atoms.get_masses(): isotopes do not change the electrons, and ASE would not
        # notice that they changed.
        masses = atomic_masses[atoms.numbers]
        center = masses @ atoms.positions / masses.sum()
        results["dipole"] = charges @ (atoms.positions - center)
    return results


def has_volume(atoms: Atoms) -> bool:
    """Whether a stress is defined: a periodic direction, and three lattice vectors that are linearly independent."""
    return bool(atoms.pbc.any()) and bool(np.linalg.matrix_rank(atoms.cell.array) == 3)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The precision that was meant; None stays None."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise ValueError(f"The dtype must be float32 or float64, got {dtype!r}.")
    return found


def _ready(
    model: ConsistentModel | str | Path | None, device: str | torch.device | None, dtype: torch.dtype | None
) -> ConsistentModel:
    """The model on the wanted device in the wanted precision; a given one is copied if it must change."""
    if not isinstance(model, ConsistentModel):
        return load_model(model, device=device or "cpu", dtype=dtype or torch.float32)
    device, dtype = device or model.device, dtype or model.dtype
    # torch writes "cuda" for the current GPU, and "cuda:0" once something is there.
    same_device = str(device) in (str(model.device), model.device.type)
    if same_device and dtype == model.dtype:
        return model
    return to_device(copy.deepcopy(model).to(dtype=dtype), device).eval().requires_grad_(False)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()
