"""From a file of labelled frames to a fine-tuned model: what ``consistent-calc train --from-checkpoint`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.checkpoint import DEFAULT, load_model, read_card, save_model
from consistent_calc.data.dataset import Dataset
from consistent_calc.data.importers import ImportReport, import_extxyz
from consistent_calc.data.replay_molecules import replay_molecules
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.elements import symbol
from consistent_calc.ensemble import predict_ensemble
from consistent_calc.errors import ConfigurationError, DataError
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.calibration import Calibration, calibrate
from consistent_calc.train.evaluation import BATCH, evaluate_energy
from consistent_calc.train.finetune import FineTuning, add_level, elements_of, fine_tune_model, hold_out
from consistent_calc.train.replay import drift

#: Fewer labelled frames are an accident.
MIN_FRAMES = 5
#: One in so many of the molecules that the model knew is set aside, to measure what was forgotten.
KNOWN_ASIDE = 5


@dataclass(frozen=True)
class FineTuningReport:
    """What a fine-tuning did.

    Attributes:
        checkpoints: paths of the models without suffix, one a member.
        level: of the frames.
        n_training, n_held_out: frames.
        held_out: what was set aside, whole ``molecules`` or single ``structures``.
        before, after: errors on the frames set aside (see :meth:`EnergyErrors.summary`): of the starting model (of a
            new level its default one, on references fitted to the training frames), and of the (first) tuned model.
        drift_known, drift_own: how far the default level of the (first) model moved, on molecules that it knew and on
            the frames set aside; see :func:`consistent_calc.train.replay.drift`.
        forces: of several members, calibration of ``forces_std`` on the frames set aside.
        skipped: frames that were not used, each with the reason.
        notes: what a user should know.
    """

    checkpoints: tuple[str, ...]
    level: str
    n_training: int
    n_held_out: int
    held_out: str
    before: dict[str, float]
    after: dict[str, float]
    drift_known: dict[str, float]
    drift_own: dict[str, float]
    forces: Calibration | None
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def fine_tune(
    frames: str | Path,
    level: str,
    output: str | Path,
    *,
    start: str | Path = DEFAULT,
    charge: int | None = None,
    members: int = 1,
    device: str = "cpu",
    settings: FineTuning | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] | None = None,
) -> FineTuningReport:
    """Fine-tunes a model on an extended XYZ file with energies, forces or both.

    A fifth of the frames is set aside and never trained on. Frames that cannot be read are reported and skipped. The
    members of an ensemble differ in the order of the data and the noise, and all but the first learn from resamples.

    Args:
        frames: the file, in ASE's units (eV, eV/Angstrom).
        level: name of its level of theory; the model gets a readout of that name.
        output: checkpoint to write; the second member and those after it are ``<output>_2`` and so on.
        start: checkpoint to start from; ``base`` is the shipped one, unless there is a file of that name.
        charge: total charge of all frames; by default the one that a frame names, else 0.
        members: models to train, for an ensemble.
        device: "cpu" or "cuda".
        settings: of the training.
        on_step: called with the member (from 0), the number of its steps done and the losses.

    Raises:
        DataError: the file cannot be read, or has hardly any labelled frames, or none that can be set aside.
        CheckpointError: there is no such starting model.
        ConfigurationError: the level is the starting model's default one, or there are no members.
        DivergedError: the training went wrong.
    """
    if members < 1:
        raise ConfigurationError(f"At least one model must be trained, got members = {members}.")
    settings = settings or FineTuning()
    model = load_model(start, device=device)
    data, imported = _read(Path(frames), level, charge)
    rows = _labelled(data, imported)
    unlabelled = len(data) - len(rows)
    training, aside, how = hold_out(data, rows)
    known = replay_molecules(model.level_elements())
    replayed = [m for k, m in enumerate(known) if k % KNOWN_ASIDE]
    each = [replace(settings, seed=settings.seed + k, bootstrap=k > 0) for k in range(members)]
    show = [None if on_step is None else partial(on_step, k) for k in range(members)]
    origin = {"checkpoint": str(start), "sha256": read_card(start)["sha256"], "frames": Path(frames).name}
    record = {"fine_tuned_from": origin, "settings": asdict(settings)}
    tuned = []
    for k, (mine, on_my_step) in enumerate(zip(each, show, strict=True)):
        tuned.append(fine_tune_model(model, data, training, replayed, mine, on_my_step))
        save_model(tuned[-1], _member_path(Path(output), k), record | {"member": k})  # the next one may fail
    report = FineTuningReport(
        checkpoints=tuple(str(_member_path(Path(output), k)) for k in range(members)),
        level=level,
        n_training=len(training),
        n_held_out=len(aside),
        held_out=how,
        before=evaluate_energy(add_level(model, data, training), data, indices=aside).summary(),
        after=evaluate_energy(tuned[0], data, indices=aside).summary(),
        drift_known=_drift(model, tuned[0], known[::KNOWN_ASIDE]),
        drift_own=_drift(model, tuned[0], [data.batch(aside)[0]]),
        forces=_calibration(tuned, data, aside),
        skipped=tuple(imported.failures),
        notes=tuple(_notes(model, tuned[0], data, rows, training, unlabelled, how)),
    )
    _save(tuned, report, record)
    return report


def _save(models: list[ConsistentModel], report: FineTuningReport, record: dict[str, Any]) -> None:
    """Writes the checkpoints again, with the report in their cards."""
    figures = {k: v for k, v in asdict(report).items() if k not in ("checkpoints", "skipped")}
    for k, (model, path) in enumerate(zip(models, report.checkpoints, strict=True)):
        save_model(model, path, record | {"report": figures, "member": k})


def _read(frames: Path, level: str, charge: int | None) -> tuple[Dataset, ImportReport]:
    """All readable frames."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "frames.h5"
        report = import_extxyz(frames, store, level, charge=charge)
        # The sides of the split are those of the shipped model's data; a user's frames are the user's.
        return Store(store).read(*Split), report


