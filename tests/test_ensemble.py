"""Ensembles: means, spreads, and the calculator of several models."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.io import read, write

from consistent_calc import ConsistentCalculator
from consistent_calc.checkpoint import save_model
from consistent_calc.ensemble import predict_ensemble
from consistent_calc.errors import ConfigurationError, UnknownLevelError
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.structures import StructureBatch


@pytest.fixture
def calc(model, other_model):
    return ConsistentCalculator([model, other_model])


def test_mean_and_spread_of_two(model, other_model, batch, crystal):
    both = StructureBatch.concatenate([StructureBatch.from_ase(crystal), StructureBatch.from_ase(batch.to_ase())])
    a, b = (m.predict(both, stress=True) for m in (model, other_model))
    found = predict_ensemble([model, other_model], both, stress=True)
    for name in ("energy", "energies", "forces", "charges", "stress"):
        np.testing.assert_allclose(getattr(found.mean, name), (getattr(a, name) + getattr(b, name)) / 2, atol=1e-12)
    # Of two values the unbiased standard deviation is |a - b| / sqrt(2).
    np.testing.assert_allclose(found.energy_std, (a.energy - b.energy).abs() / np.sqrt(2))
    np.testing.assert_allclose(found.forces_std, (a.forces - b.forces).norm(dim=1) / np.sqrt(2), atol=1e-12)
    assert float(found.forces_std.min()) > 1e-3


def test_equal_members_agree_with_certainty(model, batch):
    found = predict_ensemble([model] * 3, batch)
    assert float(found.energy_std[0]) == pytest.approx(0, abs=1e-9)
    assert float(found.forces_std.max()) == pytest.approx(0, abs=1e-12)


def test_the_spread_turns_with_the_molecule(calc, atoms):
    atoms.calc = calc
    before = calc.get_property("forces_std", atoms)
    atoms.rotate(40, (1, 2, 3))
    np.testing.assert_allclose(calc.get_property("forces_std", atoms), before, atol=1e-9)


def test_energies_alone(model, other_model, batch):
    found = predict_ensemble([model, other_model], batch, forces=False)
    assert found.mean.forces is found.forces_std is None
    with pytest.raises(ConfigurationError, match="at least two"):
        predict_ensemble([model], batch)


def test_calculator(calc, model, other_model, water, tmp_path):
    water.calc = calc
    expected = [ConsistentCalculator(m).get_potential_energy(water) for m in (model, other_model)]
    assert water.get_potential_energy() == pytest.approx(np.mean(expected))
    assert calc.get_property("energy_std", water) == pytest.approx(np.std(expected, ddof=1))
    assert calc.results["forces_std"].shape == (3,)
    assert calc.calculate_properties(water, ["energy", "forces"])["energy"] == calc.results["energy"]
    duplicate = pickle.loads(pickle.dumps(calc))
    assert duplicate.get_property("energy_std", water) == pytest.approx(calc.results["energy_std"])
    water.get_forces()
    write(tmp_path / "water.xyz", water)  # ASE's writers know no standard deviations and leave them out
    assert read(tmp_path / "water.xyz").get_potential_energy() == pytest.approx(np.mean(expected))
    np.testing.assert_allclose(water.get_forces(), calculate_numerical_forces(water, eps=1e-4), atol=1e-5)


def test_its_hessian_is_the_derivative_of_its_forces(calc, water):
    water.calc = calc
    exact, numerical = calc.get_hessian(water), []
    for k in range(9):
        forces = []
        for sign in (1, -1):
            moved = water.copy()
            moved.positions.flat[k] += sign * 1e-4
            forces.append(calc.get_forces(moved).ravel())
        numerical.append((forces[1] - forces[0]) / 2e-4)
    np.testing.assert_allclose(exact, numerical, atol=1e-4)


def test_one_model_in_a_list_is_no_ensemble(model, water):
    calc = ConsistentCalculator([model])
    assert calc.get_potential_energy(water) == ConsistentCalculator(model).get_potential_energy(water)
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("energy_std", water)


def test_members_are_paths_too_and_share_the_level(model, other_model, water, tmp_path):
    save_model(other_model, tmp_path / "other")
    level = model.levels[1]
    calc = ConsistentCalculator([model, tmp_path / "other"], level=level, dtype="float64")
    expected = [ConsistentCalculator(m, level=level).get_potential_energy(water) for m in (model, other_model)]
    assert calc.get_potential_energy(water) == pytest.approx(np.mean(expected), abs=1e-6)
    poorer = ConsistentModel(ModelConfig(model.elements, model.levels[:1], channels=(8, 4), n_layers=1))
    ConsistentCalculator([model, poorer])
    with pytest.raises(UnknownLevelError):
        ConsistentCalculator([model, poorer], level=level)
    with pytest.raises(ConfigurationError, match="empty"):
        ConsistentCalculator([])
