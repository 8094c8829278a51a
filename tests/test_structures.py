"""StructureBatch: conversions, joining and taking apart, and what it refuses."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import rdDepictor

from consistent_calc.errors import ChargeError, InvalidStructureError, OddElectronWarning, UnsupportedElementError
from consistent_calc.structures import StructureBatch, total_charge


def arrays(numbers, positions=None, **options):
    positions = [[1.5 * i, 0.0, 0.0] for i in range(len(numbers))] if positions is None else positions
    return StructureBatch.from_arrays(numbers, positions, **options)


def assert_equal(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert (x is None) == (y is None), field.name
        if x is not None:
            assert x.dtype == y.dtype
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12, msg=field.name)


class TestConversions:
    def test_ase(self, water, crystal):
        water.info["charge"] = 2
        crystal.pbc = [True, False, True]
        batch = StructureBatch.from_ase([water, crystal])
        assert (batch.n_graphs, batch.n_atoms, len(batch)) == (2, 7, 2)
        assert batch.counts.tolist() == [3, 4]
        assert batch.charge.tolist() == [2, 0]
        back = batch.to_ase()
        for a, b in zip(back, (water, crystal), strict=True):
            assert a.symbols.get_chemical_formula() == b.symbols.get_chemical_formula()
            np.testing.assert_allclose(a.positions, b.positions)
            np.testing.assert_array_equal(a.pbc, b.pbc)
            np.testing.assert_allclose(a.cell.array, b.cell.array)
        assert back[0].info["charge"] == 2
        assert isinstance(back[0].info["charge"], int)
        assert_equal(StructureBatch.from_ase(back), batch)

    def test_ase_is_copied(self, water):
        batch = StructureBatch.from_ase(water)
        water.positions[:] = 0
        assert batch.positions.abs().max() > 0

    def test_the_cell_of_an_open_system_is_dropped(self, water):
        water.cell = [5, 5, 5]
        assert (StructureBatch.from_ase(water).cell == 0).all()

    def test_total_charge(self, water):
        assert total_charge(water) == 0
        water.set_initial_charges([0.3333333, 0.3333333, 0.3333334])
        assert total_charge(water) == 1
        box = Atoms("H3000")
        box.set_initial_charges(np.full(3000, 1.002 / 3000))
        assert total_charge(box) == 1
        water.info["charge"] = np.int64(-1)
        assert total_charge(water) == -1
        assert StructureBatch.from_ase(water, charge=3).charge.tolist() == [3]
        water.info["charge"] = "many"
        with pytest.raises(ChargeError, match="many"):
            total_charge(water)

    def test_rdkit(self, mol, batch):
        two = Chem.Mol(mol)
        two.AddConformer(mol.GetConformer(), assignId=True)
        both = StructureBatch.from_rdkit(two)
        assert both.n_graphs == 2
        assert_equal(both[1], batch)
        back = batch.with_positions(batch.positions + 1).to_rdkit(mol)[0]
        assert back.GetNumConformers() == 1
        np.testing.assert_allclose(back.GetConformer().GetPositions(), mol.GetConformer().GetPositions() + 1)
        assert_equal(StructureBatch.from_rdkit(back), batch.with_positions(batch.positions + 1))

    def test_rdkit_molecules_that_cannot_be_used(self, mol, batch):
        bare = Chem.AddHs(Chem.MolFromSmiles("CO"))
        with pytest.raises(InvalidStructureError, match="no conformer"):
            StructureBatch.from_rdkit(bare)
        rdDepictor.Compute2DCoords(bare)
        with pytest.raises(InvalidStructureError, match="2D"):
            StructureBatch.from_rdkit(bare)
        with pytest.raises(InvalidStructureError, match="implicit hydrogens"):
            StructureBatch.from_rdkit(Chem.RemoveHs(mol))
        with pytest.raises(InvalidStructureError, match="order of atoms"):
            batch.to_rdkit(bare)

    def test_rdkit_charge(self):
        ion = Chem.AddHs(Chem.MolFromSmiles("[OH3+]"))
        conformer = Chem.Conformer(4)
        conformer.SetPositions(np.random.default_rng(0).normal(size=(4, 3)))
        ion.AddConformer(conformer)
        assert StructureBatch.from_rdkit(ion).charge.tolist() == [1]

    def test_pymatgen_sites_must_be_whole(self):
        core = pytest.importorskip("pymatgen.core")
        alloy = core.Structure(core.Lattice.cubic(4.0), [{"C": 0.5, "N": 0.5}], [[0, 0, 0]])
        with pytest.raises(InvalidStructureError, match="shared by elements"):
            StructureBatch.from_pymatgen(alloy)

    def test_arrays_are_copied(self):
        positions = np.zeros((1, 3))
        batch = StructureBatch.from_arrays([6], positions)
        positions += 1
        assert float(batch.positions.abs().max()) == 0
        with pytest.raises(InvalidStructureError, match="three vectors"):
            StructureBatch.from_arrays([6], positions, cell=[1.0, 2.0, 3.0])
        with pytest.raises(InvalidStructureError, match="positions of shape"):
            StructureBatch.from_arrays([6, 1], np.zeros((3, 2)))
        with pytest.raises(InvalidStructureError, match="integers"):
            StructureBatch.from_arrays([6.5], positions)

    def test_pymatgen(self, water, crystal):
        pytest.importorskip("pymatgen.core")
        water.info["charge"] = 2
        batch = StructureBatch.from_ase([water, crystal])
        molecule, structure = batch.to_pymatgen()
        assert molecule.charge == 2
        assert_equal(StructureBatch.from_pymatgen([molecule, structure]), batch)
        assert_equal(StructureBatch.from_pymatgen(structure), batch[1])

    def test_slabs_and_chains_without_all_vectors_in_pymatgen(self):
        pytest.importorskip("pymatgen.core")
        slab = Atoms("CO", [[0, 0, 0], [0, 0, 5.0]], cell=[[4, 0, 0], [0, 4, 0], [0, 0, 0]], pbc=[1, 1, 0])
        chain = Atoms("C", cell=[[0, 0, 0], [0, 0, 0], [0, 0, 2.5]], pbc=[0, 0, 1])
        for atoms in (slab, chain):
            (structure,) = StructureBatch.from_ase(atoms).to_pymatgen()
            assert structure.lattice.pbc == tuple(atoms.pbc)
            np.testing.assert_allclose(structure.cart_coords, atoms.positions, atol=1e-12)
            np.testing.assert_allclose(structure.lattice.matrix[atoms.pbc], atoms.cell.array[atoms.pbc])

    def test_dtype_and_device(self, batch):
        moved = batch.to("cpu", torch.float32)
        assert moved.positions.dtype == moved.cell.dtype == moved.charge.dtype == torch.float32
        assert moved.numbers.dtype == moved.bonds.dtype == torch.int64
        assert moved.pbc.dtype == torch.bool


class TestParts:
    def test_concatenate_and_select(self, batch, crystal):
        parts = [batch, arrays([8], bonds=[]), batch.with_positions(batch.positions * 2)]
        joined = StructureBatch.concatenate(parts)
        for i, part in enumerate(parts):
            assert_equal(joined[i], part)
        assert_equal(joined[-1], parts[2])
        assert_equal(joined.select([2, 0]), StructureBatch.concatenate([parts[2], parts[0]]))
        assert_equal(joined.select(torch.tensor([1])), parts[1])
        for true, false in ((True, False), (np.True_, np.False_), torch.tensor([True, False])):
            mask = [false] * len(joined)
            mask[1] = true
            assert_equal(joined.select(mask), parts[1])
        assert joined.bonds[:, :2].max() == joined.n_atoms - 1
        assert joined.graph.tolist() == [0] * 17 + [1] + [2] * 17

    def test_bonds_are_kept_only_if_all_have_them(self, batch, crystal):
        joined = StructureBatch.concatenate([batch, StructureBatch.from_ase(crystal)])
        assert joined.bonds is None
        assert joined.stereo is None

    def test_iteration_ends(self, batch):
        assert len(list(StructureBatch.concatenate([batch] * 3))) == 3
        with pytest.raises(IndexError):
            batch[1]

    def test_nothing_to_join(self):
        with pytest.raises(InvalidStructureError, match="at least one"):
            StructureBatch.concatenate([])

    def test_it_is_frozen(self, batch):
        with pytest.raises(dataclasses.FrozenInstanceError):
            batch.charge = None


class TestValidation:
    def test_sound_structures_pass(self, batch, crystal):
        assert batch.validate((1, 6, 7, 8)) is batch
        StructureBatch.from_ase(crystal).validate()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_positions(self, value):
        with pytest.raises(InvalidStructureError, match="atom 1"):
            arrays([8, 1], [[0, 0, 0], [0, value, 0]]).validate()

    def test_empty(self, batch):
        with pytest.raises(InvalidStructureError, match="without atoms"):
            StructureBatch.from_ase(Atoms()).validate()
        with pytest.raises(InvalidStructureError, match="without atoms"):
            StructureBatch.concatenate([batch, arrays([])]).validate()

    def test_elements(self):
        with pytest.raises(UnsupportedElementError, match=r"know Fe, Au; .*trained on H, C"):
            arrays([79, 1, 26]).validate((6, 1))
        with pytest.raises(UnsupportedElementError, match="Z=130"):
            arrays([130]).validate((1,))
        with pytest.raises(UnsupportedElementError, match="X"):
            arrays([0]).validate((1,))

    @pytest.mark.parametrize("charge", [0.5, float("nan"), float("inf")])
    def test_charge(self, charge):
        with pytest.raises(ChargeError, match="integer"):
            arrays([1, 1], charge=charge).validate()

    def test_atoms_without_an_element(self):
        with pytest.raises(InvalidStructureError, match="without an element"):
            arrays([6, 0]).validate()

    def test_a_cell_in_other_units(self, water):
        water.set_cell([0.03, 4.0, 4.0])
        water.pbc = True
        with pytest.raises(InvalidStructureError, match=r"less than 0\.1 Angstrom high"):
            StructureBatch.from_ase(water).validate()
        water.pbc = [False, True, True]
        StructureBatch.from_ase(water).validate()

    @pytest.mark.parametrize("charge", [2, 3])
    def test_nothing_without_electrons(self, charge):
        with pytest.raises(ChargeError, match="no electrons"):
            arrays([1, 1], charge=charge).validate()

    def test_odd_electrons(self):
        with pytest.warns(OddElectronWarning, match=r"HO with charge \+0"):
            arrays([8, 1]).validate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            arrays([8, 1], charge=-1).validate()
            arrays([8, 1]).validate(warn_odd_electrons=False)

    @pytest.mark.parametrize(
        ("cell", "pbc"),
        [
            (None, True),
            ([[5, 0, 0], [0, 5, 0], [0, 0, 0]], True),
            ([[5, 0, 0], [5, 0, 0], [0, 0, 5]], True),
            ([[5, 0, 0], [5, 1e-6, 0], [0, 0, 5]], [True, True, False]),
            ([[5, 0, 0], [0, 5, 0], [0, 0, float("nan")]], True),
        ],
    )
    def test_cell(self, cell, pbc):
        with pytest.raises(InvalidStructureError):
            arrays([6], cell=cell, pbc=pbc).validate()

    def test_missing_vectors_in_open_directions_are_fine(self):
        arrays([6], cell=[[5, 0, 0], [0, 5, 0], [0, 0, 0]], pbc=[True, True, False]).validate()
