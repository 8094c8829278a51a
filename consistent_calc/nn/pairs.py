"""Pairs of atoms for the structure head: the neighbors in space and those along the bonds, each with its kind."""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.nn.structure_head import (
    AROMATIC,
    CIS,
    DOUBLE,
    ONE_FOUR,
    ONE_THREE,
    SINGLE,
    TRANS,
    TRIPLE,
    UNRELATED,
)
from consistent_calc.structures import StructureBatch


def graph_pairs(batch: StructureBatch, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Joins the edges of a neighbor list with all pairs at most three bonds apart.

    Args:
        batch: open structures with bonds and stereo tags.
        neighbors: int64 ``[2, n]``, a full neighbor list.

    Returns:
        Edges int64 ``[2, m]`` (receiver, sender), sorted, each once, and their kinds int64 ``[m]``
        (constants of :mod:`consistent_calc.nn.structure_head`).
    """
    assert batch.bonds is not None
    assert batch.stereo is not None
    n = batch.n_atoms
    bonded = torch.cat([batch.bonds, batch.bonds[:, [1, 0, 2]]])
    kind_of_order = torch.full((8,), SINGLE, device=bonded.device)
    kind_of_order[3], kind_of_order[4], kind_of_order[6] = AROMATIC, DOUBLE, TRIPLE
    one = bonded[:, :2]
    two = _compose(one, one, n)
    three = _compose(two, one, n)
    dihedral = batch.stereo[batch.stereo[:, 4].abs() == 2]
    ends = torch.cat([dihedral[:, [0, 3]], dihedral[:, [3, 0]]])
    cis_or_trans = torch.where(dihedral[:, 4] > 0, CIS, TRANS).repeat(2)
    # Where a pair has several kinds (rings), the first in this order wins.
    candidates = [
        (one, kind_of_order[bonded[:, 2].clamp(0, 7)]),
        (ends, cis_or_trans),
        (two, torch.full_like(two[:, 0], ONE_THREE)),
        (three, torch.full_like(three[:, 0], ONE_FOUR)),
        (neighbors.T, torch.full_like(neighbors[0], UNRELATED)),
    ]
    pairs = torch.cat([p for p, _ in candidates])
    kinds = torch.cat([k for _, k in candidates])
    rank = torch.cat([torch.full_like(k, r) for r, (_, k) in enumerate(candidates)])
    keys = pairs[:, 0] * n + pairs[:, 1]
    order = torch.argsort(keys * len(candidates) + rank)
    keys, kinds, pairs = keys[order], kinds[order], pairs[order]
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    return pairs[first].T.contiguous(), kinds[first]


def _compose(left: Tensor, right: Tensor, n: int) -> Tensor:
    """Pairs (a, c), a != c, for which (a, b) is in ``left`` and (b, c) in ``right``; each once."""
    order = torch.argsort(right[:, 0])
    right = right[order]
    degree = torch.bincount(right[:, 0], minlength=n)
    start = degree.cumsum(0) - degree
    repeats = degree[left[:, 1]]
    row = torch.repeat_interleave(torch.arange(len(left), device=left.device), repeats)
    within = torch.arange(len(row), device=left.device) - (repeats.cumsum(0) - repeats)[row]
    first, last = left[row, 0], right[start[left[row, 1]] + within, 1]
    # One number a pair: much faster to sort than rows.
    keys = torch.unique((first * n + last)[first != last])
    return torch.stack([keys // n, keys % n], dim=1)
