"""Denoising: the structure head must find the clean structure under the noise."""

from __future__ import annotations

import torch
from torch import Tensor


def align(mobile: Tensor, target: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
    """Moves and rotates (never reflects) each structure of ``mobile`` onto ``target`` by least squares.

    Kabsch's algorithm with the determinant correction (Kabsch 1976; Umeyama 1991).

    Args:
        mobile, target: ``[n_atoms, 3]``, Angstrom.
        graph: int64 ``[n_atoms]``.
        n_graphs: number of structures.

    Returns:
        ``[n_atoms, 3]``, the moved ``mobile``; no gradient flows through the rotation.
    """
    counts = torch.bincount(graph, minlength=n_graphs).clamp_min(1).to(mobile.dtype)[:, None]
    mobile_center = mobile.new_zeros(n_graphs, 3).index_add(0, graph, mobile) / counts
    target_center = target.new_zeros(n_graphs, 3).index_add(0, graph, target) / counts
    a, b = mobile - mobile_center[graph], target - target_center[graph]
    with torch.no_grad():
        products = a.double()[:, :, None] * b.double()[:, None, :]
        covariance = products.new_zeros(n_graphs, 3, 3).index_add(0, graph, products)
        u, _, vt = torch.linalg.svd(covariance)
        handedness = torch.linalg.det(u @ vt)
        u = torch.cat([u[:, :, :2], u[:, :, 2:] * handedness[:, None, None]], dim=2)
        rotation = (u @ vt).to(mobile.dtype)
    return (a[:, None, :] @ rotation[graph])[:, 0] + target_center[graph]


def denoising_loss(denoised: Tensor, clean: Tensor, scale: Tensor, graph: Tensor) -> Tensor:
    """``mean |D(x, s) - x_0|^2 / c_out(s)^2`` over atoms, after aligning ``x_0``: the EDM loss.

    Args:
        denoised: ``[n_atoms, 3]``, the denoiser's estimate, Angstrom.
        clean: ``[n_atoms, 3]``, already aligned to the noisy input, Angstrom.
        scale: ``[n_graphs]``, ``c_out`` of the noise level, Angstrom; it is the noise level where that is low.
        graph: int64 ``[n_atoms]``.

    Returns:
        Scalar, dimensionless; a denoiser that returns its input scores 3 at low noise.
    """
    scaled = (denoised - clean) / scale[graph, None]
    return (scaled * scaled).sum(1).mean()
