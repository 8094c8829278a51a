"""Engines: forces are the derivative of the energy, minima are minima, and programs' files are read as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from harmonic import LENGTH, Harmonic

from consistent_calc.errors import ConfigurationError, LabellingError
from consistent_calc.labelling import mopac, xtb
from consistent_calc.labelling.dft import METHODS
from consistent_calc.labelling.engine import Engine, new_engine
from consistent_calc.labelling.names import EngineName
from consistent_calc.units import BOHR, DEBYE, HARTREE, KCAL_PER_MOL

WATER = np.array([8, 1, 1]), np.array([[0.3, 0.1, 0.2], [1.25, 0.2, 0.1], [0.1, 1.05, 0.25]]), 0
HYDROXIDE = np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 0.95]]), -1
CHLORIDE = np.array([17]), np.array([[0.1, 0.2, 0.3]]), -1

#: Step of the finite differences in Angstrom, and allowed error in eV/Angstrom (PySCF neglects the motion of its grid).
STEP, TOLERANCE = 2e-3, {EngineName.pyscf: 0.03}


@pytest.fixture(scope="module", params=list(EngineName))
def engine(request: pytest.FixtureRequest) -> Engine:
    name, model_file = request.param, None
    if name in (EngineName.mopac, EngineName.xtb):
        if shutil.which(name) is None:
            pytest.skip(f"the program {name} is not installed")
    elif name is EngineName.aimnet2:
        model_file = os.environ.get("CONSISTENT_CALC_AIMNET2")
        if model_file is None:
            pytest.skip("no AIMNet2 file; set CONSISTENT_CALC_AIMNET2")
    else:
        pytest.importorskip(name)
    engine = new_engine(name, None, model_file)
    engine.tolerance = TOLERANCE.get(name, 2e-3)
    return engine


@pytest.mark.parametrize("molecule", [WATER, HYDROXIDE], ids=["water", "hydroxide"])
def test_forces_are_the_derivative_of_the_energy(engine: Engine, molecule: tuple) -> None:
    numbers, x, charge = molecule
    label = engine.single_point(numbers, x, charge)
    np.testing.assert_array_equal(label.positions, x)
    direction = np.random.default_rng(0).normal(size=x.shape)
    direction /= np.linalg.norm(direction)
    plus, minus = (engine.single_point(numbers, x + s * STEP * direction, charge).energy for s in (1, -1))
    assert -(plus - minus) / (2 * STEP) == pytest.approx((label.forces * direction).sum(), abs=engine.tolerance)
    assert np.abs(label.forces).max() > 0.05
    if label.charges is not None:
        assert label.charges.sum() == pytest.approx(charge, abs=1e-3)
    if label.dipole is not None and charge == 0:  # towards the hydrogens, 1.5 to 2.5 D
        assert 1.5 < label.dipole @ (x[1] + x[2] - 2 * x[0]) / np.linalg.norm(x[1] + x[2] - 2 * x[0]) / DEBYE < 2.5


@pytest.mark.parametrize("method", METHODS)
def test_every_functional_and_basis(method: str) -> None:
    pytest.importorskip("pyscf")
    numbers, x, charge = HYDROXIDE
    engine = new_engine(EngineName.pyscf, method)
    label = engine.single_point(numbers, x, charge)
    axis = (x[1] - x[0]) / np.linalg.norm(x[1] - x[0])
    step = np.stack([np.zeros(3), STEP * axis])
    plus, minus = (engine.single_point(numbers, x + s * step, charge).energy for s in (1, -1))
    assert -(plus - minus) / (2 * STEP) == pytest.approx(label.forces[1] @ axis, abs=TOLERANCE[EngineName.pyscf])
    # -75.8 Hartree with a large basis, a few tenths above with a small one without diffuse functions.
    assert -75.9 < label.energy / HARTREE < -75.4


def test_iodine_has_its_core_potential() -> None:
    pytest.importorskip("pyscf")
    engine = new_engine(EngineName.pyscf, "wB97X-D3BJ/def2-SVP")
    label = engine.single_point(np.array([1, 53]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.61]]), 0)
    assert np.abs(label.forces).max() < 0.3  # the bond length of experiment


def test_minima_have_no_forces(engine: Engine) -> None:
    numbers, x, charge = WATER
    if engine.level.startswith("B3LYP"):
        pytest.skip("takes many seconds; the relaxation is that of tblite")
    label = engine.minimum(numbers, x, charge, 0.01)
    assert np.linalg.norm(label.forces, axis=1).max() < 0.03
    np.testing.assert_allclose(np.linalg.norm(label.positions[1:] - label.positions[0], axis=1), 0.958, atol=0.015)
    again = engine.single_point(numbers, label.positions, charge)
    assert again.energy == pytest.approx(label.energy, abs=1e-4)
    np.testing.assert_allclose(again.forces, label.forces, atol=2e-3)


def test_an_ion_of_one_atom(engine: Engine) -> None:
    label = engine.single_point(*CHLORIDE)
    assert np.isfinite(label.energy)
    np.testing.assert_allclose(label.forces, [[0, 0, 0]], atol=1e-6)
    assert label.dipole is None or label.dipole == pytest.approx(-CHLORIDE[1][0], abs=1e-3)


def test_ases_optimiser_finds_the_minimum() -> None:
    label = Harmonic().minimum(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0.5, 0.5]]), 0, 0.001)
    assert np.linalg.norm(label.positions[1] - label.positions[0]) == pytest.approx(LENGTH, abs=1e-4)
    with pytest.raises(LabellingError, match="no field"):
        Harmonic().minimum(np.array([1, 1]), np.eye(2, 3), 2, 0.001)


def test_a_model_file_belongs_to_aimnet2(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="model file"):
        new_engine(EngineName.aimnet2)
    with pytest.raises(ConfigurationError, match="model file"):
        new_engine(EngineName.mopac, model_file="a.jpt")
    (tmp_path / "a.jpt").write_text("no model")
    with pytest.raises(ConfigurationError, match="TorchScript"):
        new_engine(EngineName.aimnet2, model_file=tmp_path / "a.jpt")
    with pytest.raises(ConfigurationError, match="Unknown method"):
        new_engine(EngineName.xtb, "PM6")


class Ensemble(torch.nn.Module):
    """Springs to the origin; its members differ more, the farther away."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = data["coord"].detach()
        return {
            "energy": x.square().sum((1, 2)),
            "charges": torch.zeros(x.shape[0], x.shape[1]),
            "forces": -2 * x,
            "forces_std": x.abs() / 10,
        }


