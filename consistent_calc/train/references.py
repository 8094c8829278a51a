"""Atomic reference energies, fitted to the training data of each level."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import lstsq
from torch import Tensor

from consistent_calc.data.dataset import Dataset


def fit_references(
    datasets: list[Dataset], levels: tuple[str, ...], elements: tuple[int, ...], known: Tensor | None = None
) -> Tensor:
    """Least-squares atomic energies per level, from the mean energy of every training molecule.

    Elements that a level never sees get zero.

    Args:
        datasets: training sides.
        levels, elements: rows and columns of the result.
        known: ``[n_levels, n_elements]``, values that are kept, NaN where a value is to be fitted; None fits all.

    Returns:
        float64 ``[n_levels, n_elements]``, eV.
    """
    if known is None:
        known = torch.full((len(levels), len(elements)), torch.nan)
    table = known.double().cpu().nan_to_num()
    for row, level in enumerate(levels):
        compositions, energies = [], []
        for data in datasets:
            if data.level != level or data.energy is None:
                continue
            labelled = ~np.isnan(data.energy)
            count = np.bincount(data.molecule[labelled], minlength=data.n_molecules)
            total = np.bincount(data.molecule[labelled], weights=data.energy[labelled], minlength=data.n_molecules)
            owner = np.repeat(np.arange(data.n_molecules), np.diff(data.atom_offset))
            composition = np.zeros((data.n_molecules, len(elements)))
            for column, element in enumerate(elements):
                composition[:, column] = np.bincount(owner[data.numbers == element], minlength=data.n_molecules)
            compositions.append(composition[count > 0])
            energies.append(total[count > 0] / count[count > 0])
        if not compositions:
            continue
        counts = np.concatenate(compositions)
        free = known[row].isnan().cpu().numpy() & counts.any(0)
        if free.any():
            rest = np.concatenate(energies) - counts[:, ~free] @ table[row].numpy()[~free]
            table[row, torch.from_numpy(free)] = torch.from_numpy(lstsq(counts[:, free], rest)[0])
    return table
