"""Fine-tuning learns the new level and keeps what was known."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from toy_molecules import ATOM_ENERGY, SMILES

from consistent_calc.data import Dataset, Split, Store, StoreWriter
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.replay_molecules import replay_molecules
from consistent_calc.errors import ConfigurationError, DataError, DivergedError
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.evaluation import evaluate_energy
from consistent_calc.train.finetune import FineTuning, add_level, fine_tune_model, hold_out
from consistent_calc.train.replay import Replay, drift

SETTINGS = FineTuning(steps=60, atoms=60, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data(toy_store) -> Dataset:
    return Store(toy_store).read(Split.TRAIN)


@pytest.fixture(scope="module")
def known() -> list[StructureBatch]:
    """A few of the molecules of the replay."""
    return replay_molecules((1, 6, 7, 8, 9))[:6]


@pytest.fixture(scope="module")
def rows(data) -> np.ndarray:
    return np.arange(len(data))


class TestNewLevel:
    def test_it_starts_as_the_default_level_on_fitted_references(self, model, data, rows, batch):
        new = add_level(model, data, rows)
        assert new.levels == (*model.levels, "springs")
        assert torch.equal(new.predict(batch, level="springs").forces, model.predict(batch).forces)
        assert torch.equal(new.predict(batch).energy, model.predict(batch).energy)
        # A least-squares fit: the errors that are left have nothing to do with the composition.
        errors, numbers = evaluate_energy(new, data).energy, np.split(data.numbers, data.atom_offset[1:-1])
        for z in ATOM_ENERGY:
            counts = np.array([(numbers[m] == z).sum() for m in data.molecule])
            assert abs(counts @ errors) < 1e-3
        assert np.abs(errors).max() < 0.1 * data.energy.std()

    def test_references_of_one_composition_stay_near_those_of_the_default_level(self, model, data):
        # Ethanol alone: three references and one equation.
        ethanol = np.flatnonzero(data.smiles[data.molecule] == SMILES[0])
        new = add_level(model, data, ethanol)
        shift = new.references[-1] - model.references[0]
        columns = [model.elements.index(z) for z in (1, 6, 8)]
        expected = np.mean(data.energy[ethanol] - model.predict(data.batch(ethanol)[0]).energy.numpy())
        counts = np.array([6, 2, 1])
        np.testing.assert_allclose(shift[columns], expected * counts / (counts @ counts), rtol=1e-6)
        assert not new.references[-1, model.elements.index(9)].any()

    def test_without_energies_the_references_are_the_default_ones(self, model, data, rows):
        new = add_level(model, replace(data, energy=None), rows)
        columns = [model.elements.index(z) for z in ATOM_ENERGY]
        assert torch.equal(new.references[-1, columns], model.references[0, columns])

    def test_a_known_level_goes_on(self, model, data, rows):
        once = add_level(model, data, rows)
        with torch.no_grad():
            once.energy_head.readout.weight[-1] *= 2
        again = add_level(once, data, rows[:3])
        assert again is not once
        assert all(torch.equal(v, again.state_dict()[n]) for n, v in once.state_dict().items())

    @pytest.mark.parametrize("energies", [True, False])
    def test_a_known_level_learns_an_element(self, model, data, rows, energies):
        """Fluorine comes later: its reference is fitted to the given structures, the others stay."""
        has_f = np.isin(data.molecule, [m for m in range(data.n_molecules) if 9 in _numbers(data, m)])
        once = add_level(model, data, rows[~has_f])
        assert once.level_elements("springs") == (1, 6, 7, 8)
        if energies:
            # Those with fluorine that are not given are wrong, and tell nothing.
            spoiled = data.energy + 1000.0 * (has_f & (np.arange(len(data)) % 2 == 0))
            given = rows[has_f & (np.arange(len(data)) % 2 == 1)]
            again = add_level(once, replace(data, energy=spoiled), given)
        else:
            again = add_level(once, replace(data, energy=None), rows)
        assert again.level_elements("springs") == (1, 6, 7, 8, 9)
        columns = [model.elements.index(z) for z in (1, 6, 7, 8)]
        assert torch.equal(again.references[-1, columns], once.references[-1, columns])
        fluorine = float(again.references[-1, model.elements.index(9)])
        if energies:
            assert abs(evaluate_energy(again, data, indices=given).energy.mean()) < 1e-3
        else:
            assert fluorine == float(model.references[0, model.elements.index(9)])

    def test_forces_alone_of_an_unknown_element(self, model, data, rows):
        """Nobody knows the zero: the level has interaction energies, for all elements."""
        lacking = copy.deepcopy(model)
        lacking.references[0, model.elements.index(9)] = 0.0
        new = add_level(lacking, replace(data, energy=None), rows)
        assert not new.references[-1].any()
        assert new.level_elements("springs") == model.elements

    def test_the_default_level_is_refused(self, model, data, rows):
        with pytest.raises(ConfigurationError, match=r"\(mine\)"):
            add_level(model, replace(data, level=model.levels[0]), rows)


def _numbers(data: Dataset, molecule: int) -> list[int]:
    return data.numbers[data.atom_offset[molecule] : data.atom_offset[molecule + 1]].tolist()


@pytest.fixture(scope="module")
def smooth(model) -> ConsistentModel:
    """The untrained model with a flatter surface, from which that of the springs can be reached in a few steps."""
    flatter = copy.deepcopy(model)
    flatter.energy_head.readout.weight *= 0.2
    return flatter


@pytest.fixture(scope="module")
def tuned(smooth, data, rows, known) -> ConsistentModel:
    losses = []
    found = fine_tune_model(smooth, data, rows, known, SETTINGS, lambda step, now: losses.append((step, now)))
    assert [step for step, _ in losses] == list(range(1, SETTINGS.steps + 1))
    return found


class TestTraining:
    def test_errors_fall(self, smooth, data, rows, tuned):
        before, after = (evaluate_energy(m, data).summary() for m in (add_level(smooth, data, rows), tuned))
        for name in ("force_mae_eV_A", "relative_energy_mae_kcal_mol"):
            assert after[name] < 0.9 * before[name]
        assert not tuned.training
        assert not any(p.requires_grad for p in tuned.parameters())

    def test_replay_keeps_the_default_level(self, smooth, data, rows, known, tuned):
        free = fine_tune_model(smooth, data, rows, known, replace(SETTINGS, replay=False))
        together = StructureBatch.concatenate(known)
        kept, lost = drift(smooth, tuned, together), drift(smooth, free, together)
        assert set(kept) == set(lost) == {
            "force_mae_eV_A", "energy_mae_meV_atom", "charge_mae_e", "denoised_mean_distance_A",
        }  # fmt: skip
        # Not the energy: that of this untrained model has not settled after so few steps.
        for name in set(kept) - {"energy_mae_meV_atom"}:
            assert kept[name] < 0.7 * lost[name], name

    def test_repeatable_and_different_by_seed(self, model, data, rows, known, batch):
        short = replace(SETTINGS, steps=2)
        state = torch.get_rng_state()
        energies = [
            float(fine_tune_model(model, data, rows, known, s).predict(batch, level="springs").energy[0])
            for s in (short, short, replace(short, seed=1))
        ]
        assert energies[0] == energies[1] != energies[2]
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_resample_fits_its_references_to_all(self, model, data, rows, known):
        short = replace(SETTINGS, steps=2)
        a, b = (fine_tune_model(model, data, rows, known, s) for s in (short, replace(short, bootstrap=True)))
        assert torch.equal(a.references, b.references)
        assert not torch.equal(a.energy_head.readout.weight, b.energy_head.readout.weight)

    @pytest.mark.parametrize("absent", ["energy", "forces"])
    def test_one_kind_of_label_is_enough(self, model, data, rows, known, absent):
        poorer = replace(data, **{absent: None})
        tuned = fine_tune_model(model, poorer, rows, known, replace(SETTINGS, steps=2))
        assert all(torch.isfinite(p).all() for p in tuned.parameters())

    def test_charges_of_the_frames_are_not_learned(self, model, data, rows, known, batch):
        odd = replace(data, partial_charges=data.partial_charges + 3)
        short = replace(SETTINGS, steps=2)
        a, b = (fine_tune_model(model, d, rows, known, short) for d in (data, odd))
        assert torch.equal(a.predict(batch).charges, b.predict(batch).charges)

    def test_infinite_weights_end_it(self, model, data, rows, known):
        wild = replace(SETTINGS, steps=5, learning_rate=1e200)
        with pytest.raises(DivergedError, match="step 2"):
            fine_tune_model(model, data, rows, known, wild)

    def test_crystals(self, model, crystal, known, tmp_path):
        images = []
        for k in range(3):
            images.append(crystal.copy())
            images[-1].rattle(0.05, seed=k)
        with StoreWriter(tmp_path / "c.h5", level="new", provenance="", licence="", kinds={0: "all"}) as writer:
            writer.add(
                MoleculeRecord(
                    numbers=crystal.numbers,
                    positions=[a.positions for a in images],
                    bucket=0,
                    energy=[1.0, 2.0, 3.0],
                    forces=np.zeros((3, len(crystal), 3)),
                    cell=[a.cell.array for a in images],
                    pbc=[a.pbc for a in images],
                )
            )
        periodic = Store(tmp_path / "c.h5").read(Split.TRAIN)
        before, after = (
            m.predict(StructureBatch.from_ase(images), level="new").forces.abs().mean()
            for m in (
                add_level(model, periodic, np.arange(3)),
                fine_tune_model(model, periodic, np.arange(3), known, replace(SETTINGS, steps=10)),
            )
        )
        assert after < before


class TestReplay:
    def test_labels_are_what_the_teacher_says(self, model, data, rows, known):
        replay = Replay(model, known, data, rows, atoms=80, seed=0)
        levels = set()
        for _ in range(8):
            structures, labels = replay.batch()
            said = model.predict(structures, level=labels.level)
            assert torch.equal(said.forces, labels.forces)
            assert torch.equal(said.energy, labels.energy)
            levels.add(labels.level)
        assert levels == set(model.levels)

    def test_the_level_that_is_learned_is_not_replayed(self, model, data, rows, known):
        again = replace(data, level=model.levels[1])
        replay = Replay(model, known, again, rows, atoms=40, seed=0)
        levels = {replay.batch()[1].level for _ in range(20)}
        assert levels == set(model.levels) - {model.levels[1]}

    def test_a_level_is_asked_for_its_elements_only(self, model, data, rows, known):
        lacking = copy.deepcopy(model)
        lacking.references[1, model.elements.index(9)] = 0.0
        replay = Replay(lacking, known, data, rows, atoms=200, seed=0)
        fluorine = {level: False for level in model.levels}
        for _ in range(20):
            structures, labels = replay.batch()
            fluorine[labels.level] |= 9 in structures.numbers
        assert fluorine == {model.levels[0]: True, model.levels[1]: False}

    def test_structures_with_new_elements_are_left_out(self, model, data, known):
        rows = np.arange(len(data))
        poorer = replace(data, numbers=np.where(data.numbers == 9, 14, data.numbers).astype(np.uint8))
        replay = Replay(model, (), poorer, rows, atoms=10_000, seed=0)
        structures, _ = replay.batch()
        assert 14 not in structures.numbers
        assert len(structures) == (~np.isin(data.molecule, np.unique(data.molecule[_has(data, 9)]))).sum()

    def test_the_structure_head_is_held_in_noise_and_prior(self, model, data, rows, known):
        informed = ConsistentModel(replace(model.config, prior_level=3.0)).double().requires_grad_(False)
        informed.load_state_dict(model.state_dict())
        for teacher in (model, informed):
            replay = Replay(teacher, known, data, rows, atoms=200, seed=0)
            replay.batch()
            assert float(replay.structure_loss(teacher)) < 1e-20  # other kernels without gradients
            moved = copy.deepcopy(teacher)
            moved.structure_head.displacement.weight *= 2
            assert float(replay.structure_loss(moved)) > 0

    def test_nothing_to_replay(self, model, data):
        replay = Replay(model, (), data, np.arange(0), atoms=10, seed=0)
        assert replay.batch() is None

    def test_a_model_has_not_drifted_from_itself(self, model, known):
        assert set(drift(model, model, StructureBatch.concatenate(known)).values()) == {0.0}
        alone = drift(model, model, StructureBatch.from_ase(molecule("H2O")))
        assert "denoised_mean_distance_A" not in alone


def _has(data: Dataset, element: int) -> np.ndarray:
    return np.array([element in data.numbers[slice(*data.atom_offset[m : m + 2])] for m in data.molecule])


class TestHoldOut:
    def test_whole_molecules(self, data):
        many = replace(data, bucket=np.arange(data.n_molecules, dtype=np.uint8))
        rows = np.arange(len(data))
        training, aside, how = hold_out(many, rows)
        assert how == "molecules"
        assert sorted([*training, *aside]) == rows.tolist()
        assert not set(many.molecule[training]) & set(many.molecule[aside])
        assert 0.1 * len(rows) <= len(aside) <= 0.2 * len(rows)

    def test_an_element_is_never_left_to_those_set_aside(self, data):
        many = replace(data, bucket=np.arange(data.n_molecules, dtype=np.uint8))
        fluorine = np.unique(data.molecule[_has(data, 9)])
        assert len(fluorine) == 1
        for seed in range(10):
            _, aside, _ = hold_out(many, np.arange(len(data)), seed=seed)
            assert fluorine[0] not in many.molecule[aside]

    def test_frames_of_one_molecule(self, data):
        rows = np.flatnonzero(data.molecule == 0)
        training, aside, how = hold_out(data, rows)
        assert how == "structures"
        assert (len(aside), len(training)) == (2, 7)

    def test_an_element_is_never_left_to_single_structures(self, data):
        # One bucket, so single structures are set aside; fluorine is in the last row alone.
        fluorine = np.flatnonzero(_has(data, 9))
        rows = np.append(np.flatnonzero(data.molecule == 0), fluorine[0])
        alike = replace(data, bucket=np.zeros(data.n_molecules, dtype=np.uint8))
        for seed in range(20):
            training, aside, how = hold_out(alike, rows, seed=seed)
            assert (how, len(aside)) == ("structures", 2)
            assert fluorine[0] in training

    def test_nothing_can_be_set_aside(self, data):
        alone = np.flatnonzero(_has(data, 9))[:1]
        with pytest.raises(DataError, match="an element that no other one has"):
            hold_out(data, alone)


def test_settings_are_checked():
    with pytest.raises(ConfigurationError, match="learning_rate"):
        FineTuning(learning_rate=0)


def test_replay_molecules_have_graphs_and_known_elements(known):
    assert all(len(m) == 1 and len(m.bonds) > 0 for m in known)
    assert set(StructureBatch.concatenate(known).numbers.tolist()) <= {1, 6, 7, 8, 9}
    assert isinstance(known[0].to_ase()[0], Atoms)
