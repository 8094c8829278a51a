"""Dynamics of many molecules at once, against ASE's and against statistical mechanics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from batched_dynamics import FEMTOSECOND, MASSES, BondCheck, Dynamics

from consistent_calc import ConsistentCalculator, StructureBatch
from consistent_calc.model import Prediction


@pytest.fixture(scope="module")
def pair():
    return StructureBatch.from_ase([molecule("CH3OH"), molecule("NH3")])


class Springs:
    """Every atom on a spring of its own, of 5 eV/Angstrom^2 about its start; molecule 1 may explode."""

    device = torch.device("cpu")

    def __init__(self, start, explodes_below=-np.inf):
        self.start, self.explodes_below = start, explodes_below

    def predict(self, batch, *, level=None, forces=True):
        away = batch.positions - self.start.positions
        energies = 2.5 * away.square().sum(1)
        total = torch.zeros(batch.n_graphs, dtype=torch.float64).index_add(0, batch.graph, energies)
        pull = -5.0 * away
        pull[(batch.graph == 1) & (away[:, 0] < self.explodes_below)] = torch.nan
        return Prediction(total, energies, pull, energies, None)


def test_constant_energy_is_velocity_verlet_of_ase(model, pair):
    ours = Dynamics(model, pair, 0.5, seed=3)
    ours.thermalize(300)
    start = ours.velocities.clone()
    ours.run(20)
    for k, atoms in enumerate(pair.to_ase()):
        rows = (pair.graph == k).numpy()
        atoms.calc = ConsistentCalculator(model)
        atoms.set_masses([MASSES[z] for z in atoms.numbers])
        atoms.set_velocities(start[rows].numpy())
        VelocityVerlet(atoms, 0.5 * units.fs).run(20)
        np.testing.assert_allclose(ours.positions[rows], atoms.positions, atol=1e-7)
        np.testing.assert_allclose(ours.kinetic_energy()[k], atoms.get_kinetic_energy(), rtol=1e-5)


def test_femtosecond_is_that_of_ase():
    assert pytest.approx(units.fs, rel=1e-6) == FEMTOSECOND


def test_thermostat_samples_the_temperature(pair):
    batch = StructureBatch.concatenate([pair] * 40)
    dynamics = Dynamics(Springs(batch), batch, 1.0, seed=0)
    kinetic, potential = [], []
    for _ in range(60):
        dynamics.run(10, temperature=500, friction=0.05)
        kinetic.append(float(dynamics.kinetic_energy().sum()))
        potential.append(float(dynamics.energy.sum()))
    expected = 1.5 * 8.617333262e-5 * 500 * batch.n_atoms
    assert np.mean(kinetic[20:]) == pytest.approx(expected, rel=0.04)
    assert np.mean(potential[20:]) == pytest.approx(expected, rel=0.04)


def test_rigid_motion_is_taken_off(model, pair):
    dynamics = Dynamics(model, pair, 0.5, seed=1)
    dynamics.thermalize(300)
    dynamics.stop_rigid_motion()
    for k in range(2):
        rows = pair.graph == k
        m, x, v = dynamics.masses[rows], dynamics.positions[rows], dynamics.velocities[rows]
        assert float((m * v).sum(0).abs().max()) < 1e-10
        assert float((m * torch.linalg.cross(x, v)).sum(0).abs().max()) < 1e-8


def test_one_that_explodes_does_not_stop_the_others(pair):
    alone, both = (Dynamics(Springs(pair, limit), pair, 1.0, seed=2) for limit in (-np.inf, -0.01))
    for dynamics in (alone, both):
        dynamics.thermalize(800)
        dynamics.run(50)
    assert both.alive.tolist() == [True, False]
    rows = pair.graph == 0
    torch.testing.assert_close(both.positions[rows], alone.positions[rows])
    torch.testing.assert_close(both.positions[~rows], pair.positions[~rows])
    assert torch.isfinite(both.peak_force).all()


def test_a_resumed_run_is_the_same_run(model, pair):
    whole, first, second = (Dynamics(model, pair, 0.5, seed=4) for _ in range(3))
    whole.thermalize(300)
    whole.run(10, 300, 0.01)
    first.thermalize(300)
    first.run(4, 300, 0.01)
    second.resume(first.state())
    second.run(6, 300, 0.01)
    torch.testing.assert_close(second.positions, whole.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(second.peak_force, whole.peak_force)


def test_bonds_are_watched_in_each_molecule(pair):
    check = BondCheck(pair)
    assert check.changed(pair.positions).tolist() == [False, False]
    broken = pair.positions.clone()
    last = int((pair.graph == 1).nonzero()[-1])
    broken[last] = broken[last] * 2.5
    assert check.changed(broken).tolist() == [False, True]
    made = pair.positions.clone()
    hydrogens = ((pair.graph == 0) & (pair.numbers == 1)).nonzero()[:2, 0]
    made[hydrogens[0]] = made[hydrogens[1]] + torch.tensor([0.34, 0.0, 0.0])
    assert check.changed(made).tolist()[0]
