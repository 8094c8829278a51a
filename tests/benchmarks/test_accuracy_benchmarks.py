"""The parts of the accuracy benchmarks that could be wrong in silence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torsions
from ase.units import _c
from dimers import DIMERS, Dimer, deepest_fall, monomer
from frequencies import frequencies, rmsd
from judges import centred_errors, of_mmff, of_model, refuse_test_molecule
from rdkit import Chem
from rdkit.Chem import rdMolTransforms
from rdkit.Chem.rdDistGeom import EmbedMolecule
from rdkit.Chem.rdForceFieldHelpers import MMFFGetMoleculeForceField, MMFFGetMoleculeProperties
from scipy.constants import atomic_mass, elementary_charge
from scipy.spatial.transform import Rotation
from summary import update_summary

from consistent_calc import StructureBatch
from consistent_calc.errors import DataError
from consistent_calc.labelling.engine import Engine, Label
from consistent_calc.units import KCAL_PER_MOL


class Flat(Engine):
    """No forces at all."""

    level = provenance = "flat"

    def single_point(self, numbers, positions, charge):
        return Label(positions, 1.5, np.zeros_like(positions))


@pytest.fixture(scope="module")
def butane():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    EmbedMolecule(mol, randomSeed=1)
    return mol


def test_dihedral_is_that_of_rdkit(butane):
    conformer = butane.GetConformer()
    for angle in (-170.0, -60.0, 0.0, 45.0, 180.0):
        rdMolTransforms.SetDihedralDeg(conformer, 0, 1, 2, 3, angle)
        found = np.degrees(float(dihedral_of(conformer.GetPositions())))
        assert abs((found - angle + 180) % 360 - 180) < 1e-6


def dihedral_of(x):
    return torsions.dihedral(torch.from_numpy(x[:4]))


def test_held_torsion_has_the_forces_of_its_energy(butane):
    x, step = butane.GetConformer().GetPositions(), 1e-5
    held = torsions.Held(Flat(), (0, 1, 2, 3), 0.4)
    numbers = np.array([a.GetAtomicNum() for a in butane.GetAtoms()])
    forces = held.single_point(numbers, x, 0).forces
    for atom, axis in ((0, 1), (2, 2), (3, 0)):
        shift = np.zeros_like(x)
        shift[atom, axis] = step
        up, down = (held.single_point(numbers, x + s, 0).energy for s in (shift, -shift))
        assert forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=1e-6)
    assert np.abs(forces).max() > 0.1


def test_a_relaxation_reaches_the_held_angle(butane):
    held = torsions.Held(Flat(), (0, 1, 2, 3), 2.0)
    numbers = np.array([a.GetAtomicNum() for a in butane.GetAtoms()])
    found = held.minimum(numbers, butane.GetConformer().GetPositions(), 0, fmax=0.01)
    assert float(dihedral_of(found.positions)) == pytest.approx(2.0, abs=0.01)


def test_no_molecule_is_of_the_test_side():
    found = torsions.read_torsions(Path(torsions.__file__).with_name("torsions.smi"))
    assert len({t.name for t in found}) == len(found) >= 30
    for torsion in found:
        for i, j in zip(torsion.atoms, torsion.atoms[1:], strict=False):
            assert torsion.mol.GetBondBetweenAtoms(i, j) is not None
    for name in {n for pair in DIMERS for n in pair}:
        monomer(name)
    with pytest.raises(DataError, match="test molecule"):
        refuse_test_molecule("C=C")


def test_contact_of_a_dimer_is_scaled():
    water = monomer("water")
    x = water.GetConformer().GetPositions()
    dimer = Dimer("water + water", (water, water), np.concatenate([x, x + np.array([3.0, 0.5, 0.0])]))
    length = np.linalg.norm(dimer.contact())
    for factor, moved in zip((0.8, 1.0, 1.5), dimer.moved(np.array([0.8, 1.0, 1.5])), strict=True):
        np.testing.assert_allclose(moved[:3], x)
        other = Dimer(dimer.name, dimer.parts, moved)
        assert np.linalg.norm(other.contact()) == pytest.approx(factor * length)


def test_interaction_vanishes_far_apart(model):
    water = monomer("water")
    x = water.GetConformer().GetPositions()
    dimer = Dimer("water + water", (water, water), np.concatenate([x, x + np.array([30.0, 0.0, 0.0])]))
    found = dimer.interaction(lambda mol, x: of_model(model, mol, x), dimer.positions[None])
    assert found[0] == pytest.approx(0, abs=1e-8)


def test_deepest_fall():
    assert deepest_fall(np.array([0.0, 1.0, 5.0, 9.0])) == 0
    assert deepest_fall(np.array([0.0, 4.0, 3.0, 6.0, 1.0, 7.0])) == 5


def test_frequency_of_a_molecule_of_known_springs():
    # Two pairs of hydrogen atoms, each with a spring of 30 eV/Angstrom^2 along x, omega = sqrt(k / (m / 2)).
    k, mass = 30.0, 1.008
    block = np.zeros((2, 3, 2, 3))
    block[:, 0, :, 0] = k * np.array([[1, -1], [-1, 1]])
    found = frequencies(np.array([1, 1, 1, 1]), np.eye(4, 3) * 0.7, np.kron(np.eye(2), block.reshape(6, 6)))
    expected = np.sqrt(k * elementary_charge * 1e20 / (mass / 2 * atomic_mass)) / (2 * np.pi * _c * 100)
    np.testing.assert_allclose(found[-2:], expected, rtol=1e-5)
    assert len(found) == 6


def test_rmsd_ignores_the_place_in_space(butane):
    x = butane.GetConformer().GetPositions()
    turned = Rotation.from_euler("xyz", (0.4, 1.0, -2.0)).apply(x) + 3.0
    assert rmsd(x, turned) == pytest.approx(0, abs=1e-6)
    assert rmsd(x, 1.1 * x) == pytest.approx(0.1 * np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()))


def test_energies_of_many_structures(model, butane):
    x = butane.GetConformer().GetPositions()
    many = np.stack([x, 1.02 * x, 1.05 * x])
    ours = of_model(model, butane, many)
    last = StructureBatch.from_arrays([a.GetAtomicNum() for a in butane.GetAtoms()], many[2])
    assert ours[2] * KCAL_PER_MOL == pytest.approx(float(model.predict(last).energy))
    force_field = MMFFGetMoleculeForceField(butane, MMFFGetMoleculeProperties(butane, mmffVariant="MMFF94s"))
    energies = of_mmff(butane, many)
    assert energies[0] == pytest.approx(force_field.CalcEnergy())
    assert energies[2] > energies[1] > energies[0]


def test_errors_of_relative_energies():
    errors = centred_errors(np.array([1.0, 3.0, np.nan, 2.0]), np.array([0.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(errors, [-1.0, 1.0, 0.0])


def test_summary_keeps_the_lines_of_other_tests(tmp_path):
    update_summary(tmp_path, "a", [("ours", "error", 1.0, 3), ("GFN2-xTB", "error", 2.0, 3)])
    update_summary(tmp_path, "b", [("ours", "error", 4.0, 2)])
    update_summary(tmp_path, "a", [("ours", "error", 0.5, 3)])
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["test"], r["method"], float(r["value"])) for r in rows] == [("a", "ours", 0.5), ("b", "ours", 4.0)]
