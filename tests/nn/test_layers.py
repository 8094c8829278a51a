"""Radial functions, layers and heads on their own."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3

from consistent_calc.nn.energy_head import EnergyHead
from consistent_calc.nn.layers import Message, Update, norm
from consistent_calc.nn.radial import BesselBasis, polynomial_cutoff

CHANNELS = (6, 4, 3)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 6), (5, 3, 4), (5, 5, 3)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def rotated(features, rotation):
    out = [features[0]]
    for degree in (1, 2):
        d = o3.Irrep(degree, (-1) ** degree).D_from_matrix(rotation)
        out.append(torch.einsum("ij,njc->nic", d, features[degree]))
    return out


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        # e3nn's D matrices are good to 1e-7.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class TestRadial:
    def test_envelope(self):
        x = torch.tensor([0.0, 5.0, 7.0], dtype=torch.float64)
        assert polynomial_cutoff(x, 5.0).tolist() == pytest.approx([1, 0, 0], abs=1e-14)

    def test_two_derivatives_vanish_at_the_cutoff(self):
        x = torch.tensor([5.0 - 1e-9], dtype=torch.float64, requires_grad=True)
        value = polynomial_cutoff(x, 5.0)
        for _ in range(2):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            assert float(value.detach()) == pytest.approx(0, abs=1e-6)

    def test_envelope_decreases(self):
        values = polynomial_cutoff(torch.linspace(0, 5, 500, dtype=torch.float64), 5.0)
        assert (values.diff() <= 0).all()

    def test_bessel_functions(self):
        basis = BesselBasis(4, 5.0).double()
        d = torch.tensor([1.3], dtype=torch.float64)
        x = d.item() / 5.0
        envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8  # equation 8 of the source for p = 6
        expected = [math.sqrt(2 / 5) * math.sin(n * math.pi * x) / d.item() * envelope for n in range(1, 5)]
        assert basis(d)[0].tolist() == pytest.approx(expected, rel=1e-6)
        assert (basis(torch.tensor([5.0, 6.0], dtype=torch.float64)) == 0).all()


class TestLayers:
    @pytest.mark.parametrize("improper", [False, True])
    def test_they_are_equivariant(self, features, improper):
        torch.manual_seed(1)
        message, update = Message(CHANNELS, 7, 20.0).double(), Update(CHANNELS).double()
        rotation = o3.rand_matrix(dtype=torch.float64) * (-1 if improper else 1)
        edges = torch.tensor([[0, 0, 1, 2, 4], [1, 3, 0, 4, 2]])
        radial, vectors = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

        def both(x, v):
            harmonics = [
                o3.spherical_harmonics(degree, v, normalize=True, normalization="component") for degree in (1, 2)
            ]
            return message(x, edges, radial, harmonics), update(x)

        before = both(features, vectors)
        after = both(rotated(features, rotation), vectors @ rotation.T)
        for a, b in zip(after, before, strict=True):
            assert_same(a, rotated(b, rotation))

    def test_an_atom_without_neighbors_receives_nothing(self, features):
        message = Message(CHANNELS, 7, 20.0).double()
        none = torch.empty(2, 0, dtype=torch.int64)
        harmonics = [torch.empty(0, 2 * degree + 1, dtype=torch.float64) for degree in (1, 2)]
        received = message(features, none, torch.empty(0, 7, dtype=torch.float64), harmonics)
        assert all((x == 0).all() for x in received)

    def test_messages_vanish_with_the_radial_functions(self, features):
        message = Message(CHANNELS, 7, 20.0).double()
        edges = torch.tensor([[0, 1], [1, 0]])
        harmonics = [torch.ones(2, 2 * degree + 1, dtype=torch.float64) for degree in (1, 2)]
        received = message(features, edges, torch.zeros(2, 7, dtype=torch.float64), harmonics)
        assert all((x == 0).all() for x in received)

    def test_norm_is_smooth_at_zero(self):
        x = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
        assert (norm(x) == 0).all()
        (gradient,) = torch.autograd.grad(norm(x).sum(), x)
        assert (gradient == 0).all()
        large = torch.full((1, 3, 1), 10.0, dtype=torch.float64)
        assert float(norm(large).detach()) == pytest.approx(math.sqrt(300) - 0.01, abs=1e-4)


class TestEnergyHead:
    def test_charges_and_levels(self):
        torch.manual_seed(0)
        head = EnergyHead(8, 3).double()
        scalars = torch.randn(5, 8, dtype=torch.float64)
        graph, charge = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([-1.0, 2.0], dtype=torch.float64)
        levels = torch.tensor([2, 0])
        energies, charges = head(scalars, graph, charge, levels)
        sums = torch.zeros(2, dtype=torch.float64).index_add(0, graph, charges)
        torch.testing.assert_close(sums, charge)
        second, _ = head(scalars, graph, charge, torch.tensor([2, 1]))
        assert torch.equal(second[:3], energies[:3])
        assert not torch.equal(second[3:], energies[3:])
