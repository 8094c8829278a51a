"""Whether a relaxed structure is still the molecule it started as."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from consistent_calc.data.importers.graph import BOND_STRETCH, CONTACT
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.elements import covalent_radii
from consistent_calc.errors import LabellingError
from consistent_calc.molgraph import stereo_satisfied


def check_basin(record: MoleculeRecord, positions: NDArray[np.float64]) -> None:
    """Compares a structure with the graph of its molecule; a molecule without graph passes.

    Args:
        record: the molecule, whose own structure fulfils its graph.
        positions: ``[n_atoms, 3]``, Angstrom.

    Raises:
        LabellingError: ``changed_bonds`` or ``changed_stereo``.
    """
    if record.bonds is None or len(record.bonds) == 0:
        return
    bonds = np.asarray(record.bonds, dtype=np.int64).reshape(-1, 3)
    radii = covalent_radii(record.numbers)
    ratio = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radii[:, None] + radii)
    bonded = np.eye(len(radii), dtype=bool)
    bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = True
    if ratio[bonds[:, 0], bonds[:, 1]].max() > BOND_STRETCH or (ratio[~bonded] < CONTACT).any():
        raise LabellingError("the relaxation broke or made a bond", "changed_bonds")
    stereo = torch.as_tensor(np.asarray([] if record.stereo is None else record.stereo, dtype=np.int64).reshape(-1, 5))
    if not bool(stereo_satisfied(torch.as_tensor(positions, dtype=torch.float64), stereo).all()):
        raise LabellingError("the relaxation inverted a centre or a double bond", "changed_stereo")
