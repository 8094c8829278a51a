"""Equivalent atoms: the label of an atom among its equals carries no information, so the target is relabelled."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from consistent_calc.structures import StructureBatch

#: Sizes of the sets of equivalent atoms that are matched: CH2, CH3 and their like.
SET_SIZES = (2, 3)


def equivalent_sets(structures: StructureBatch) -> list[Tensor]:
    """Sets of equivalent end atoms: one element, bonded by the same order to one atom and to nothing else.

    These are automorphisms of any molecular graph, and contain almost all of them in small organic molecules (the
    hydrogens of CH2 and CH3, fluorines of CF3); turns of whole rings and groups are left out. Atoms of a stereo tag are
    told apart by it (H and D at one carbon) and are in no set.

    Args:
        structures: with bonds.

    Returns:
        For each size in :data:`SET_SIZES`, int64 ``[n_sets, size]``, indices of atoms.
    """
    assert structures.bonds is not None
    assert structures.stereo is not None
    bonds = structures.bonds
    both = torch.cat([bonds, bonds[:, [1, 0, 2]]])
    degree = torch.bincount(both[:, 0], minlength=structures.n_atoms)
    ends = both[(degree[both[:, 0]] == 1) & ~torch.isin(both[:, 0], structures.stereo[:, :4].reshape(-1))]
    # One number for (bonded atom, element, order); equal numbers are one set.
    keys = (ends[:, 1] * 128 + structures.numbers[ends[:, 0]]) * 8 + ends[:, 2].clamp(0, 7)
    order = torch.argsort(keys, stable=True)
    atoms = ends[order, 0]
    _, counts = torch.unique_consecutive(keys[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    return [atoms[starts[counts == size][:, None] + torch.arange(size, device=atoms.device)] for size in SET_SIZES]


def match_equivalent(target: Tensor, positions: Tensor, sets: list[Tensor]) -> Tensor:
    """Exchanges equivalent atoms of ``target`` so that they come closest to ``positions``.

    Args:
        target: ``[n_atoms, 3]``, already aligned to ``positions``, Angstrom.
        positions: ``[n_atoms, 3]``.
        sets: from :func:`equivalent_sets`.

    Returns:
        ``[n_atoms, 3]``, the relabelled target.
    """
    matched = target.clone()
    for atoms in sets:
        size = atoms.shape[1]
        permutations = torch.tensor(list(itertools.permutations(range(size))), device=atoms.device)
        squares = (positions[atoms][:, :, None] - target[atoms][:, None]).square().sum(-1)
        costs = squares[:, torch.arange(size, device=atoms.device), permutations].sum(-1)
        best = permutations[costs.argmin(1)]
        matched[atoms] = target[torch.gather(atoms, 1, best)]
    return matched
