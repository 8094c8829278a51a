"""Optimality consistency on surfaces known by formula, and on the model."""

from __future__ import annotations

import copy

import pytest
import torch
from e3nn import o3
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc import StructureBatch
from consistent_calc.losses.optimality import comparison_loss, gap_loss, nearby_minimum, slope_loss
from consistent_calc.model_hessian import model_hessian
from consistent_calc.neighbors import neighbor_list

K = 5.0


def quadratic(positions):
    """One structure; minimum at the origin."""
    return 0.5 * K * positions.square().sum()[None]


def double_well(positions):
    """Minima at x = -1 and 1, a saddle at x = 0."""
    return ((positions[:, 0] ** 2 - 1) ** 2).sum()[None]


def at(*rows):
    return torch.tensor(rows, dtype=torch.float64)


class TestQuadraticWell:
    def test_comparison(self):
        d = at([0.1, 0, 0])
        assert comparison_loss(quadratic, at([0, 0, 0]), d) == 0
        # E(R) - E(R + d) = -k (R.d + d.d / 2)
        assert float(comparison_loss(quadratic, at([-1, 0, 0]), d)) == pytest.approx(K * (0.1 - 0.005))
        assert comparison_loss(quadratic, at([1, 0, 0]), d) == 0
        assert float(comparison_loss(quadratic, at([1, 0, 0]), -d)) == pytest.approx(K * (0.1 - 0.005))

    def test_gap(self):
        predicted = at([1, 2, 0]).requires_grad_()
        loss = gap_loss(quadratic, predicted, at([0, 0, 1]))
        assert float(loss.detach()) == pytest.approx(0.5 * K * (5 - 1))
        (gradient,) = torch.autograd.grad(loss, predicted)
        torch.testing.assert_close(gradient, K * predicted.detach())

    def test_slope(self):
        predicted = at([3, 4, 0], [0, 0, 0]).requires_grad_()
        loss = slope_loss(quadratic, predicted)
        assert float(loss.detach()) == pytest.approx(K * 5 / 2, rel=1e-6)
        (gradient,) = torch.autograd.grad(loss, predicted)
        torch.testing.assert_close(gradient, at([K * 0.6 / 2, K * 0.8 / 2, 0], [0, 0, 0]))
        # Without a graph it is a mere number, as the evaluation needs it.
        assert float(slope_loss(quadratic, at([3, 4, 0])).detach()) == pytest.approx(K * 5)

    def test_descent_on_each_of_them_finds_the_minimum(self):
        torch.manual_seed(0)
        for name in ("comparison", "gap", "slope"):
            x = at([0.4, -0.3, 0.2]).requires_grad_()
            for _ in range(400):
                loss = {
                    "comparison": lambda x=x: comparison_loss(quadratic, x, 0.1 * torch.randn(1, 3).double()),
                    "gap": lambda x=x: gap_loss(quadratic, x, at([0, 0, 0])),
                    "slope": lambda x=x: slope_loss(quadratic, x),
                }[name]()
                (gradient,) = torch.autograd.grad(loss, x)
                x.data -= {"comparison": 0.2, "gap": 0.02, "slope": 0.002}[name] * gradient
            assert x.norm() < 0.1, name


class TestDoubleWell:
    def test_only_the_comparison_tells_a_saddle_from_a_minimum(self):
        d = at([0.1, 0, 0])
        for minimum in (-1, 1):
            for sign in (1, -1):
                assert comparison_loss(double_well, at([minimum, 0, 0]), sign * d) == 0
            assert float(slope_loss(double_well, at([minimum, 0, 0])).detach()) < 1e-5
        saddle = at([0, 0, 0])
        assert float(slope_loss(double_well, saddle).detach()) < 1e-5
        assert float(comparison_loss(double_well, saddle, d)) == pytest.approx(1 - 0.99**2)
        assert float(gap_loss(double_well, saddle, at([1, 0, 0]))) == pytest.approx(1)


