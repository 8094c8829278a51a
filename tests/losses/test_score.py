"""Score consistency in a harmonic well, where everything is known.

``E = k x^2 / 2`` at temperature T has a Gaussian density of variance ``v = kT / k``; noised by s, its perfect denoiser
is ``D(x, s) = x v / (v + s^2)`` and its score ``-x / (v + s^2)``.
"""

from __future__ import annotations

import pytest
import torch

from consistent_calc.losses.score import score, score_force_loss, target_score_loss

K, KT = 4.0, 0.5
V = KT / K
N = 20000
GRAPH = torch.zeros(N, dtype=torch.int64)


@pytest.fixture
def samples():
    """Clean Boltzmann samples and standard normal noise, ``[N, 3]``."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, N, 3, generator=generator, dtype=torch.float64)
    return V**0.5 * clean, noise


def denoiser(x, s):
    return x * V / (V + s**2)


def forces(x):
    return -K * x


def level(s):
    return torch.tensor([s], dtype=torch.float64)


def test_tweedie(samples):
    x, s = samples[0], 0.3
    torch.testing.assert_close(score(denoiser(x, s), x, level(s), GRAPH), -x / (V + s**2))


def test_each_structure_has_its_noise():
    graph, x = torch.tensor([0, 1, 1]), torch.ones(3, 3)
    found = score(torch.zeros(3, 3), x, torch.tensor([1.0, 2.0]), graph)
    assert found[:, 0].tolist() == [-1, -0.25, -0.25]


def test_score_force_loss_vanishes_with_the_noise(samples):
    clean, noise = samples
    losses = []
    for s in (0.1, 0.05, 0.025):
        x = clean + s * noise
        found = float(score_force_loss(denoiser(x, s), x, level(s), forces(x), KT, GRAPH))
        exact = s**2 * x.square().sum(1).mean() * (1 / V - 1 / (V + s**2)) ** 2
        assert found == pytest.approx(float(exact), rel=1e-9)
        losses.append(found)
    # s^2 times the square of a difference of order s^2.
    assert losses[0] / losses[1] == pytest.approx(64, rel=0.3)
    assert losses[1] / losses[2] == pytest.approx(64, rel=0.1)


def test_score_force_loss_knows_sign_and_temperature(samples):
    clean, noise = samples
    s = 0.05
    x = clean + s * noise
    right = score_force_loss(denoiser(x, s), x, level(s), forces(x), KT, GRAPH)
    for wrong_force, wrong_temperature in ((-1, 1), (1, 2), (1, 0.5), (2, 1)):
        wrong = score_force_loss(denoiser(x, s), x, level(s), wrong_force * forces(x), wrong_temperature * KT, GRAPH)
        assert wrong > 30 * right


def test_no_gradient_flows_into_the_forces(samples):
    x = samples[0].clone().requires_grad_()
    f = forces(x)
    d = (0.5 * x.detach()).requires_grad_()
    score_force_loss(d, x.detach(), level(0.1), f, KT, GRAPH).backward()
    assert x.grad is None
    assert d.grad.abs().max() > 0


@pytest.mark.parametrize("s", [0.1, 0.35, 1.0])
def test_the_exact_denoiser_minimises_the_target_score_loss(samples, s):
    clean, noise = samples
    x = clean + s * noise
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    slopes = []
    for value in (0.2, 0.8):
        factor.data.fill_(value)
        loss = target_score_loss(factor * x, x, level(s), forces(clean), KT, GRAPH)
        slopes.append(float(torch.autograd.grad(loss, factor)[0]))
    # The loss is a parabola of the factor: its slope is linear and vanishes at the best factor.
    best = 0.2 - 0.6 * slopes[0] / (slopes[1] - slopes[0])
    assert best == pytest.approx(V / (V + s**2), abs=0.02)