def test_an_ensemble_gives_means_and_refuses_where_it_is_not_sure(tmp_path: Path) -> None:
    torch.jit.script(Ensemble()).save(str(tmp_path / "ens.jpt"))
    engine = new_engine(EngineName.aimnet2, model_file=tmp_path / "ens.jpt")
    numbers, x, charge = WATER
    label = engine.single_point(numbers, x, charge)
    np.testing.assert_allclose(label.forces, -2 * x)
    assert label.energy == pytest.approx((x**2).sum())
    with pytest.raises(LabellingError, match="networks differ") as caught:
        engine.single_point(numbers, 10 * x, charge)
    assert caught.value.reason == "networks_disagree"


AUX = """ NUM_ELECTRONS=08
 HEAT_OF_FORMATION:KCAL/MOL=-0.5D+02
 DIP_VEC:DEBYE[3]= +0.1D+01 +0.2D+01 -0.1D+00
 ATOM_X_OPT:ANGSTROMS[09]=
    0.30    0.10    0.20
    1.25    0.20    0.11
    0.10    1.05    0.25
 ATOM_CHARGES[03]=
 -0.5 +0.2
 +0.3
 GRADIENTS:KCAL/MOL/ANGSTROM[09]=
  -8.0 -19.0   0.5  -9.0  17.0   1.5
  17.0   2.0  -2.0
 ENERGY_OF_THE_NEXT_ENTRY:EV=-0.3D+01
 #  Comment
"""


def test_mopacs_file() -> None:
    label = mopac._parse(AUX, WATER[1], 0)
    assert label.energy == pytest.approx(-50 * KCAL_PER_MOL)
    np.testing.assert_allclose(label.forces[0], np.array([8, 19, -0.5]) * KCAL_PER_MOL)
    np.testing.assert_allclose(label.forces[2], np.array([-17, -2, 2]) * KCAL_PER_MOL)
    assert label.positions[1, 2] == 0.11
    assert label.charges.tolist() == [-0.5, 0.2, 0.3]
    np.testing.assert_allclose(label.dipole, np.array([1, 2, -0.1]) * DEBYE)
    assert mopac._parse(AUX, WATER[1], 1).dipole is None  # relative to the centre of mass


@pytest.mark.parametrize("text", ["", AUX[:150], AUX.replace("HEAT_OF_FORMATION", "HEAT_OF_FORM_UPDATED")])
def test_mopacs_file_without_result(text: str) -> None:
    with pytest.raises(LabellingError):
        mopac._parse(text, WATER[1], 0)


GRADIENT = """$grad
  cycle =      1    SCF energy =    -9.00000000000   |dE/dxyz| =  0.5
    0.0  0.0  0.0  O
    0.0  0.0  1.8  H
  -8.5E-03  -2.0E-02   2.0E-04
  -5.5D-03   1.5D-02   1.0D-03
  cycle =      2    SCF energy =    -5.06777214225   |dE/dxyz| =  0.034685
    0.0  0.0  0.0  O
    0.0  0.0  1.8  H
  -1.0E-03  -2.0E-03   3.0E-03
   1.0D-03   2.0D-03  -3.0D-03
$end
"""


def test_xtbs_file() -> None:
    energy, forces = xtb._parse(GRADIENT, 2)
    assert energy == pytest.approx(-5.06777214225 * HARTREE)
    np.testing.assert_allclose(forces, np.array([[1, 2, -3], [-1, -2, 3]]) * 1e-3 * HARTREE / BOHR)
    for text in ("", "$grad\n$end\n", GRADIENT.replace("   3.0E-03", "")):
        with pytest.raises(LabellingError):
            xtb._parse(text, 2)