class TestGradients:
    def test_they_reach_the_structure_only(self, model, batch):
        trained, frozen = copy.deepcopy(model).requires_grad_(True), model
        sigma = torch.tensor([0.1], dtype=torch.float64)

        def energy(positions):
            moved = batch.with_positions(positions)
            neighbors = neighbor_list(moved, frozen.cutoff)
            energies, _ = frozen.atomic(
                neighbors.vectors(moved),
                frozen.element_indices(moved),
                neighbors.edges,
                moved.graph,
                moved.charge,
                torch.zeros_like(moved.counts),
            )
            return torch.zeros_like(moved.charge).index_add(0, moved.graph, energies)

        predicted = trained.denoise(batch, sigma)
        (uphill,) = torch.autograd.grad(energy(predicted).sum(), predicted, retain_graph=True)
        displacement = -1e-3 * uphill
        for loss in (
            comparison_loss(energy, predicted, displacement),
            gap_loss(energy, predicted, batch.positions),
            slope_loss(energy, predicted),
        ):
            trained.zero_grad()
            loss.backward(retain_graph=True)
            assert trained.structure_head.displacement.weight.grad.abs().max() > 0
            assert trained.energy_head.readout.weight.grad is None
            assert all(p.grad is None for p in frozen.parameters())


class TestNearbyMinimum:
    """A Newton step with a model Hessian."""

    @pytest.fixture
    def structures(self):
        mols = []
        for smiles in ("CCO", "O", "CC=O"):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            EmbedMolecule(mol, randomSeed=1)
            mols.append(mol)
        return StructureBatch.from_rdkit(mols)

    @pytest.fixture
    def forces(self, structures):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(structures.positions.shape, generator=generator, dtype=torch.float64)

    def test_a_minimum_stays(self, structures):
        moved = nearby_minimum(structures, torch.zeros_like(structures.positions), 0.2)
        assert torch.equal(moved, structures.positions)

    def test_it_solves_for_the_model_hessian(self, structures):
        one = structures[0]
        step = 0.01 * torch.randn(one.positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        hessian = model_hessian(one.numbers[None], one.positions[None])[0]
        forces = (hessian @ step.reshape(-1)).view(-1, 3)
        torch.testing.assert_close(nearby_minimum(one, forces, 1.0), one.positions + step)

    def test_it_goes_downhill(self, structures, forces):
        step = nearby_minimum(structures, forces, 0.2) - structures.positions
        assert (torch.zeros(3).double().index_add(0, structures.graph, (step * forces).sum(1)) > 0).all()

    def test_no_atom_moves_too_far_and_the_direction_is_kept(self, structures, forces):
        free = nearby_minimum(structures, forces, 100.0) - structures.positions
        bound = nearby_minimum(structures, forces, 0.02) - structures.positions
        for k in range(structures.n_graphs):
            a, b = free[structures.graph == k], bound[structures.graph == k]
            assert float(b.norm(dim=1).max()) == pytest.approx(0.02)
            torch.testing.assert_close(b / b.norm(), a / a.norm())

    def test_each_structure_gets_the_step_it_would_get_alone(self, structures, forces):
        together = nearby_minimum(structures, forces, 0.2)
        for k in range(structures.n_graphs):
            mine = structures.graph == k
            torch.testing.assert_close(nearby_minimum(structures[k], forces[mine], 0.2), together[mine])

    def test_it_rotates_with_the_molecule(self, structures, forces):
        torch.manual_seed(0)
        rotation = o3.rand_matrix(dtype=torch.float64)
        turned = structures.with_positions(structures.positions @ rotation.T)
        expected = nearby_minimum(structures, forces, 0.2) @ rotation.T
        # The Hessian is not quite invariant: the second plane of a bend is chosen with the help of a fixed axis.
        torch.testing.assert_close(nearby_minimum(turned, forces @ rotation.T, 0.2), expected, atol=1e-3, rtol=0)

    def test_float32_structures_and_no_gradient(self, structures, forces):
        moved = nearby_minimum(structures.to(dtype=torch.float32), forces.float().requires_grad_(), 0.2)
        assert moved.dtype == torch.float32
        assert not moved.requires_grad
        torch.testing.assert_close(moved.double(), nearby_minimum(structures, forces, 0.2), atol=1e-4, rtol=0)
