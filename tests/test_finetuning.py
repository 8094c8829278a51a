"""From a file to a tuned model: what is read, what is said about it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from consistent_calc import ConsistentCalculator
from consistent_calc.checkpoint import read_card, save_model
from consistent_calc.data import Dataset
from consistent_calc.errors import ConfigurationError, DataError
from consistent_calc.finetuning import FineTuningReport, fine_tune
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.finetune import FineTuning, fine_tune_model

QUICK = FineTuning(steps=1, atoms=20)


@pytest.fixture(scope="module")
def start(model: ConsistentModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(model, tmp_path_factory.mktemp("start") / "untrained"))


@pytest.fixture(autouse=True)
def fewer_molecules(monkeypatch: pytest.MonkeyPatch, batch: StructureBatch) -> None:
    """Embedding all molecules of the replay takes seconds."""
    monkeypatch.setattr("consistent_calc.finetuning.replay_molecules", lambda elements: [batch, batch])


def labelled(atoms: Atoms, n: int, **labels: object) -> list[Atoms]:
    """Distorted copies with these labels."""
    images = []
    for k in range(n):
        copy = atoms.copy()
        copy.rattle(0.03, seed=k)
        copy.calc = SinglePointCalculator(copy, **labels)
        images.append(copy)
    return images


def tune(images: list[Atoms], start: str, folder: Path, **options: object) -> FineTuningReport:
    write(folder / "mine.xyz", images)
    return fine_tune(folder / "mine.xyz", "X", folder / "tuned", start=start, settings=QUICK, **options)


def test_report_and_card(start: str, tmp_path: Path) -> None:
    images = labelled(molecule("H2O"), 8, energy=-2000.0, forces=np.zeros((3, 3))) + labelled(molecule("NH3"), 2)
    report = tune(images, start, tmp_path)
    assert (report.n_training, report.n_held_out, report.held_out) == (6, 2, "structures")
    assert set(report.before) == set(report.after) == {
        "force_mae_eV_A", "relative_energy_mae_kcal_mol", "energy_mae_eV",
    }  # fmt: skip
    assert report.drift_known["force_mae_eV_A"] > 0
    assert report.forces is None
    assert any("2 frames without energy and forces" in note for note in report.notes)
    assert any("The level knows H, O;" in note for note in report.notes)
    record = read_card(report.checkpoints[0])["record"]
    assert record["fine_tuned_from"]["sha256"] == read_card(start)["sha256"]
    assert record["report"]["after"] == report.after
    assert record["settings"]["steps"] == 1


def test_the_level_knows_the_trained_elements_only(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ammonia_aside(data: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        nitrogen = np.array([7 in data.numbers[slice(*data.atom_offset[m : m + 2])] for m in data.molecule[rows]])
        return rows[~nitrogen], rows[nitrogen], "structures"

    monkeypatch.setattr("consistent_calc.finetuning.hold_out", ammonia_aside)
    images = labelled(molecule("H2O"), 5, energy=-2000.0) + labelled(molecule("NH3"), 2, energy=-1500.0)
    assert any("The level knows H, O;" in note for note in tune(images, start, tmp_path).notes)


def test_molecules_are_set_aside_whole(start: str, tmp_path: Path) -> None:
    images = [
        a
        for name in ("H2O", "NH3", "CH4", "CH3OH", "C2H6", "C2H4", "HCN", "H2CO")
        for a in labelled(molecule(name), 3, energy=-1000.0)
    ]
    report = tune(images, start, tmp_path)
    assert report.held_out == "molecules"
    assert report.n_held_out == 3
    assert any("No forces" in note for note in report.notes)


def test_forces_alone(start: str, model: ConsistentModel, tmp_path: Path) -> None:
    report = tune(labelled(molecule("H2O"), 6, forces=np.zeros((3, 3))), start, tmp_path)
    assert set(report.after) == {"force_mae_eV_A"}
    assert any("No energies" in note for note in report.notes)
    atoms = molecule("H2O")
    energies = [ConsistentCalculator(m, level=k).get_potential_energy(atoms) for m, k in (
        (tmp_path / "tuned", "X"), (start, None),
    )]  # fmt: skip
    assert energies[0] == pytest.approx(energies[1], abs=5)


def test_missing_charges_are_noticed_and_can_be_given(start: str, tmp_path: Path) -> None:
    hydroxide = labelled(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), 5, energy=-2000.0)
    assert any("odd number of electrons" in note for note in tune(hydroxide, start, tmp_path).notes)
    assert not any("odd number of electrons" in note for note in tune(hydroxide, start, tmp_path, charge=-1).notes)


def test_crystals_and_new_elements(start: str, tmp_path: Path) -> None:
    images = labelled(bulk("Si"), 5, energy=-300.0, forces=np.zeros((2, 3)))
    report = tune(images, start, tmp_path)
    assert report.drift_own == {}  # the starting model cannot be asked
    for word in ("New to the model: Si", "periodic"):
        assert any(word in note for note in report.notes)
    images[0].calc = ConsistentCalculator(tmp_path / "tuned", level="X")
    assert images[0].get_potential_energy() == pytest.approx(-300, abs=20)
    assert np.isfinite(images[0].get_stress()).all()


def test_members_are_saved_as_they_end(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_later(model: ConsistentModel, *arguments: object) -> ConsistentModel:
        if (tmp_path / "tuned.json").exists():
            raise KeyboardInterrupt
        return fine_tune_model(model, *arguments)

    monkeypatch.setattr("consistent_calc.finetuning.fine_tune_model", fail_later)
    with pytest.raises(KeyboardInterrupt):
        tune(labelled(molecule("H2O"), 6, energy=-2000.0), start, tmp_path, members=2)
    assert read_card(tmp_path / "tuned")["record"]["member"] == 0


def test_a_new_element_is_learned_again_and_at_another_level(start: str, tmp_path: Path) -> None:
    """The default level of the first result does not know silicon, and replay must not ask it."""
    silane = labelled(molecule("SiH4"), 4, energy=-7900.0, forces=np.zeros((5, 3)))
    images = silane + labelled(molecule("H2O"), 4, energy=-2000.0, forces=np.zeros((3, 3)))
    tune(images, start, tmp_path)
    for level in ("X", "Y"):
        again = fine_tune(tmp_path / "mine.xyz", level, tmp_path / level, start=tmp_path / "tuned", settings=QUICK)
        assert again.drift_own == {}
        images[0].calc = ConsistentCalculator(tmp_path / level, level=level)
        assert np.isfinite(images[0].get_potential_energy())


def test_an_element_without_any_energy_is_refused_before_the_training(start: str, tmp_path: Path) -> None:
    silane = labelled(molecule("SiH4"), 4, forces=np.zeros((5, 3)))
    images = silane + labelled(molecule("H2O"), 4, energy=-2000.0, forces=np.zeros((3, 3)))
    with pytest.raises(DataError, match="No energy of a structure with Si is given"):
        tune(images, start, tmp_path)


def test_what_is_refused(start: str, model: ConsistentModel, tmp_path: Path) -> None:
    few = labelled(molecule("H2O"), 3, energy=-2000.0)
    with pytest.raises(DataError, match="3 frames with an energy"):
        tune(few, start, tmp_path)
    with pytest.raises(ConfigurationError, match="members"):
        tune(few, start, tmp_path, members=0)
    (tmp_path / "bad.xyz").write_text("2\nenergy=-1.0\nH 0 0 0\nH 0 0 0.01\n")
    with pytest.raises(DataError, match=r"No frame .* at one place"):
        fine_tune(tmp_path / "bad.xyz", "X", tmp_path / "tuned", start=start)
    write(tmp_path / "mine.xyz", few * 3)
    with pytest.raises(ConfigurationError, match="default level"):
        fine_tune(tmp_path / "mine.xyz", model.levels[0], tmp_path / "tuned", start=start)
    assert not list(tmp_path.glob("tuned*"))
