"""Import of the small_mols files: off-equilibrium configurations of small molecules, one each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.importers.graph import fits_geometry, molecule_of_smiles, numbers_of
from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.store import StoreWriter
from consistent_calc.errors import ConsistentCalcError, DataError
from consistent_calc.units import DEBYE, KCAL_PER_MOL

LEVEL = "wB97X-D/6-31G(d)"
KINDS = {0: "off-equilibrium configuration"}

#: Thermally stretched bonds and close contacts are wanted here; this only guards against a wrong order of atoms.
_STRETCH, _CONTACT = 1.7, 0.6


def import_small_molecules(paths: Sequence[str | Path], out: str | Path) -> ImportReport:
    """Merges the small_mols files into one store.

    Energies and forces come in kcal/mol; dipoles are in Debye (the files do not say: acetonitrile has 4.0, water 2.0).
    The split is that of the buckets, not that of the files' names.

    Args:
        paths: the npz files.
        out: the store to write.
    """
    report = ImportReport()
    writer = StoreWriter(
        out,
        level=LEVEL,
        provenance="off-equilibrium configurations of molecules with up to 7 heavy atoms, consistent with " + LEVEL,
        licence="MIT",
        kinds=KINDS,
    )
    with writer:
        for path in paths:
            try:
                with np.load(path) as file:
                    data = dict(file)
            except (OSError, ValueError) as error:
                raise DataError(f"{path} cannot be read as an npz file: {error}") from error
            offset = np.concatenate([[0], np.cumsum(data["n_atoms"], dtype=np.int64)])
            for i, smiles in enumerate(data["smiles"]):
                try:
                    record = _record(data, i, slice(offset[i], offset[i + 1]))
                    writer.add(record)
                except ConsistentCalcError as error:
                    report.failures.append((str(smiles), str(error)))
                    continue
                report.n_without_graph += record.bonds is None
        report.n_molecules, report.n_conformations = writer.n_molecules, writer.n_conformations
    return report


def _record(data: dict[str, NDArray[Any]], i: int, atoms: slice) -> MoleculeRecord:
    from consistent_calc.molgraph import bond_table, stereo_table

    smiles, numbers, positions = str(data["smiles"][i]), data["numbers"][atoms], data["positions"][atoms]
    mol = molecule_of_smiles(smiles)
    known = np.array_equal(numbers_of(mol), numbers) and fits_geometry(mol, positions, _STRETCH, _CONTACT)
    return MoleculeRecord(
        numbers=numbers,
        positions=positions[None],
        smiles=smiles,
        source="small_mols",
        bonds=bond_table(mol) if known else None,
        stereo=stereo_table(mol) if known else None,
        energy=data["energy_kcal"][i : i + 1] * KCAL_PER_MOL,
        forces=data["forces_kcal"][atoms][None] * KCAL_PER_MOL,
        dipole=data["dipole"][i : i + 1] * DEBYE,
    )