def _labelled(data: Dataset, imported: ImportReport) -> NDArray[np.int64]:
    """Conformations with an energy or forces."""
    has = np.zeros(len(data), dtype=bool)
    if data.energy is not None:
        has |= ~np.isnan(data.energy)
    if data.forces is not None:
        has |= np.add.reduceat(~np.isnan(data.forces).any(axis=1), data.row_offset[:-1]) > 0
    if has.sum() < MIN_FRAMES:
        raise DataError(
            f"There are {has.sum()} frames with an energy or forces, at least {MIN_FRAMES} are needed. "
            f"{len(imported.failures)} could not be read, {(~has).sum()} have no label."
        )
    return np.flatnonzero(has)


def _drift(start: ConsistentModel, model: ConsistentModel, structures: Sequence[StructureBatch]) -> dict[str, float]:
    """:func:`drift`; empty where there are no structures, or the starting model's default level does not know them."""
    if not structures or not all(set(s.numbers.tolist()) <= set(start.level_elements()) for s in structures):
        return {}
    return drift(start, model, StructureBatch.concatenate(structures))


def _calibration(models: list[ConsistentModel], data: Dataset, rows: NDArray[np.int64]) -> Calibration | None:
    """Of ``forces_std`` against the length of the force error of each atom; None where there is nothing to compare."""
    if len(models) < 2 or data.forces is None:
        return None
    std, error = [], []
    for k in range(0, len(rows), BATCH):
        structures, labels = data.batch(rows[k : k + BATCH])
        said = predict_ensemble(models, structures, level=data.level)
        assert said.forces_std is not None
        assert said.mean.forces is not None
        assert labels.forces is not None
        std.append(said.forces_std.cpu().numpy())
        error.append((said.mean.forces.cpu() - labels.forces).norm(dim=1).double().numpy())
    errors = np.concatenate(error)
    return calibrate(np.concatenate(std), errors) if (~np.isnan(errors)).sum() > 1 else None


def _notes(
    model: ConsistentModel,
    tuned: ConsistentModel,
    data: Dataset,
    rows: NDArray[np.int64],
    training: NDArray[np.int64],
    unlabelled: int,
    how: str,
) -> list[str]:
    """What the frames lack, and what that means."""
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled} frames without energy and forces were left out.")
    if data.energy is None:
        zero = "stays where it was" if data.level in model.levels else "is that of the default level"
        notes.append(f"No energies: the forces alone shape the surface, and the zero of the energy {zero}.")
    if data.forces is None:
        notes.append("No forces: energies alone are learned, which needs many more frames.")
    electrons = np.add.reduceat(data.numbers.astype(np.int64), data.atom_offset[:-1]) - data.charge
    if odd := int((electrons[data.molecule[rows]] % 2 == 1).sum()):
        notes.append(
            f"{odd} frames have an odd number of electrons: radicals, of which the shipped model knows nothing, or "
            'ions whose charge is missing. Give it as info key "charge" or with --charge.'
        )
    if new := sorted(elements_of(data, training) - set(model.elements)):
        notes.append(
            f"New to the model: {', '.join(map(symbol, new))}. A few hundred frames teach little about an element."
        )
    known = tuned.level_elements(data.level)
    if set(known) < set(tuned.elements):
        notes.append(f"The level knows {', '.join(map(symbol, known))}; it refuses structures with other elements.")
    if data.pbc is not None and data.pbc[rows].any():
        notes.append("Some frames are periodic; the shipped model knows molecules only, and stress is not learned.")
    if how == "structures":
        notes.append(
            "Too few molecules to set whole ones aside, so single frames were: neighbors in a trajectory are alike, "
            "and errors on other molecules, or on longer dynamics, will be larger than those below."
        )
    return notes


def _member_path(output: Path, member: int) -> Path:
    """``output``, ``output_2``, ``output_3``, ..."""
    stem = output.with_suffix("") if output.suffix in (".json", ".safetensors") else output
    return stem if member == 0 else stem.with_name(f"{stem.name}_{member + 1}")
