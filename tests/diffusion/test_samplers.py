"""The sampler with a denoiser that is exact: that of a Gaussian of variance v around known structures.

Its probability flow has the solution ``x(0) = m + (x(s) - m) sqrt(v / (v + s^2))``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from consistent_calc.diffusion.noise import centered_noise, standard_normal
from consistent_calc.diffusion.prior import harmonic_positions
from consistent_calc.diffusion.samplers import from_noise, refine
from consistent_calc.losses.structure import align
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch


class Gaussian:
    """Exact denoiser; counts its evaluations."""

    prior_level = None

    def __init__(self, means, variance):
        self.means, self.variance, self.evaluations = means, variance, 0

    def denoise(self, batch, sigma):
        self.evaluations += 1
        weight = self.variance / (self.variance + sigma[batch.graph, None] ** 2)
        return self.means + weight * (batch.positions - self.means)


def chain(n, seed=0):
    positions = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return StructureBatch.from_arrays([6] * n, positions)


def test_a_sharp_distribution_is_hit():
    batch, means = chain(5), chain(5, seed=1).positions
    found = refine(Gaussian(means, 0.0), batch, sigma_start=0.3, n_steps=4, seeds=[7])
    torch.testing.assert_close(found, means)


def test_a_flat_distribution_changes_nothing():
    batch = chain(5)
    found = refine(Gaussian(batch.positions, 1e12), batch, sigma_start=0.3, n_steps=4, seeds=[7])
    torch.testing.assert_close(found, batch.positions + 0.3 * centered_noise(batch.graph, [7]))


def test_it_converges_to_the_exact_flow_with_second_order():
    batch, means, v, s = chain(6), chain(6, seed=1).positions, 0.04, 0.4
    start = batch.positions + s * centered_noise(batch.graph, [3])
    # The last step goes from the lowest level to zero, where the flow is exact only in the limit.
    low = 1e-3
    exact = means + (start - means) * (v / (v + s**2)) ** 0.5
    errors = []
    for n_steps in (8, 16, 32):
        found = refine(Gaussian(means, v), batch, sigma_start=s, n_steps=n_steps, seeds=[3], sigma_end=low)
        errors.append(float((found - exact).abs().max()))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_the_distribution_is_kept():
    v, n = 0.04, 4000
    generator = torch.Generator().manual_seed(0)
    clean = v**0.5 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    batch = StructureBatch.from_arrays([6] * n, clean)
    found = refine(Gaussian(torch.zeros_like(clean), v), batch, sigma_start=0.4, n_steps=16, seeds=[1])
    assert float(found.var()) == pytest.approx(v, rel=0.05)
    # From other seeds it still has the right width in the limit of strong noise.
    far = batch.with_positions(torch.full_like(clean, 0.1))
    found = refine(Gaussian(torch.zeros_like(clean), v), far, sigma_start=5.0, n_steps=32, seeds=[1])
    assert float(found.var()) == pytest.approx(v, rel=0.05)
    assert float(found.mean()) == pytest.approx(0.1 * v**0.5 / 5, abs=1e-3)


def test_evaluations():
    batch = chain(3)
    denoiser = Gaussian(batch.positions, 0.1)
    refine(denoiser, batch, sigma_start=0.3, n_steps=5, seeds=[0])
    assert denoiser.evaluations == 9


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_structure_that_breaks_the_network_does_not_take_the_others_along(at):
    batch, means = (StructureBatch.concatenate([chain(5, k), chain(4, k + 1)]) for k in (0, 3))

    class Breaking(Gaussian):
        def denoise(self, batch, sigma):
            assert batch.positions.isfinite().all()  # a neighbor search would refuse them
            found = super().denoise(batch, sigma)
            if self.evaluations == at:
                found[6, 1] = torch.nan
            return found

    options = {"sigma_start": 0.3, "n_steps": 4, "seeds": [7, 8]}
    found = refine(Breaking(means.positions, 0.01), batch, **options)
    whole = refine(Gaussian(means.positions, 0.01), batch, **options)
    assert found.isfinite().all()
    assert torch.equal(found[:5], whole[:5])
    assert not torch.allclose(found[5:], whole[5:])


def test_a_seed_gives_the_same_structure_in_any_batch(model, batch):
    options = {"sigma_start": 0.3, "n_steps": 2}
    alone = refine(model, batch, seeds=[5], **options)
    assert torch.equal(alone, refine(model, batch, seeds=[5], **options))
    shifted = batch.with_positions(batch.positions * 1.02)
    together = refine(model, StructureBatch.concatenate([shifted, batch, batch]), seeds=[1, 5, 6], **options)
    _, same, other = together.split(17)
    torch.testing.assert_close(same, alone, rtol=0, atol=1e-9)
    assert (other - alone).abs().max() > 0.1
    assert together.dtype == batch.positions.dtype
    assert not together.requires_grad


class TestFromNoise:
    def test_one_step_is_one_denoising(self):
        batch, means, v = chain(6), chain(6, seed=1).positions, 0.04
        denoiser = Gaussian(means, v)
        found = from_noise(denoiser, batch, n_steps=1, seeds=[3])
        noisy = 8.0 * centered_noise(batch.graph, [3])
        torch.testing.assert_close(found, means + v / (v + 64) * (noisy - means))
        assert denoiser.evaluations == 1

    def test_more_steps_follow_the_flow(self):
        batch, means, v = chain(6), chain(6, seed=1).positions, 0.04
        exact = means + (8.0 * centered_noise(batch.graph, [3]) - means) * (v / (v + 64)) ** 0.5
        denoiser = Gaussian(means, v)
        found = from_noise(denoiser, batch, n_steps=40, seeds=[3], sigma_end=1e-3)
        torch.testing.assert_close(found, exact, rtol=0, atol=0.01)
        assert (exact - means).abs().max() > 0.1
        assert denoiser.evaluations == 79

    def test_the_positions_given_are_not_used(self, model, batch):
        other = batch.with_positions(torch.zeros_like(batch.positions))
        options = {"n_steps": 2, "seeds": [5]}
        found = from_noise(model, batch, **options)
        assert torch.equal(found, from_noise(model, other, **options))
        assert not found.requires_grad
        assert torch.isfinite(found).all()


class KnowsThePrior:
    """Knows the clean structures: from a sample of the prior it is off by ``error``, from Gaussian noise exact."""

    prior_level = 3.0

    def __init__(self, clean, error=0.5):
        self.clean, self.error, self.seen = clean, error, []

    def denoise(self, batch, sigma):
        self.seen.append((sigma.tolist(), batch.positions))
        found = align(self.clean.positions, batch.positions, batch.graph, batch.n_graphs)
        return found + self.error * (sigma == self.prior_level)[batch.graph, None]


class TestFromThePrior:
    @pytest.fixture
    def pair(self, batch):
        """Two molecules whose positions are unknown, and the clean ones."""
        clean = StructureBatch.concatenate([batch, batch.with_positions(batch.positions * 1.01)])
        return clean.with_positions(torch.zeros_like(clean.positions)), clean

    def test_one_step_is_one_denoising_of_a_sample(self, pair):
        unknown, clean = pair
        denoiser = KnowsThePrior(clean)
        found = from_noise(denoiser, unknown, n_steps=1, seeds=[5, 6])
        ((sigma, sample),) = denoiser.seen
        assert sigma == [3.0, 3.0]
        assert torch.equal(sample, harmonic_positions(unknown, standard_normal(unknown.graph, [5, 6], draw=1)))
        aligned = align(clean.positions, sample, clean.graph, 2)
        torch.testing.assert_close(found, aligned + 0.5)

    def test_more_steps_refine_it_to_the_clean_structure(self, pair):
        unknown, clean = pair
        denoiser = KnowsThePrior(clean)
        found = from_noise(denoiser, unknown, n_steps=6, seeds=[5, 6], sigma_max=2.0)
        moved = align(found, clean.positions, clean.graph, 2)
        torch.testing.assert_close(moved, clean.positions, rtol=0, atol=1e-6)
        levels = [sigma[0] for sigma, _ in denoiser.seen]
        assert levels[:2] == [3.0, 2.0]
        assert len(levels) == 1 + 2 * 5 - 1
        assert max(levels[2:]) < 2.0
        # The first estimate is noised by numbers of its own, not by those of the prior.
        first = align(clean.positions, denoiser.seen[0][1], clean.graph, 2) + 0.5
        added = (denoiser.seen[1][1] - first) / 2.0
        torch.testing.assert_close(added, centered_noise(clean.graph, [5, 6]))

    def test_a_seed_gives_the_same_structure_in_any_batch(self, batch):
        # Exact up to rounding: what else is in the batch decides how the matrices are filled up.
        alone = from_noise(KnowsThePrior(batch), batch, n_steps=4, seeds=[5])
        larger = StructureBatch.from_arrays([6] * 30, torch.zeros(30, 3), bonds=[(k, k + 1, 2) for k in range(29)])
        both = StructureBatch.concatenate([larger, batch, batch])
        _, same, other = from_noise(KnowsThePrior(both), both, n_steps=4, seeds=[1, 5, 6]).split([30, 17, 17])
        torch.testing.assert_close(same, alone, rtol=0, atol=1e-9)
        assert (other - alone).abs().max() > 0.1

    def test_a_network_takes_it(self, model, batch):
        knowing = ConsistentModel(replace(model.config, prior_level=3.0)).double()
        knowing.load_state_dict(model.state_dict())
        found = from_noise(knowing, batch, n_steps=2, seeds=[5])
        assert torch.isfinite(found).all()
        assert not found.requires_grad
        assert not torch.equal(found, from_noise(model, batch, n_steps=2, seeds=[5]))
