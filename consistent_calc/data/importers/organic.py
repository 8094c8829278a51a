"""Import of the organic_wb97m files: drug-like molecules away from their minima."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.importers.graph import molecule_of_smiles, numbers_of
from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import bucket_of_smiles
from consistent_calc.data.store import StoreWriter
from consistent_calc.errors import ConsistentCalcError, DataError

LEVEL = "wB97M-D3/def2-TZVPP"
KINDS = {
    0: "raw or half-relaxed ETKDG",
    1: "MMFF94s minimum",
    2: "MMFF Langevin at 200-1100 K",
    3: "noise of 0.02-0.15 Angstrom or random torsions",
    4: "on the way down the surface of the labels",
}
#: Kinds that come from an optimisation; noise and molecular dynamics give no targets even where forces are small.
_OPTIMISED = (1, 4)

#: Largest force (eV/Angstrom) in a structure that counts as near a minimum. No structure of the data is relaxed on
#: the labels' own surface (kind 4 are early steps, rarely below 2); at 1 a bond is within some 0.03 Angstrom.
MAX_FORCE = 1.0


def import_organic_wb97m(paths: Sequence[str | Path], out: str | Path, *, max_force: float = MAX_FORCE) -> ImportReport:
    """Merges the organic_wb97m files into one store, with stereo tags from their SMILES.

    Args:
        paths: the HDF5 files.
        out: the store to write.
        max_force: MMFF minima and optimisation steps whose largest force is below it, in eV/Angstrom, are flagged
            as near-minima.

    Raises:
        DataError: a file cannot be read.
    """
    report = ImportReport()
    writer = StoreWriter(
        out,
        level=LEVEL,
        provenance="AIMNet2 (single model), a network fitted to wB97M-D3/def2-TZVPP; labels made for this project",
        licence="labels made for this project; weights of the labelling network MIT",
        kinds=KINDS,
        half_precision=True,
    )
    with writer:
        seen: set[str] = set()
        for path in paths:
            for entry in _molecules(Path(path)):
                try:
                    if entry["smiles"] in seen:
                        raise DataError("the SMILES occurs twice")
                    record = _record(entry, max_force)
                    writer.add(record)
                except ConsistentCalcError as error:
                    report.failures.append((entry["smiles"], str(error)))
                    continue
                seen.add(entry["smiles"])
                report.n_equilibrium += int(record.equilibrium.sum())
        report.n_molecules, report.n_conformations = writer.n_molecules, writer.n_conformations
    return report


def _molecules(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of one file, each a dict of the molecule's own arrays."""
    try:
        with h5py.File(path, "r") as file:
            data = {name: file[name][:] for name in file}
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error
    counts = {name: data[name].astype(np.int64) for name in ("n_atoms", "n_bonds", "n_conformations")}
    counts["row"] = counts["n_atoms"] * counts["n_conformations"]
    ends = {name: np.cumsum(c) for name, c in counts.items()}
    axis_of = {"numbers": "n_atoms", "bonds": "n_bonds", "energy": "n_conformations", "kind": "n_conformations"}
    axis_of |= dict.fromkeys(("positions", "forces", "partial_charges"), "row")
    for i in range(len(data["smiles"])):
        entry: dict[str, Any] = {name: data[name][i] for name in ("charge", "bucket", "n_conformations")}
        entry |= {name: data[name][i].decode() for name in ("smiles", "source")}
        for name, axis in axis_of.items():
            end = ends[axis][i]
            entry[name] = data[name][end - counts[axis][i] : end]
        yield entry


def _record(entry: dict[str, Any], max_force: float) -> MoleculeRecord:
    from rdkit.Chem import GetFormalCharge

    from consistent_calc.molgraph import stereo_table

    mol = molecule_of_smiles(entry["smiles"])
    if not np.array_equal(numbers_of(mol), entry["numbers"]):
        raise DataError("the elements differ from those of the SMILES")
    if {frozenset(b[:2]) for b in entry["bonds"].tolist()} != _bonded_pairs(mol):
        raise DataError("the bonds differ from those of the SMILES")
    if GetFormalCharge(mol) != entry["charge"]:
        raise DataError("the charge differs from that of the SMILES")
    if bucket_of_smiles(entry["smiles"]) != entry["bucket"]:
        raise DataError("the bucket differs from that of the SMILES")
    shape = (int(entry["n_conformations"]), len(entry["numbers"]))
    forces: NDArray[np.float32] = entry["forces"].reshape(*shape, 3).astype(np.float32)
    largest = np.linalg.norm(forces, axis=-1).max(axis=1)
    return MoleculeRecord(
        numbers=entry["numbers"],
        positions=entry["positions"].reshape(*shape, 3),
        smiles=entry["smiles"],
        bucket=int(entry["bucket"]),
        source=entry["source"],
        charge=int(entry["charge"]),
        bonds=entry["bonds"],
        stereo=stereo_table(mol),
        kind=entry["kind"],
        equilibrium=np.isin(entry["kind"], _OPTIMISED) & (largest < max_force),
        energy=entry["energy"],
        forces=forces,
        partial_charges=entry["partial_charges"],
    )


def _bonded_pairs(mol: Any) -> set[frozenset[int]]:
    return {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()}
