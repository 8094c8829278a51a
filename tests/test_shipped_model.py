"""The checkpoint that ships: whole, physical, and right about simple molecules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS
from rdkit.Chem import rdMolTransforms

from consistent_calc import ConsistentCalculator, ConsistentModel, generate_conformers, load_model
from consistent_calc.checkpoint import read_card
from consistent_calc.checks import run_checks
from consistent_calc.conformers import generate_many
from consistent_calc.structures import StructureBatch


@pytest.fixture(scope="module")
def shipped() -> ConsistentModel:
    return load_model()


def relaxed(atoms: Atoms, shipped: ConsistentModel) -> Atoms:
    atoms.calc = ConsistentCalculator(shipped)
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    return atoms


def test_card_tells_what_it_is(shipped: ConsistentModel) -> None:
    card = read_card()
    assert card["record"]["steps"] > 1000
    assert shipped.levels[0] == "wB97M-D3/def2-TZVPP"
    assert {1, 6, 7, 8, 9, 15, 16, 17, 35, 53} <= set(shipped.elements)


# Bond lengths and angles: experimental equilibrium values (NIST CCCBDB).
def test_water(shipped: ConsistentModel) -> None:
    atoms = relaxed(molecule("H2O"), shipped)
    assert atoms.get_distance(0, 1) == pytest.approx(0.958, abs=0.03)
    assert atoms.get_angle(1, 0, 2) == pytest.approx(104.5, abs=5)
    assert np.linalg.norm(atoms.get_dipole_moment()) == pytest.approx(0.386, abs=0.15)  # e Angstrom


@pytest.mark.parametrize(("name", "pair", "length"), [("C2H6", (0, 1), 1.535), ("C6H6", (0, 1), 1.397)])
def test_carbon_bonds(shipped: ConsistentModel, name: str, pair: tuple[int, int], length: float) -> None:
    assert relaxed(molecule(name), shipped).get_distance(*pair) == pytest.approx(length, abs=0.03)


def test_atomisation_makes_sense(shipped: ConsistentModel) -> None:
    """A reaction energy in the right range: wrong reference energies would be off by far more."""

    def energy(name: str) -> float:
        return float(relaxed(molecule(name), shipped).get_potential_energy())

    # CH4 + H2O2 -> CH3OH + H2O, about -2.7 eV
    reaction = energy("CH3OH") + energy("H2O") - energy("CH4") - energy("H2O2")
    assert -4.5 < reaction < -1.0


def test_physics_holds_for_the_trained_weights(shipped: ConsistentModel) -> None:
    mol = generate_conformers("C[C@H](N)C(=O)O", n=1, model=shipped).mol
    failed = [str(check) for check in run_checks(shipped, mol, dynamics_steps=200) if not check.passed]
    assert not failed, "\n".join(failed)


def test_denoiser_reduces_noise(shipped: ConsistentModel) -> None:
    mol = generate_conformers("CC(=O)Nc1ccc(O)cc1", n=1, model=shipped).mol
    clean = StructureBatch.from_rdkit(mol).to(dtype=torch.float32)
    noise = 0.2 * torch.randn(clean.positions.shape, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean(0)
    denoised = shipped.denoise(clean.with_positions(clean.positions + noise), torch.tensor([0.2]))
    bonds = clean.bonds[:, :2]

    def bond_errors(positions: torch.Tensor) -> torch.Tensor:
        lengths, exact = ((p[bonds[:, 0]] - p[bonds[:, 1]]).norm(dim=1) for p in (positions, clean.positions))
        return (lengths - exact).abs().mean()

    assert bond_errors(denoised) < 0.25 * bond_errors(clean.positions + noise)


def test_conformers_keep_stereo_and_failures_are_typed(shipped: ConsistentModel) -> None:
    results = list(generate_many(["C/C=C/[C@H](N)C(=O)O", "C1CC", "CCO.[Na+]", "C[Si](C)C", "[CH3]"], 4, model=shipped))
    assert [r.succeeded for r in results] == [True, False, False, False, False]
    reasons = [r.failure.reason for r in results if r.failure is not None]
    assert reasons == ["invalid_smiles", "multiple_fragments", "unsupported_element", "odd_electrons"]
    ensemble = results[0].ensemble
    assert ensemble is not None
    assert float(ensemble.weights.sum()) == pytest.approx(1)
    assert bool((ensemble.relative_energies.diff() >= 0).all())


def test_both_mirror_images_of_an_allene(shipped: ConsistentModel) -> None:
    ensemble = generate_conformers("CC=C=CCl", 4, model=shipped)
    angles = [rdMolTransforms.GetDihedralDeg(c, 0, 1, 3, 4) for c in ensemble.mol.GetConformers()]
    assert sorted(round(angle / 90) for angle in angles) == [-1, 1]


def test_conformers_of_ions_and_rotamers_are_not_doubled(shipped: ConsistentModel) -> None:
    # Rounding may decide whether a sample of the mirror image is lost on the way.
    for smiles, few, many in (("CCO", 2, 3), ("Clc1cccc(C(N)=[NH2+])c1", 1, 2)):
        assert few <= len(generate_conformers(smiles, 10, model=shipped)) <= many
