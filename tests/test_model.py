"""The model: symmetries of its features, derivatives, smoothness, locality, charges and levels."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from ase.build import molecule
from e3nn import o3

from consistent_calc.errors import InvalidStructureError, UnknownLevelError, UnsupportedElementError
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.neighbors import neighbor_list
from consistent_calc.structures import StructureBatch


def features(model, batch):
    """The encoder's features per degree."""
    neighbors = neighbor_list(batch, model.cutoff)
    return model.encoder(
        model.element_indices(batch), neighbors.vectors(batch), neighbors.edges, batch.graph, batch.charge
    )


def one(numbers, positions, **options):
    return StructureBatch.from_arrays(numbers, positions, **options)


@pytest.fixture
def periodic(crystal):
    return StructureBatch.from_ase(crystal)


class TestSymmetry:
    @pytest.mark.parametrize("improper", [False, True])
    def test_features_transform_as_irreps(self, model, batch, improper):
        torch.manual_seed(0)
        rotation = o3.rand_matrix(dtype=torch.float64) * (-1 if improper else 1)
        before = features(model, batch)
        after = features(model, batch.with_positions(batch.positions @ rotation.T))
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-10)
        for degree in (1, 2):
            parity = (-1) ** degree
            d = o3.Irrep(degree, parity).D_from_matrix(rotation)
            assert before[degree].abs().max() > 1e-3
            expected = torch.einsum("ij,njc->nic", d, before[degree])
            # e3nn's D matrices are good to 1e-7; the energy below is compared more sharply.
            torch.testing.assert_close(after[degree], expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("improper", [False, True])
    def test_energy_forces_and_stress(self, model, periodic, improper):
        torch.manual_seed(1)
        rotation = o3.rand_matrix(dtype=torch.float64) * (-1 if improper else 1)
        moved = replace(periodic, positions=periodic.positions @ rotation.T, cell=periodic.cell @ rotation.T)
        a, b = model.predict(periodic, stress=True), model.predict(moved, stress=True)
        torch.testing.assert_close(b.energy, a.energy, rtol=0, atol=1e-9)
        torch.testing.assert_close(b.forces, a.forces @ rotation.T, rtol=0, atol=1e-9)
        torch.testing.assert_close(b.stress, rotation @ a.stress @ rotation.T, rtol=0, atol=1e-9)
        assert a.stress.abs().max() > 1e-3

    def test_translation_through_the_cell(self, model, periodic):
        moved = periodic.with_positions(periodic.positions + torch.tensor([5.3, -9.1, 2.2]))
        moved = moved.with_positions(moved.positions + torch.tensor([[3.0, -1, 2]]).double() @ moved.cell[0])
        a, b = model.predict(periodic), model.predict(moved)
        torch.testing.assert_close(b.energy, a.energy, rtol=0, atol=1e-9)
        torch.testing.assert_close(b.forces, a.forces, rtol=0, atol=1e-9)

    def test_permutation(self, model, batch):
        order = torch.randperm(batch.n_atoms, generator=torch.Generator().manual_seed(0))
        a, b = model.predict(batch), model.predict(one(batch.numbers[order], batch.positions[order]))
        torch.testing.assert_close(b.energy, a.energy, rtol=0, atol=1e-9)
        for name in ("energies", "forces", "charges"):
            torch.testing.assert_close(getattr(b, name), getattr(a, name)[order], rtol=0, atol=1e-9)

    def test_a_supercell_has_the_same_energy_per_cell(self, model, crystal):
        single, triple = StructureBatch.from_ase(crystal), StructureBatch.from_ase(crystal * (1, 3, 1))
        a, b = model.predict(single, stress=True), model.predict(triple, stress=True)
        torch.testing.assert_close(b.energy, 3 * a.energy, rtol=0, atol=1e-8)
        torch.testing.assert_close(b.forces, a.forces.repeat(3, 1), rtol=0, atol=1e-9)
        torch.testing.assert_close(b.stress, a.stress, rtol=0, atol=1e-9)


class TestDerivatives:
    def test_forces(self, model, batch):
        found = model.predict(batch).forces
        assert found.abs().max() > 0.3
        step, moved = 1e-4, []
        for k in range(3 * batch.n_atoms):
            for sign in (1, -1):
                positions = batch.positions.clone()
                positions.view(-1)[k] += sign * step
                moved.append(batch.with_positions(positions))
        energy = model.predict(StructureBatch.concatenate(moved), forces=False).energy.view(-1, 2)
        numeric = (energy[:, 1] - energy[:, 0]) / (2 * step)
        torch.testing.assert_close(found.view(-1), numeric, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.sum(0), torch.zeros(3).double(), rtol=0, atol=1e-10)
        torque = torch.linalg.cross(batch.positions, found).sum(0)
        torch.testing.assert_close(torque, torch.zeros(3).double(), rtol=0, atol=1e-9)

    def test_stress(self, model, periodic):
        found = model.predict(periodic, stress=True).stress[0]
        volume, step = torch.linalg.det(periodic.cell[0]).abs(), 1e-5
        for a in range(3):
            for b in range(3):
                energies = []
                for sign in (1, -1):
                    strain = torch.eye(3, dtype=torch.float64)
                    strain[a, b] += sign * step
                    strained = replace(periodic, positions=periodic.positions @ strain, cell=periodic.cell @ strain)
                    energies.append(model.predict(strained, forces=False).energy[0])
                numeric = (energies[0] - energies[1]) / (2 * step * volume)
                assert float(found[a, b] - numeric) == pytest.approx(0, abs=1e-6)

    def test_energy_alone_is_the_same(self, model, batch):
        assert model.predict(batch, forces=False).energy == model.predict(batch).energy
        assert model.predict(batch, forces=False).forces is None

    def test_predictions_carry_no_graph(self, batch, model):
        trainable = copy.deepcopy(model).requires_grad_(True)
        found = trainable.predict(batch, stress=True)
        assert not any(t.requires_grad for t in vars(found).values())
        assert all(p.grad is None for p in trainable.parameters())


class TestCutoff:
    def energies(self, model, distances):
        """Of a dimer, without the isolated atoms."""
        pairs = [one([6, 8], [[0, 0, 0], [0, 0, d]]) for d in distances]
        energy = model.predict(StructureBatch.concatenate(pairs), forces=False).energy
        alone = model.predict(StructureBatch.concatenate([one([z], [[0, 0, 0]]) for z in (6, 8)])).energy.sum()
        return energy - alone

    def test_value_and_derivatives_vanish(self, model):
        below = torch.tensor([0.2, 0.1, 0.05], dtype=torch.float64)
        energy = self.energies(model, (model.cutoff - below).tolist()).abs()
        assert energy[2] > 1e-8
        # The third power of the distance from the cutoff would be enough for two derivatives to vanish; the sines of
        # the Bessel functions make it the fourth.
        order = torch.log2(energy[:-1] / energy[1:])
        assert (order > 3.5).all()
        beyond = self.energies(model, [model.cutoff, model.cutoff + 1e-9, model.cutoff + 1])
        torch.testing.assert_close(beyond, torch.zeros(3).double(), rtol=0, atol=1e-9)

    def test_forces_are_continuous_everywhere(self, model):
        # Closer in, the repulsion of nuclei is steep (see nn/test_repulsion.py).
        distances = torch.linspace(1.0, 5.5, 901, dtype=torch.float64)
        pairs = [one([6, 8], [[0, 0, 0], [0, 0, d]]) for d in distances.tolist()]
        forces = model.predict(StructureBatch.concatenate(pairs)).forces[1::2, 2]
        second = forces.diff().diff().abs()
        # A kink would stand out against its neighbors.
        assert second.max() < 20 * second.median() + 1e-2
        assert (forces[distances >= 5.0] == 0).all()


class TestLocality:
    def test_distant_neutral_molecules_add_up(self, model, batch):
        water = one([8, 1, 1], [[60.3, 0.1, 0.2], [61.2, 0.2, 0.1], [60.1, 1.0, 0.2]])
        joined = one(torch.cat([batch.numbers, water.numbers]), torch.cat([batch.positions, water.positions]))
        a, b, both = model.predict(batch), model.predict(water), model.predict(joined)
        torch.testing.assert_close(both.energy, a.energy + b.energy, rtol=0, atol=1e-9)
        torch.testing.assert_close(both.forces, torch.cat([a.forces, b.forces]), rtol=0, atol=1e-10)

    def test_batch_equals_single(self, model, batch, periodic):
        ion = one([7, 1, 1, 1, 1], torch.randn(5, 3, generator=torch.Generator().manual_seed(2)) * 1.5, charge=1)
        slab = replace(periodic, pbc=torch.tensor([[True, True, False]]))
        parts = [batch, periodic, ion, one([1], [[0, 0, 0]]), slab, batch]
        together = model.predict(StructureBatch.concatenate(parts), stress=True)
        alone = [model.predict(part, stress=True) for part in parts]
        for name in ("energy", "energies", "forces", "charges", "stress"):
            expected = torch.cat([getattr(p, name) for p in alone])
            torch.testing.assert_close(getattr(together, name), expected, rtol=0, atol=1e-9)
        assert (together.stress[[0, 2, 3, 5]] == 0).all()
        assert (together.stress[[1, 4]].abs().amax((1, 2)) > 1e-4).all()

    def test_isolated_atoms(self, model):
        for charge in (-1, 0, 1):
            found = model.predict(one([17], [[1.0, 2.0, 3.0]], charge=charge), stress=True)
            assert torch.isfinite(found.energy).all()
            assert (found.forces == 0).all()
            assert float(found.charges) == pytest.approx(charge, abs=1e-12)

    def test_bonds_and_stereo_do_not_enter_the_energy(self, model, batch):
        a, b = model.predict(batch), model.predict(replace(batch, bonds=None, stereo=None))
        assert torch.equal(a.energy, b.energy)
        assert torch.equal(a.forces, b.forces)

    def test_coincident_atoms_are_refused(self, model):
        with pytest.raises(InvalidStructureError, match="Atoms 0 and 1"):
            model.predict(one([1, 1], [[0, 0, 0], [0, 0, 0.01]]))


class TestChargesAndLevels:
    @pytest.mark.parametrize("charge", [-2, 0, 1])
    def test_charges_sum_to_the_total(self, model, batch, charge):
        charged = replace(batch, charge=torch.tensor([float(charge)], dtype=torch.float64))
        found = model.predict(charged)
        assert float(found.charges.sum()) == pytest.approx(charge, abs=1e-10)
        assert found.charges.std() > 0.02

    def test_the_charge_changes_the_energy(self, model, batch):
        energies = {
            float(model.predict(replace(batch, charge=torch.tensor([q], dtype=torch.float64))).energy)
            for q in (-1.0, 0.0, 1.0)
        }
        assert len(energies) == 3

    def test_levels_have_their_own_readout_and_references(self, model, batch):
        a, b = (model.predict(batch, level=level) for level in model.levels)
        difference = b.energies - a.energies + 1.25  # the references differ by this
        assert difference.abs().max() > 1e-3
        assert (a.forces - b.forces).abs().max() > 1e-3
        torch.testing.assert_close(a.charges, b.charges)
        assert torch.equal(model.predict(batch).energy, a.energy)
        with pytest.raises(UnknownLevelError, match="B3LYP"):
            model.predict(batch, level="B3LYP")

    def test_a_level_refuses_elements_that_it_never_saw(self, model, batch):
        lacking = copy.deepcopy(model)
        lacking.references[1, model.elements.index(7)] = 0.0
        assert lacking.level_elements() == model.elements
        assert lacking.level_elements(model.levels[1]) == tuple(z for z in model.elements if z != 7)
        assert torch.equal(lacking.predict(batch).energy, model.predict(batch).energy)
        with pytest.raises(UnsupportedElementError, match=r"'B3LYP/6-31G\(2df,p\)' does not know N: .* 'wB97M-D3"):
            lacking.predict(batch, level=model.levels[1])
        water = StructureBatch.from_ase(molecule("H2O"))
        assert torch.isfinite(lacking.predict(water, level=model.levels[1]).energy).all()
        # Without any references the energies are those of interaction, for all elements.
        lacking.references[1] = 0.0
        assert lacking.level_elements(model.levels[1]) == model.elements
        assert torch.isfinite(lacking.predict(batch, level=model.levels[1]).energy).all()

    def test_energies_sum_to_the_energy(self, model, batch):
        found = model.predict(batch)
        assert float(found.energies.sum() - found.energy) == pytest.approx(0, abs=1e-9)
        assert found.energy.dtype == torch.float64


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_references_are_never_rounded(self, model, dtype):
        moved = copy.deepcopy(model).to(dtype=dtype)
        assert moved.dtype == dtype
        assert torch.equal(moved.references, model.references)
        assert torch.equal(moved.double().references, model.references)

    def test_positions_far_away_are_not_rounded(self, model, batch):
        single = copy.deepcopy(model).float()
        near, far = single.predict(batch), single.predict(batch.with_positions(batch.positions + 5000))
        torch.testing.assert_close(far.forces, near.forces, rtol=0, atol=1e-5)

    def test_the_default_dtype_does_not_change_the_function(self):
        config = ModelConfig(elements=(1, 6), levels=("a",), channels=(8, 4, 2), n_layers=1)
        first = ConsistentModel(config)
        torch.set_default_dtype(torch.float64)
        try:
            second = ConsistentModel(config)
        finally:
            torch.set_default_dtype(torch.float32)
        second.load_state_dict(first.state_dict())
        for (name, a), (_, b) in zip(first.double().named_buffers(), second.double().named_buffers(), strict=True):
            assert torch.equal(a, b), name


class TestDenoiser:
    sigma = torch.tensor([0.3], dtype=torch.float64)

    def test_motion_and_reflection(self, model, batch):
        torch.manual_seed(3)
        rotation = o3.rand_matrix(dtype=torch.float64)
        reference = model.denoise(batch, self.sigma)
        moved = model.denoise(batch.with_positions(batch.positions @ rotation.T + 3), self.sigma)
        torch.testing.assert_close(moved, reference @ rotation.T + 3, rtol=0, atol=1e-9)
        inverted = torch.where(batch.stereo.abs() == 1, -batch.stereo, batch.stereo)[:, 4:]
        flipped = replace(batch, positions=-batch.positions, stereo=torch.cat([batch.stereo[:, :4], inverted], dim=1))
        torch.testing.assert_close(model.denoise(flipped, self.sigma), -reference, rtol=0, atol=1e-9)

    def test_it_sees_chirality_and_double_bonds(self, model, batch):
        assert sorted(batch.stereo[:, 4].abs().tolist()) == [1, 2]
        reference = model.denoise(batch, self.sigma)
        for row in range(2):
            stereo = batch.stereo.clone()
            stereo[row, 4] *= -1
            assert (model.denoise(replace(batch, stereo=stereo), self.sigma) - reference).abs().max() > 1e-4

    def test_batch_equals_single(self, model, batch):
        sigmas = torch.tensor([0.1, 0.3, 2.0], dtype=torch.float64)
        together = model.denoise(StructureBatch.concatenate([batch] * 3), sigmas)
        alone = torch.cat([model.denoise(batch, sigma[None]) for sigma in sigmas])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)

    def test_gradients_reach_the_weights(self, model, batch):
        trainable = copy.deepcopy(model).requires_grad_(True)
        trainable.denoise(batch, self.sigma).square().sum().backward()
        without = [n for n, p in trainable.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        # The last layer's degrees above one, the readout of the energy and the charge (zero here) have none.
        assert all(n.startswith(("energy_head", "encoder")) for n in without)
        assert trainable.structure_head.displacement.weight.grad.abs().max() > 0

    def test_without_bonds_it_says_so(self, model, batch):
        with pytest.raises(InvalidStructureError, match="from_rdkit"):
            model.denoise(replace(batch, bonds=None, stereo=None), self.sigma)

    def test_coincident_atoms_are_survived(self, model, batch):
        positions = batch.positions.clone()
        positions[1] = positions[0]
        assert torch.isfinite(model.denoise(batch.with_positions(positions), self.sigma)).all()
