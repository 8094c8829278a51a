"""The repulsion at short range: the right limits, a smooth beginning, exact derivatives, no hole in a bond."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from consistent_calc import ConsistentCalculator, StructureBatch, load_model
from consistent_calc.elements import COVALENT_RADII
from consistent_calc.nn.repulsion import REACH, pair_repulsion, short_range_repulsion
from consistent_calc.units import BOHR, HARTREE


def pair(distance, first=6, second=1, reach=0.75):
    x = torch.as_tensor(distance, dtype=torch.float64).reshape(-1)
    return pair_repulsion(
        x, torch.full_like(x, first).long(), torch.full_like(x, second).long(), torch.full_like(x, reach)
    )


def test_bare_nuclei_at_the_origin_and_nothing_at_the_end():
    energy, _ = pair(1e-5)
    assert float(energy) * 1e-5 == pytest.approx(6 * HARTREE * BOHR, rel=1e-3)
    assert float(pair(0.75)[0]) == float(pair(0.75)[1]) == 0.0
    energy, _ = pair([0.75 - 0.001, 0.75 - 0.0005])
    assert float(energy[0] / energy[1]) == pytest.approx(2**3, rel=0.02)  # two derivatives vanish


def test_the_derivative_is_that_of_the_energy_and_always_repulsive():
    x, h = torch.linspace(0.05, 0.749, 50, dtype=torch.float64), 1e-6
    _, slope = pair(x, 17, 6)
    numerical = (pair(x + h, 17, 6)[0] - pair(x - h, 17, 6)[0]) / (2 * h)
    torch.testing.assert_close(slope, numerical, rtol=1e-6, atol=1e-6)
    assert bool((slope <= 0).all())


def test_each_atom_has_half_of_a_pair():
    vectors = torch.tensor([[0.4, 0.0, 0.0], [-0.4, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -2.0, 0.0]])
    edges = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])
    energies, gradients = short_range_repulsion(vectors, torch.tensor([6, 1, 8]), edges)
    whole, slope = pair(0.4, reach=REACH * (0.76 + 0.31))
    assert energies.tolist() == pytest.approx([float(whole) / 2, float(whole) / 2, 0.0], rel=1e-5)
    assert gradients[:, 0].tolist() == pytest.approx([float(slope) / 2, -float(slope) / 2, 0.0, 0.0], rel=1e-5)
    assert not bool(gradients[:, 1:].any())


def test_the_radii_are_those_of_ase():
    assert pytest.approx(covalent_radii[1:97].tolist()) == COVALENT_RADII[1:]


def crushed_methane(distance):
    x = [[0, 0, 0], [0, 0, distance], [1.03, 0, -0.36], [-0.51, 0.89, -0.36], [-0.51, -0.89, -0.36]]
    return Atoms("CH4", positions=x, cell=[9, 9, 9], pbc=True)


def test_forces_and_stress_of_the_model_hold_it():
    model = load_model().double()
    found = model.predict(StructureBatch.from_ase([crushed_methane(0.5)]), stress=True)
    h, energies = 1e-5, []
    for sign in (1, -1):
        strained = crushed_methane(0.5)
        strained.set_cell(strained.cell.array * [1, 1, 1 + sign * h], scale_atoms=True)
        moved = crushed_methane(0.5 + sign * h)
        found_energies = model.predict(StructureBatch.from_ase([moved, strained]), forces=False).energy
        energies.append(found_energies)
    slopes = (energies[0] - energies[1]) / (2 * h)
    assert float(found.forces[1, 2]) == pytest.approx(-float(slopes[0]), rel=1e-5)
    assert float(found.stress[0, 2, 2]) == pytest.approx(float(slopes[1]) / 9**3, rel=1e-5)
    with torch.inference_mode():
        assert float(model.predict(StructureBatch.from_ase([crushed_methane(0.5)])).forces[1, 2]) == pytest.approx(
            float(found.forces[1, 2])
        )


def test_the_hessian_holds_it():
    calc = ConsistentCalculator(dtype="float64")
    h = 1e-6
    forward, back = (calc.get_forces(crushed_methane(0.5 + sign * h)).ravel() for sign in (1, -1))
    np.testing.assert_allclose(calc.get_hessian(crushed_methane(0.5))[5], (back - forward) / (2 * h), atol=1e-3)


def test_a_crushed_bond_finds_no_hole():
    energies = (
        load_model()
        .predict(
            StructureBatch.from_ase([crushed_methane(d) for d in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.09)]),
            forces=False,
        )
        .energy
    )
    assert bool((energies.diff() < 0).all())
