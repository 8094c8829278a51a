"""Radial functions and harmonics of the CPU kernel against those of torch and e3nn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from consistent_calc.nn import edges, fused_edges
from consistent_calc.nn.radial import BesselBasis

CUTOFF = 5.0


def vectors(dtype: torch.dtype = torch.float64) -> Tensor:
    """Random ones from 0.2 Angstrom to beyond the cutoff, along axes, and at the cutoff exactly."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator, dtype=torch.float64), dim=1)
    lengths = torch.linspace(0.2, 6.0, 60, dtype=torch.float64)[:, None]
    axes = torch.eye(3, dtype=torch.float64) * torch.tensor([[1.0], [-2.5], [CUTOFF]], dtype=torch.float64)
    return torch.cat([directions * lengths, axes]).to(dtype)


def both(dtype: torch.dtype, size: int = 16, degrees: list[int] | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Values, and the gradient of a random function of them, by the kernel and in torch."""
    degrees = degrees or [1, 2]
    basis = BesselBasis(size, CUTOFF).to(dtype)
    radial, harmonics = fused_edges.edge_functions(vectors(dtype), basis, degrees)
    generator = torch.Generator().manual_seed(1)
    on_radial = torch.randn(radial.shape, generator=generator).to(dtype)
    on_harmonics = torch.randn(len(radial), sum(2 * k + 1 for k in degrees), generator=generator).to(dtype)
    gradient = fused_edges.edge_functions_backward(vectors(dtype), basis, degrees, on_radial, on_harmonics)
    leaf = vectors(dtype).requires_grad_()
    radial_0, parts = edges.edge_functions(leaf, basis, degrees)
    harmonics_0 = torch.cat(parts, dim=1)
    total = (radial_0 * on_radial).sum() + (harmonics_0 * on_harmonics).sum()
    (gradient_0,) = torch.autograd.grad(total, leaf)
    return [(radial, torch.cat(harmonics, dim=1), gradient), (radial_0.detach(), harmonics_0.detach(), gradient_0)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    (radial, harmonics, gradient), (radial_0, harmonics_0, gradient_0) = both(dtype)
    assert radial.dtype == gradient.dtype == dtype
    torch.testing.assert_close(radial, radial_0, rtol=0, atol=tolerance)
    torch.testing.assert_close(harmonics, harmonics_0, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradient, gradient_0, rtol=0, atol=tolerance * float(gradient_0.abs().max()))
    beyond = vectors().norm(dim=1) >= CUTOFF
    assert (radial[beyond].abs() < tolerance).all()


def test_one_function_only() -> None:
    (radial, _, gradient), (radial_0, _, gradient_0) = both(torch.float64, size=1)
    torch.testing.assert_close(radial, radial_0)
    torch.testing.assert_close(gradient, gradient_0)


@pytest.mark.parametrize("degrees", [[1], [1, 2, 3]])
def test_other_degrees_go_through_torch(degrees: list[int]) -> None:
    found, expected = both(torch.float64, size=4, degrees=degrees)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_no_edges_and_nan() -> None:
    basis = BesselBasis(4, CUTOFF).double()
    radial, harmonics = fused_edges.edge_functions(vectors()[:0], basis, [1, 2])
    assert radial.shape == (0, 4)
    assert harmonics[1].shape == (0, 5)
    broken = torch.full((1, 3), torch.nan, dtype=torch.float64)
    assert fused_edges.edge_functions(broken, basis, [1, 2])[0].isnan().all()
