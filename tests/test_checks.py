"""The physics checks: a sound model passes all of them, and each of them fails on the error it is there to find."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from consistent_calc import checks
from consistent_calc.checkpoint import load_model
from consistent_calc.checks import run_checks
from consistent_calc.errors import InvalidStructureError
from consistent_calc.nn.kernels import PLAIN
from consistent_calc.structures import StructureBatch


@pytest.fixture
def broken(model):
    """Makes a copy of the model whose predictions are altered by a function of batch and prediction."""

    def alter(change):
        wrong = copy.deepcopy(model)
        wrong.predict = lambda batch, **options: change(batch, model.predict(batch, **options))
        return wrong

    return alter


def failures(found):
    """Failed checks, but for the drift: a run as short as in these tests says nothing about it."""
    return [c for c in found if not c.passed and c.name != "energy drift"]


def with_forces(change):
    """Alters the forces where there are some."""
    return lambda b, p: p if p.forces is None else replace(p, forces=change(b, p.forces))


def test_all_pass_on_a_molecule(model, mol):
    found = run_checks(copy.deepcopy(model).float(), mol, level=model.levels[1], dynamics_steps=5)
    assert failures(found) == []
    assert {c.name for c in found} >= {"forces", "rotation", "additivity", "energy drift", "denoiser reflection"}
    assert "stress" not in {c.name for c in found}
    assert all(c.unit and c.detail for c in found)
    assert str(found[0]).startswith("pass  forces: ")


def test_all_pass_on_a_crystal(model, crystal):
    found = run_checks(model, crystal, dynamics_steps=5)
    assert failures(found) == []
    names = {c.name for c in found}
    assert "stress" in names
    assert "denoiser motion" not in names


def test_many_heavy_atoms_have_no_other_derivatives(model):
    pair = Atoms("I2", [[0, 0, 0], [0, 0, 2.7]], cell=[8, 8, 8])
    many = pair.repeat(5)
    assert checks.check_forces(model, many).passed  # of 19 million eV no ten digits are left


def test_all_pass_on_an_ion(model, water):
    water.info["charge"] = 2
    found = run_checks(model, water, dynamics_steps=5)
    assert failures(found) == []
    assert "additivity" not in {c.name for c in found}


def test_hydrogen_may_come_first(model):
    assert checks.check_batch(model, molecule("H2O")[[1, 0, 2]]).passed


def test_nothing_to_check(model):
    with pytest.raises(InvalidStructureError, match="without atoms"):
        run_checks(model, Atoms())


def test_the_model_is_left_in_its_precision(model, water):
    single = copy.deepcopy(model).float()
    assert checks.check_forces(single, water).passed
    assert single.dtype == torch.float32


def test_one_structure_at_a_time(model, batch):
    with pytest.raises(ValueError, match="one structure"):
        checks.check_forces(model, StructureBatch.concatenate([batch, batch]))


def test_wrong_forces_are_found(broken, batch):
    model = broken(with_forces(lambda b, f: 1.001 * f))
    assert not checks.check_forces(model, batch).passed


def test_wrong_stress_is_found(broken, crystal):
    model = broken(lambda b, p: p if p.stress is None else replace(p, stress=-p.stress))
    assert not checks.check_stress(model, crystal).passed


def test_broken_symmetries_are_found(broken, batch):
    def along_x(b, p):
        return replace(p, energy=p.energy + b.positions[:, 0].sum())

    def handed(b, p):
        a, c, d, e = b.positions[:4]
        return replace(p, energy=p.energy + torch.dot(a - e, torch.linalg.cross(c - e, d - e)))

    assert not checks.check_rotation(broken(along_x), batch).passed
    assert not checks.check_translation(broken(along_x), batch).passed
    assert checks.check_rotation(broken(handed), batch).passed
    assert not checks.check_reflection(broken(handed), batch).passed
    first = broken(lambda b, p: replace(p, energy=p.energy + b.numbers[0]))
    assert not checks.check_permutation(first, batch).passed


def test_leaks_between_structures_are_found(broken, batch):
    assert not checks.check_batch(broken(lambda b, p: replace(p, energy=p.energy + p.energy.mean())), batch).passed
    assert not checks.check_additivity(broken(lambda b, p: replace(p, energy=p.energy + 1)), batch).passed


def test_a_hard_cutoff_is_found(model, batch, monkeypatch):
    assert checks.check_cutoff(model, batch).passed
    monkeypatch.setattr("consistent_calc.nn.radial.polynomial_cutoff", lambda d, *_: torch.ones_like(d))
    monkeypatch.setattr(model, "_kernels", lambda: PLAIN)  # the kernels have an envelope of their own
    assert not checks.check_cutoff(model, batch).passed


def test_lost_charge_is_found(broken, batch):
    assert not checks.check_charge_sum(broken(lambda b, p: replace(p, charges=p.charges + 1e-3)), batch).passed


def test_nan_fails(broken, batch):
    found = checks.check_rotation(broken(lambda b, p: replace(p, energy=p.energy * math.nan)), batch)
    assert not found.passed


def test_dynamics_conserve_energy(model, water):
    assert checks.check_energy_drift(model, water, n_steps=200).passed


def test_strain_does_not_pass_for_drift():
    """A stiff bond off its minimum vibrates too fast for the time step."""
    strained = Atoms("HCl", [[0, 0, 0], [0, 0, 1.40]])
    assert checks.check_energy_drift(load_model(), strained).passed


def test_forces_that_are_no_gradient_are_found(broken, water):
    def whirl(b, forces):
        axis = torch.tensor([[0.0, 0.0, 1.0]], dtype=forces.dtype).expand_as(forces)
        center = b.positions.mean(0)
        return forces + 0.5 * torch.linalg.cross(axis, b.positions - center)

    assert not checks.check_energy_drift(broken(with_forces(whirl)), water, n_steps=60).passed


def test_a_denoiser_that_prefers_a_direction_is_found(model, batch):
    wrong = copy.deepcopy(model)
    wrong.denoise = lambda b, sigma: model.denoise(b, sigma) + torch.tensor([0.1, 0, 0])
    assert not checks.check_denoiser_motion(wrong, batch).passed
    assert not checks.check_denoiser_reflection(wrong, batch).passed
