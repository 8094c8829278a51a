"""Alignment and denoising."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from consistent_calc.losses.structure import align, denoising_loss


@pytest.fixture
def normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def distances(x):
    return torch.cdist(x, x)


class TestAlign:
    def test_known_motions_are_recovered(self, normal):
        torch.manual_seed(1)
        graph = torch.tensor([0] * 7 + [1] * 5)
        target = normal(12, 3)
        rotations = o3.rand_matrix(2, dtype=torch.float64)
        mobile = torch.einsum("nij,nj->ni", rotations[graph], target) + normal(2, 3)[graph] * 10
        torch.testing.assert_close(align(mobile, target, graph, 2), target)

    def test_it_never_reflects(self, normal):
        graph = torch.zeros(4, dtype=torch.int64)
        target = normal(4, 3)
        moved = align(-target, target, graph, 1)
        torch.testing.assert_close(distances(moved), distances(target))

        def volume(x):
            return torch.linalg.det(x[1:] - x[0])

        assert torch.sign(volume(moved)) == torch.sign(volume(-target)) != torch.sign(volume(target))

    @pytest.mark.parametrize("shape", ["planar", "linear", "point", "atom"])
    def test_flat_structures(self, normal, shape):
        n, kept = {"planar": (5, 2), "linear": (4, 1), "point": (3, 0), "atom": (1, 3)}[shape]
        target = normal(n, 3) * (torch.arange(3) < kept) + 4
        rotation = o3.rand_matrix(dtype=torch.float64)
        moved = align(target @ rotation.T - 7, target, torch.zeros(n, dtype=torch.int64), 1)
        torch.testing.assert_close(moved, target)

    def test_it_is_the_best_rotation(self, normal):
        graph = torch.zeros(6, dtype=torch.int64)
        mobile, target = normal(6, 3), normal(6, 3)
        best = (align(mobile, target, graph, 1) - target).square().sum()
        centered, center = mobile - mobile.mean(0), target.mean(0)
        for rotation in o3.rand_matrix(200, dtype=torch.float64):
            assert (centered @ rotation.T + center - target).square().sum() >= best - 1e-12

    def test_gradients_are_finite_for_symmetric_structures(self):
        square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]], requires_grad=True)
        moved = align(square, square.detach() + 1, torch.zeros(4, dtype=torch.int64), 1)
        (gradient,) = torch.autograd.grad((moved * torch.arange(12.0).view(4, 3)).sum(), square)
        assert torch.isfinite(gradient).all()


class TestDenoisingLoss:
    def test_identity_scores_three(self, normal):
        graph = torch.arange(200).repeat_interleave(100)
        sigma = normal(200).exp()
        clean = normal(20000, 3)
        noisy = clean + sigma[graph, None] * normal(20000, 3)
        assert float(denoising_loss(noisy, clean, sigma, graph)) == pytest.approx(3, rel=0.03)
        assert denoising_loss(clean, clean, sigma, graph) == 0

    def test_every_noise_level_counts_alike(self):
        clean = torch.zeros(2, 3)
        sigma = torch.tensor([0.1, 2.0])
        denoised = sigma[:, None] * torch.tensor([[1.0, 0, 0]])
        assert float(denoising_loss(denoised, clean, sigma, torch.tensor([0, 1]))) == pytest.approx(1)
