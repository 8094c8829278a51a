"""The ASE calculator: properties, cache, charges, levels, errors, copies, threads."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from ase.optimize import BFGS
from ase.vibrations import Vibrations, VibrationsData

from consistent_calc import ConsistentCalculator
from consistent_calc.checkpoint import save_model
from consistent_calc.errors import (
    ChargeError,
    CheckpointError,
    ConfigurationError,
    InvalidStructureError,
    OddElectronWarning,
    UnknownLevelError,
    UnsupportedElementError,
)


@pytest.fixture
def calc(model):
    return ConsistentCalculator(model)


class CountingCalculator(ConsistentCalculator):
    """Counts evaluations."""

    evaluations = 0

    def calculate(self, *args, **kwargs):
        self.evaluations += 1
        super().calculate(*args, **kwargs)


def energy_in_a_process(calc, atoms):
    return calc.get_potential_energy(atoms)


class TestProperties:
    def test_all_of_a_molecule_come_from_one_evaluation(self, model, atoms):
        atoms.calc = calc = CountingCalculator(model)
        energy = atoms.get_potential_energy()
        assert isinstance(energy, float)
        assert atoms.get_potential_energy(force_consistent=True) == energy
        assert atoms.get_potential_energies().sum() == pytest.approx(energy, abs=1e-9)
        assert atoms.get_forces().shape == (17, 3)
        assert atoms.get_charges().sum() == pytest.approx(0, abs=1e-12)
        assert atoms.get_dipole_moment().shape == (3,)
        assert calc.evaluations == 1
        assert all(v.dtype == np.float64 for v in calc.results.values() if isinstance(v, np.ndarray))

    def test_forces_and_stress_agree_with_ase_finite_differences(self, calc, crystal):
        crystal.calc = calc
        assert np.abs(crystal.get_forces()).max() > 0.1
        numeric = calculate_numerical_forces(crystal, eps=1e-4)
        np.testing.assert_allclose(crystal.get_forces(), numeric, atol=1e-5)
        numeric = calculate_numerical_stress(crystal, eps=1e-5)
        assert np.abs(numeric).max() > 1e-3
        np.testing.assert_allclose(crystal.get_stress(), numeric, atol=1e-6)

    def test_dipole_of_a_neutral_molecule_does_not_depend_on_the_origin(self, calc, water):
        first = calc.get_dipole_moment(water)
        np.testing.assert_allclose(first, calc.get_charges(water) @ water.positions, atol=1e-12)
        water.translate([10, 20, 30])
        np.testing.assert_allclose(calc.get_dipole_moment(water), first, atol=1e-10)

    def test_dipole_of_an_ion_is_about_its_centre_of_mass(self, model, water):
        calc = ConsistentCalculator(model, charge=2)
        expected = calc.get_charges(water) @ (water.positions - water.get_center_of_mass())
        np.testing.assert_allclose(calc.get_dipole_moment(water), expected, atol=1e-12)

    def test_undefined_properties_are_refused_with_a_reason(self, calc, water, crystal):
        with pytest.raises(PropertyNotImplementedError, match="lattice vectors"):
            calc.get_stress(water)
        with pytest.raises(PropertyNotImplementedError, match="periodic"):
            calc.get_dipole_moment(crystal)
        with pytest.raises(PropertyNotImplementedError):
            calc.get_magnetic_moment(water)
        # Refused from the cache as well.
        calc.get_potential_energy(crystal)
        with pytest.raises(PropertyNotImplementedError):
            calc.get_property("dipole")

    def test_partially_periodic_stress_needs_three_vectors(self, model):
        atoms = fcc111("Al", (1, 1, 1), a=4.0)
        atoms.numbers[:] = 6
        calc = ConsistentCalculator(model)
        assert np.isfinite(calc.get_forces(atoms)).all()
        with pytest.raises(PropertyNotImplementedError, match="without a volume"):
            calc.get_stress(atoms)
        atoms.cell[2] = atoms.cell[1]
        with pytest.raises(PropertyNotImplementedError, match="without a volume"):
            calc.get_stress(atoms)
        atoms.cell[2] = [0, 0, 12]
        numeric = calculate_numerical_stress(atoms_with(atoms, calc), eps=1e-5)
        np.testing.assert_allclose(calc.get_stress(atoms), numeric, atol=1e-6)

    def test_a_dummy_cell_changes_nothing(self, calc, water):
        energy, forces = calc.get_potential_energy(water), calc.get_forces(water)
        water.cell = [3, 3, 3]
        assert calc.get_potential_energy(water) == energy
        np.testing.assert_array_equal(calc.get_forces(water), forces)
        with pytest.raises(PropertyNotImplementedError):
            calc.get_stress(water)

    def test_a_single_atom_feels_no_force(self, calc):
        for pbc in (False, True):
            atom = Atoms("O", cell=[20, 20, 20], pbc=pbc)
            assert np.isfinite(calc.get_potential_energy(atom))
            np.testing.assert_array_equal(calc.get_forces(atom), np.zeros((1, 3)))

    def test_energies_are_reproducible(self, model, atoms):
        energies = {ConsistentCalculator(model).get_potential_energy(atoms) for _ in range(3)}
        assert max(energies) - min(energies) <= 1e-12 * abs(max(energies))

    def test_the_place_does_not_matter_in_float32(self, model, water):
        calc = ConsistentCalculator(model, dtype="float32")
        forces = calc.get_forces(water)
        water.translate([1000, -1000, 500])
        np.testing.assert_allclose(calc.get_forces(water), forces, atol=1e-5)


def atoms_with(atoms, calc):
    atoms.calc = calc
    return atoms


class TestCache:
    def test_nothing_is_evaluated_twice(self, model, water):
        calc = CountingCalculator(model)
        for _ in range(3):
            calc.get_potential_energy(water)
            calc.get_forces(water.copy())
        assert calc.evaluations == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.info.__setitem__("charge", 2),
            lambda a: a.set_initial_charges([2, 0, 0]),
            lambda a: a.positions.__setitem__((0, 0), 0.31),
            lambda a: a.numbers.__setitem__(0, 16),
            lambda a: setattr(a, "pbc", True),
        ],
    )
    def test_every_change_is_noticed(self, calc, model, water, change):
        water.cell = [4.0, 4.0, 4.0]
        before = calc.get_potential_energy(water)
        change(water)
        after = calc.get_potential_energy(water)
        assert after != before
        assert after == ConsistentCalculator(model).get_potential_energy(water)
        assert calc.get_forces(water).tolist() == ConsistentCalculator(model).get_forces(water).tolist()

    def test_parameters_are_noticed(self, calc, model, water):
        neutral = calc.get_potential_energy(water)
        calc.set(charge=2)
        assert calc.results == {}
        assert calc.get_potential_energy(water) == ConsistentCalculator(model, charge=2).get_potential_energy(water)
        calc.parameters["charge"] = None  # behind ASE's back
        assert calc.get_potential_energy(water) == neutral
        calc.set(level=model.levels[1])
        assert calc.get_potential_energy(water) != neutral
        calc.set(level=None)
        assert calc.get_potential_energy(water) == neutral

    def test_results_are_copies(self, calc, water):
        calc.get_forces(water)[:] = 0
        assert np.abs(calc.get_forces(water)).max() > 0

    def test_an_error_leaves_no_stale_results(self, calc, water):
        calc.get_potential_energy(water)
        broken = water.copy()
        broken.positions[0] = np.nan
        with pytest.raises(InvalidStructureError):
            calc.calculate(broken, ["energy"])
        assert calc.results == {}
        with pytest.raises(InvalidStructureError):
            calc.get_potential_energy(broken)
        assert np.isfinite(calc.get_potential_energy(water))


class TestCharge:
    def test_precedence(self, model, water):
        water.set_initial_charges([2, 0, 0])
        assert ConsistentCalculator(model).get_charges(water).sum() == pytest.approx(2)
        water.info["total_charge"] = 4
        assert ConsistentCalculator(model).get_charges(water).sum() == pytest.approx(4)
        water.info["charge"] = -2
        assert ConsistentCalculator(model).get_charges(water).sum() == pytest.approx(-2)
        assert ConsistentCalculator(model, charge=0).get_charges(water).sum() == pytest.approx(0, abs=1e-12)

    def test_bad_charges(self, calc, model, water):
        water.info["charge"] = 0.5
        with pytest.raises(ChargeError, match="integer"):
            calc.get_potential_energy(water)
        water.info["charge"] = 0
        calc.get_potential_energy(water)
        water.info["charge"] = "plus"
        with pytest.raises(ChargeError, match="number"):
            calc.get_potential_energy(water)
        assert calc.results == {}
        with pytest.raises(ChargeError):
            ConsistentCalculator(model, charge=float("nan")).get_potential_energy(water)

    def test_odd_electrons_warn_once_a_state(self, calc, water):
        water.info["charge"] = 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(4):
                water.positions[0, 0] = 0.3 + 0.01 * step
                calc.get_potential_energy(water)
            assert [w.category for w in caught] == [OddElectronWarning]
            water.info["charge"] = -1
            calc.get_potential_energy(water)
            assert len(caught) == 2


class TestErrors:
    @pytest.mark.parametrize("device", ["foo", "cuda:99"])
    def test_no_such_device(self, model, device):
        with pytest.raises(ConfigurationError, match=f"The device '{device}' cannot be used"):
            ConsistentCalculator(model, device=device)

    def test_structures(self, calc):
        with pytest.raises(InvalidStructureError, match="without atoms"):
            calc.get_potential_energy(Atoms())
        with pytest.raises(UnsupportedElementError, match="Au"):
            calc.get_potential_energy(Atoms("Au"))
        with pytest.raises(InvalidStructureError, match="one place"):
            calc.get_potential_energy(Atoms("H2", positions=np.zeros((2, 3))))
        with pytest.raises(InvalidStructureError, match="lattice vector"):
            calc.get_potential_energy(Atoms("C", pbc=True))

    def test_settings(self, model, calc, tmp_path):
        with pytest.raises(UnknownLevelError, match="B3LYP"):
            ConsistentCalculator(model, level="HF")
        with pytest.raises(CheckpointError, match="cannot be read"):
            ConsistentCalculator(tmp_path / "nothing")
        with pytest.raises(ValueError, match="float64"):
            ConsistentCalculator(model, dtype="float16")
        with pytest.raises(TypeError, match="construction"):
            calc.set(device="cuda")


class TestModels:
    def test_a_path_loads_a_checkpoint(self, model, water, tmp_path):
        single = copy.deepcopy(model).float()  # as checkpoints are
        save_model(single, tmp_path / "model")
        for dtype in (torch.float32, torch.float64):
            calc = ConsistentCalculator(str(tmp_path / "model"), dtype=dtype, level=model.levels[1])
            twin = ConsistentCalculator(single, dtype=dtype, level=model.levels[1])
            assert calc.model.dtype == dtype
            assert calc.get_potential_energy(water) == twin.get_potential_energy(water)
        assert ConsistentCalculator(tmp_path / "model.json").model.dtype == torch.float32

    def test_two_precisions_side_by_side(self, model, water):
        single, double = ConsistentCalculator(model, dtype=torch.float32), ConsistentCalculator(model)
        assert double.model is model
        assert model.dtype == torch.float64
        a, b = single.get_forces(water), double.get_forces(water)
        np.testing.assert_allclose(a, b, atol=1e-3)
        assert a.tolist() != b.tolist()

    def test_global_state_is_left_alone(self, model, water, tmp_path):
        save_model(model, tmp_path / "model")

        def state():
            return (
                torch.get_default_dtype(),
                torch.is_grad_enabled(),
                torch.get_num_threads(),
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),
                torch.are_deterministic_algorithms_enabled(),
                torch.get_float32_matmul_precision(),
            )

        before = state()
        calc = ConsistentCalculator(tmp_path / "model", dtype="float64")
        calc.get_forces(water)
        calc.get_hessian(water)
        assert state() == before

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_grad_modes_do_not_matter(self, model, water, context):
        expected = ConsistentCalculator(model).get_forces(water)
        with context():
            calc = ConsistentCalculator(model)
            np.testing.assert_allclose(calc.get_forces(water), expected)
            assert np.abs(calc.get_hessian(water)).max() > 0.1

    def test_what_is_made_in_inference_mode_works_outside(self, model, water):
        with torch.inference_mode():
            calc = ConsistentCalculator(model, dtype="float32")
        expected = ConsistentCalculator(model, dtype="float32").get_forces(water)
        np.testing.assert_array_equal(calc.get_forces(water), expected)

    def test_a_default_dtype_does_not_matter(self, model, water):
        single = ConsistentCalculator(model, dtype="float32")
        expected = single.get_forces(water)
        torch.set_default_dtype(torch.float64)
        try:
            np.testing.assert_array_equal(ConsistentCalculator(model, dtype="float32").get_forces(water), expected)
        finally:
            torch.set_default_dtype(torch.float32)


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
    def test_copies_agree(self, model, water, duplicate):
        calc = ConsistentCalculator(model, level=model.levels[1], charge=2)
        energy = calc.get_potential_energy(water)
        twin = duplicate(calc)
        assert twin.parameters == calc.parameters
        assert twin.get_potential_energy(water) == energy
        water.positions[0] += 0.1
        assert twin.get_potential_energy(water) == calc.get_potential_energy(water) != energy

    def test_a_copy_has_parameters_of_its_own(self, model, water):
        calc = ConsistentCalculator(model)
        energy = calc.get_potential_energy(water)
        twin = copy.copy(calc)
        assert twin.model is calc.model
        twin.set(charge=2)
        assert calc.parameters["charge"] is None
        assert calc.get_potential_energy(water) == energy != twin.get_potential_energy(water)

    def test_processes(self, model, water):
        calc = ConsistentCalculator(model)
        with get_context("spawn").Pool(1) as pool:
            energy = pool.apply(energy_in_a_process, (calc, water))
        assert energy == pytest.approx(calc.get_potential_energy(water), rel=1e-12)

    def test_threads_can_share_a_model(self, model, water):
        images = [water.copy() for _ in range(8)]
        for k, image in enumerate(images):
            image.positions[0, 0] += 0.01 * k
        expected = [ConsistentCalculator(model).get_forces(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda image: ConsistentCalculator(model).get_forces(image), images))
        np.testing.assert_allclose(found, expected, atol=1e-12)


class TestHessian:
    @pytest.mark.parametrize("name", ["water", "crystal"])
    def test_it_is_the_derivative_of_the_forces(self, calc, request, name):
        atoms = request.getfixturevalue(name)
        found = calc.get_hessian(atoms)
        numeric = np.zeros_like(found)
        step = 1e-5
        for k in range(3 * len(atoms)):
            pair = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions.ravel()[k] += sign * step
                pair.append(calc.get_forces(moved).ravel())
            numeric[k] = (pair[1] - pair[0]) / (2 * step)
        assert np.abs(found).max() > 1
        np.testing.assert_allclose(found, numeric, atol=1e-5)
        np.testing.assert_array_equal(found, found.T)
        # Translations cost nothing.
        np.testing.assert_allclose(found.reshape(-1, len(atoms), 3).sum(1), 0, atol=1e-9)

    def test_of_the_last_atoms(self, calc, water):
        with pytest.raises(ValueError, match="atoms"):
            calc.get_hessian()
        calc.get_potential_energy(water)
        np.testing.assert_array_equal(calc.get_hessian(), calc.get_hessian(water))

    def test_ase_vibrations(self, calc, water, tmp_path):
        water.calc = calc
        vibrations = Vibrations(water, name=str(tmp_path / "vib"), delta=1e-3)
        vibrations.run()
        exact = VibrationsData.from_2d(water, calc.get_hessian(water))
        np.testing.assert_allclose(vibrations.get_energies()[6:], exact.get_energies()[6:], atol=1e-4)


class TestAse:
    def test_optimisation_with_constraints(self, calc, water):
        water.calc = calc
        water.set_constraint(FixAtoms([0]))
        start, energy = water.positions[0].copy(), water.get_potential_energy()
        np.testing.assert_array_equal(water.get_forces()[0], 0)
        assert np.abs(water.get_forces(apply_constraint=False)[0]).max() > 0
        BFGS(water, logfile=None, maxstep=0.02).run(fmax=0.01, steps=5)
        assert water.get_potential_energy() < energy
        np.testing.assert_array_equal(water.positions[0], start)

    def test_results_reach_files(self, calc, water, tmp_path):
        water.calc = calc
        energy, charges = water.get_potential_energy(), water.get_charges()
        for name in ("water.traj", "water.extxyz"):
            write(tmp_path / name, water)
            back = read(tmp_path / name)
            assert back.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(read(tmp_path / "water.traj").get_charges(), charges)
        with connect(tmp_path / "water.json") as database:
            database.write(water)
        row = next(connect(tmp_path / "water.json").select())
        assert row.calculator == "consistent_calc"
        assert row.calculator_parameters["level"] == calc.model.levels[0]
