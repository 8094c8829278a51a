"""Noise levels, random numbers and the wrapping of the network."""

from __future__ import annotations

import copy

import pytest
import torch

from consistent_calc.diffusion.noise import centered_noise, sampling_levels, standard_normal, training_levels
from consistent_calc.diffusion.preconditioning import Preconditioning
from consistent_calc.structures import StructureBatch


def test_training_levels():
    draw = {"median": 0.3, "spread": 1.2, "low": 0.02, "high": 5.0}
    levels = training_levels(20000, torch.Generator().manual_seed(0), **draw)
    assert float(levels.median()) == pytest.approx(0.3, rel=0.03)
    inside = levels[(levels > 0.02) & (levels < 5)].log()
    assert float(inside.std()) == pytest.approx(1.2, rel=0.1)
    assert levels.min() == pytest.approx(0.02)
    assert levels.max() <= 5
    assert torch.equal(levels, training_levels(20000, torch.Generator().manual_seed(0), **draw))


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_sampling_levels(rho):
    levels = sampling_levels(0.3, 0.02, 8, rho)
    assert levels.shape == (9,)
    assert levels[0] == pytest.approx(0.3)
    assert levels[7] == pytest.approx(0.02)
    assert levels[8] == 0
    assert (levels.diff() < 0).all()
    roots = levels[:8] ** (1 / rho)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(7))


def test_a_single_step_starts_at_the_top():
    assert sampling_levels(0.3, 0.02, 1).tolist() == pytest.approx([0.3, 0])


class TestCenteredNoise:
    graph = torch.tensor([0] * 5 + [1] * 300 + [2] * 5 + [3])

    def test_it_is_normal_and_centred(self):
        noise = centered_noise(self.graph, [1, 2, 3, 4])
        assert noise.dtype == torch.float64
        for part in noise.split([5, 300, 5, 1]):
            torch.testing.assert_close(part.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-14)
        assert float(noise[5:305].std()) == pytest.approx(1, abs=0.1)
        assert (noise[310] == 0).all()

    def test_it_does_not_depend_on_the_batch(self):
        together = centered_noise(self.graph, [1, 2, 1, 4])
        assert torch.equal(together[:5], together[305:310])
        assert torch.equal(together[:5], centered_noise(torch.zeros(5, dtype=torch.int64), [1]))
        assert not torch.equal(together[:5], centered_noise(torch.zeros(5, dtype=torch.int64), [2]))

    def test_the_draws_of_a_seed_are_independent(self):
        first, second = (standard_normal(self.graph, [1, 2, 1, 4], draw) for draw in range(2))
        assert torch.equal(second[:5], second[305:310])
        assert abs(float((first * second)[5:305].mean())) < 0.1
        assert abs(float(second[5:305].mean())) < 0.1
        assert float(second[5:305].std()) == pytest.approx(1, abs=0.1)
        torch.testing.assert_close(centered_noise(self.graph, [1, 2, 1, 4])[:5], first[:5] - first[:5].mean(0))

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        centered_noise(self.graph, [1, 2, 3, 4])
        assert torch.equal(torch.get_rng_state(), before)

    def test_one_seed_a_structure(self):
        with pytest.raises(ValueError, match=r"zip|argument"):
            centered_noise(self.graph, [1, 2])


class TestPreconditioning:
    wrap = Preconditioning(scale=1.5)
    sigma = torch.tensor([1e-4, 0.3, 1.5, 8.0, 100.0], dtype=torch.float64)

    def test_input(self):
        assert self.wrap.c_in(self.sigma[[0, 2, 4]]).tolist() == pytest.approx([1, 0.5**0.5, 0.015], rel=1e-3)
        # Noised data of any width come out with at most about the scale.
        assert (self.wrap.c_in(self.sigma) * self.sigma <= 1.5).all()
        torch.testing.assert_close(self.wrap.c_noise(self.sigma).exp() ** 4, self.sigma)

    def test_low_noise_keeps_the_input_and_high_noise_forgets_it(self):
        low, high = self.sigma[:2], self.sigma[3:]
        torch.testing.assert_close(self.wrap.c_skip(low), torch.ones_like(low), rtol=0, atol=1e-4)
        torch.testing.assert_close(self.wrap.c_out(low), low, rtol=1e-3, atol=0)
        assert self.wrap.c_skip(self.sigma[2]) == 0.5
        # What is left of the noise is far below the size of the molecule.
        assert (self.wrap.c_skip(high) * high < 1e-3).all()
        torch.testing.assert_close(self.wrap.c_out(high), torch.full_like(high, 1.5), rtol=1e-3, atol=0)
        assert (self.wrap.c_skip(self.sigma).diff() < 0).all()

    def test_the_network_has_a_target_of_unit_variance(self):
        generator = torch.Generator().manual_seed(0)
        clean, noise = torch.randn(2, 20000, generator=generator, dtype=torch.float64)
        clean = 1.5 * clean
        for sigma in self.sigma:
            target = (clean - self.wrap.c_skip(sigma) * (clean + sigma * noise)) / self.wrap.c_out(sigma)
            assert float(target.var()) == pytest.approx(1, rel=0.03)


class TestDenoiser:
    def test_little_noise_changes_little(self, model, batch):
        for sigma in (1e-2, 1e-4, 1e-6):
            moved = model.denoise(batch, torch.tensor([sigma], dtype=torch.float64)) - batch.positions
            assert moved.abs().max() < 10 * sigma

    def test_without_its_network_it_shrinks_around_the_centre(self, model, batch):
        still = copy.deepcopy(model)
        still.structure_head.displacement.weight.zero_()
        two = StructureBatch.concatenate([batch.with_positions(batch.positions + 50), batch])
        sigma = torch.tensor([1.5, 1e-3], dtype=torch.float64)
        found, untouched = still.denoise(two, sigma).split(17)
        assert torch.equal(untouched, batch.positions)
        center = batch.positions.mean(0) + 50
        torch.testing.assert_close(found, center + 0.5 * (batch.positions - batch.positions.mean(0)))

    @pytest.mark.parametrize("sigma", [0.1, 1.0, 8.0])
    def test_it_moves_with_the_molecule(self, model, batch, sigma):
        levels = torch.tensor([sigma], dtype=torch.float64)
        shift = torch.tensor([20.0, -7.0, 3.0], dtype=torch.float64)
        moved = model.denoise(batch.with_positions(batch.positions + shift), levels)
        torch.testing.assert_close(moved, model.denoise(batch, levels) + shift, rtol=0, atol=1e-9)
