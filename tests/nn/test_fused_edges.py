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


def both(dtype: torch.dtype, size: int = 16) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    """Values, and the gradient of a random function of them, by the kernel and in torch."""
    basis = BesselBasis(size, CUTOFF).to(dtype)
    out = []
    for functions in (fused_edges.edge_functions, edges.edge_functions):
        leaf = vectors(dtype).requires_grad_()
        radial, harmonics = functions(leaf, basis, [1, 2])
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).to(dtype) for x in (radial, *harmonics)]
        total = sum((w * x).sum() for w, x in zip(weights, (radial, *harmonics), strict=True))
        (gradient,) = torch.autograd.grad(total, leaf)
        out.append((radial.detach(), [h.detach() for h in harmonics], gradient))
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    (radial, harmonics, gradient), (radial_0, harmonics_0, gradient_0) = both(dtype)
    assert radial.dtype == gradient.dtype == dtype
    torch.testing.assert_close(radial, radial_0, rtol=0, atol=tolerance)
    for found, expected in zip(harmonics, harmonics_0, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradient, gradient_0, rtol=0, atol=tolerance * float(gradient_0.abs().max()))
    beyond = vectors().norm(dim=1) >= CUTOFF
    assert (radial[beyond].abs() < tolerance).all()


def test_one_function_only() -> None:
    (radial, _, gradient), (radial_0, _, gradient_0) = both(torch.float64, size=1)
    torch.testing.assert_close(radial, radial_0)
    torch.testing.assert_close(gradient, gradient_0)


@pytest.mark.parametrize("degrees", [[1], [1, 2, 3]])
def test_other_degrees_go_through_torch(degrees: list[int]) -> None:
    _, harmonics = fused_edges.edge_functions(vectors(), BesselBasis(4, CUTOFF).double(), degrees)
    assert [h.shape[1] for h in harmonics] == [2 * degree + 1 for degree in degrees]


def test_no_edges_and_nan() -> None:
    basis = BesselBasis(4, CUTOFF).double()
    radial, harmonics = fused_edges.edge_functions(vectors()[:0], basis, [1, 2])
    assert radial.shape == (0, 4)
    assert harmonics[1].shape == (0, 5)
    broken = torch.full((1, 3), torch.nan, dtype=torch.float64)
    assert fused_edges.edge_functions(broken, basis, [1, 2])[0].isnan().all()
