"""Noise levels and random numbers."""

from __future__ import annotations

import pytest
import torch

from consistent_calc.diffusion.noise import centered_noise, sampling_levels, training_levels
from consistent_calc.diffusion.preconditioning import Preconditioning


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

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        centered_noise(self.graph, [1, 2, 3, 4])
        assert torch.equal(torch.get_rng_state(), before)

    def test_one_seed_a_structure(self):
        with pytest.raises(ValueError, match=r"zip|argument"):
            centered_noise(self.graph, [1, 2])


def test_preconditioning():
    wrap = Preconditioning(scale=1.5)
    sigma = torch.tensor([1e-4, 1.5, 100.0], dtype=torch.float64)
    assert wrap.c_in(sigma).tolist() == pytest.approx([1, 0.5**0.5, 0.015], rel=1e-3)
    # Noised data of any width come out with at most about the scale.
    assert (wrap.c_in(sigma) * sigma <= 1.5).all()
    assert torch.equal(wrap.c_out(sigma), sigma)
    torch.testing.assert_close(wrap.c_noise(sigma).exp() ** 4, sigma)
