"""A model Hessian of molecules, from positions and elements alone: stiff bonds, soft torsions.

Lindh, Bernhardsson, Karlstrom & Malmqvist, Chem. Phys. Lett. 241 (1995) 423. It preconditions the relaxation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.units import BOHR, HARTREE

#: Added to the diagonal, eV/Angstrom^2: bounds the step along translations, rotations and very soft modes.
FLOOR = 0.15

# Table 1 of Lindh et al., in atomic units; rows and columns are the periods H-He, Li-Ne and beyond.
_DECAY = ((1.0000, 0.3949, 0.3949), (0.3949, 0.2800, 0.2800), (0.3949, 0.2800, 0.2800))
_REFERENCE = ((1.35, 2.10, 2.53), (2.10, 2.87, 3.40), (2.53, 3.40, 3.40))
_STRETCH, _BEND, _TORSION = 0.45 * HARTREE / BOHR**2, 0.15 * HARTREE, 0.005 * HARTREE
#: Atoms with a larger rho are bonded enough to span angles and torsions.
_BONDED = 0.25
#: Neighbors considered for angles and torsions; bounds the work in dense clusters.
_MAX_DEGREE = 6
#: Angles with a larger cosine are linear: their bend has two directions, and no torsion is defined across them.
_LINEAR = 0.985


def model_hessian(numbers: Tensor, positions: Tensor) -> Tensor:
    """The model Hessian of Lindh et al. of a padded batch, positive definite: stiff bonds, soft torsions.

    Each internal coordinate ``q`` adds ``k_q (dq/dx)(dq/dx)^T`` with ``k_q`` proportional to the product of
    ``rho_ij = exp(a_ij (r_ref,ij^2 - r_ij^2))`` over its bonds.

    Args:
        numbers: int64 ``[B, n]``, atomic numbers, 0 for padding.
        positions: float64 ``[B, n, 3]``, Angstrom.

    Returns:
        float64 ``[B, 3n, 3n]``, eV/Angstrom^2.
    """
    b, n = numbers.shape
    rho = _coupling(numbers, positions)
    hessian = _stretches(positions, rho)
    flat, points = hessian.view(b * n * n, 9), positions.reshape(b * n, 3)
    neighbors = _neighbor_table(rho)
    couplings = rho.reshape(b * n, n)
    for atoms, stiffness, gradient in (*_bends(points, neighbors, couplings), _torsions(points, neighbors, couplings)):
        _add(flat, atoms, stiffness, gradient, n)
    matrix = hessian.permute(0, 1, 3, 2, 4).reshape(b, 3 * n, 3 * n)
    return matrix + FLOOR * torch.eye(3 * n, dtype=matrix.dtype, device=matrix.device)


def _coupling(numbers: Tensor, positions: Tensor) -> Tensor:
    """``rho`` of all pairs, ``[B, n, n]``; zero on the diagonal and for padding."""
    period = (numbers > 2).long() + (numbers > 10).long()
    pair = period[:, :, None], period[:, None, :]
    decay = positions.new_tensor(_DECAY)[pair]
    reference = positions.new_tensor(_REFERENCE)[pair]
    square = (positions[:, :, None] - positions[:, None, :]).square().sum(-1) / BOHR**2
    real = (numbers > 0)[:, :, None] & (numbers > 0)[:, None, :]
    real = real & ~torch.eye(numbers.shape[1], dtype=torch.bool, device=numbers.device)
    # Atoms far closer than a bond would give stiffnesses without bound.
    return torch.exp(decay * (reference.square() - square)).clamp(max=4.0) * real


def _stretches(positions: Tensor, rho: Tensor) -> Tensor:
    """All pairs as springs, blocks ``[B, n, n, 3, 3]``."""
    unit = torch.nn.functional.normalize(positions[:, :, None] - positions[:, None, :], dim=-1)
    blocks = (_STRETCH * rho)[..., None, None] * unit[..., :, None] * unit[..., None, :]
    diagonal = torch.arange(rho.shape[1], device=rho.device)
    hessian = -blocks
    hessian[:, diagonal, diagonal] = blocks.sum(dim=2)
    return hessian


def _neighbor_table(rho: Tensor) -> Tensor:
    """The strongest neighbors of each atom, ``[B*n, max_degree]`` in flat numbering, -1 for none."""
    b, n, _ = rho.shape
    degree = int((rho > _BONDED).sum(-1).max().clamp(1, _MAX_DEGREE))
    found, column = torch.topk(rho, min(degree, n), dim=-1)
    offset = n * torch.arange(b, device=rho.device)[:, None, None]
    return torch.where(found > _BONDED, column + offset, -1).reshape(b * n, -1)


def _bends(points: Tensor, neighbors: Tensor, rho: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Angles at every atom: bends in their plane and, for linear ones, out of it as well."""
    n_atoms, degree = neighbors.shape
    p, q = torch.triu_indices(degree, degree, 1, device=points.device)
    centre = torch.arange(n_atoms, device=points.device)[:, None].expand(-1, len(p))
    atoms = torch.stack([neighbors[:, p], centre, neighbors[:, q]], dim=-1).reshape(-1, 3)
    atoms = atoms[(atoms >= 0).all(1)]
    i, j, k = atoms.unbind(1)
    stiffness = _BEND * _pair(rho, j, i) * _pair(rho, j, k)
    u, v = points[i] - points[j], points[k] - points[j]
    length_u, length_v = u.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
    u, v = u / length_u, v / length_v
    # The small second term only chooses a plane where the angle is linear and has none.
    helper = torch.nn.functional.one_hot(u.abs().argmin(1), 3).to(u)
    normal = torch.nn.functional.normalize(torch.linalg.cross(u, v) + 1e-3 * torch.linalg.cross(u, helper), dim=1)
    linear = (u * v).sum(1).abs() > _LINEAR
    out = []
    for ends in (torch.linalg.cross(normal, u), torch.linalg.cross(v, normal)), (normal, normal):
        first, last = ends[0] / length_u, ends[1] / length_v
        out.append((atoms, stiffness, torch.stack([first, -first - last, last], dim=1)))
    return [out[0], (atoms[linear], stiffness[linear], out[1][2][linear])]


def _torsions(points: Tensor, neighbors: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dihedral angles about every bond, but those with a linear angle in them."""
    j, column = (neighbors >= 0).nonzero().unbind(1)
    k = neighbors[j, column]
    j, k = j[j < k], k[j < k]
    shape = (len(j), neighbors.shape[1], neighbors.shape[1])
    columns = neighbors[j][:, :, None], j[:, None, None], k[:, None, None], neighbors[k][:, None, :]
    atoms = torch.stack([c.expand(shape) for c in columns], dim=-1).reshape(-1, 4)
    i, j, k, m = atoms.unbind(1)
    atoms = atoms[(i >= 0) & (m >= 0) & (i != k) & (m != j) & (i != m)]
    x = points[atoms]
    b1, b2, b3 = (x[:, 1:] - x[:, :-1]).unbind(1)
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    square1, square2, square = n1.square().sum(1), n2.square().sum(1), b2.square().sum(1)
    sine1 = square1 / (b1.square().sum(1) * square)
    sine2 = square2 / (b3.square().sum(1) * square)
    keep = torch.minimum(sine1, sine2) > 1 - _LINEAR**2
    atoms = atoms[keep]
    first = (-square.sqrt() / square1)[:, None] * n1
    last = (square.sqrt() / square2)[:, None] * n2
    second = -(1 + (b1 * b2).sum(1) / square)[:, None] * first + ((b3 * b2).sum(1) / square)[:, None] * last
    gradient = torch.stack([first, second, -first - second - last, last], dim=1)[keep]
    i, j, k, m = atoms.unbind(1)
    return atoms, _TORSION * _pair(rho, i, j) * _pair(rho, j, k) * _pair(rho, k, m), gradient


def _add(flat: Tensor, atoms: Tensor, stiffness: Tensor, gradient: Tensor, n: int) -> None:
    """Adds ``k g g^T`` of coordinates over ``atoms [Q, m]`` to the blocks ``[B*n*n, 9]``."""
    blocks = stiffness[:, None, None, None, None] * gradient[:, :, None, :, None] * gradient[:, None, :, None, :]
    place = atoms[:, :, None] * n + atoms[:, None, :] % n
    flat.index_add_(0, place.reshape(-1), blocks.reshape(-1, 9))


def _pair(rho: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """``rho [B*n, n]`` of pairs in flat numbering."""
    return rho[i, j % rho.shape[1]]
