"""Import of QM9 from the package qm9pack: 130,831 molecules at their B3LYP minima."""

from __future__ import annotations

import csv
import importlib.util
import json
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.importers.graph import (
    GeometryGraph,
    fits_geometry,
    graph_of_geometry,
    molecule_of_smiles,
    numbers_of,
)
from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import bucket_of_smiles
from consistent_calc.data.store import StoreWriter
from consistent_calc.elements import SYMBOLS
from consistent_calc.errors import ConsistentCalcError, DataError, MissingDependencyError
from consistent_calc.units import HARTREE

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LEVEL = "B3LYP/6-31G(2df,p)"
KINDS = {0: "minimum"}

#: Molecules in the package, for the progress bar.
_N_MOLECULES = 130_831

_COLUMNS = ("XYZ_file", "SMILES", "Elements", "XYZ_Ang", "ZPVE_au", "InternalEnergy_0K_au")
_Row = tuple[str, ...]


def import_qm9(out: str | Path, *, limit: int | None = None, n_workers: int = 2, progress: bool = True) -> ImportReport:
    """Writes QM9 as a store of minima: electronic energies, zero forces, bonds, stereo tags of the 3D structure.

    The energy is the internal energy at 0 K less the zero-point energy. Where the graph of the SMILES does not fit
    the geometry, bonds are left out and the structure is no target of the structure head.

    Args:
        out: the store to write.
        limit: import the first so many molecules only.
        n_workers: processes that prepare molecules.
        progress: show a progress bar.

    Raises:
        MissingDependencyError: qm9pack is not installed.
    """
    from rich.progress import track

    folder = _data_folder()
    report = ImportReport()
    writer = StoreWriter(
        out,
        level=LEVEL,
        provenance="QM9 (Ramakrishnan et al. 2014, doi:10.1038/sdata.2014.22) from the package qm9pack",
        licence="CC0 (QM9), MIT (qm9pack)",
        kinds=KINDS,
    )
    rows = _rows(folder, limit)
    with writer, multiprocessing.get_context("spawn").Pool(n_workers) as pool:
        results = pool.imap(_prepare, rows, chunksize=200)
        total = min(limit or _N_MOLECULES, _N_MOLECULES)
        for name, record, reason in track(results, "QM9", total=total, disable=not progress):
            if record is None:
                report.failures.append((name, reason))
                continue
            writer.add(record)
            report.n_equilibrium += bool(record.equilibrium)
            report.n_without_graph += record.bonds is None
        report.n_molecules, report.n_conformations = writer.n_molecules, writer.n_conformations
    return report


def _data_folder() -> Path:
    """Folder of the package's tables; the package itself is not imported, it needs the removed pkg_resources."""
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("QM9 comes from the package qm9pack: pip install 'consistent_calc[data]'.")
    return Path(spec.origin).parent / "data"


def _rows(folder: Path, limit: int | None) -> Iterator[_Row]:
    """The needed columns of each molecule, as text."""
    count = 0
    for part in (1, 2, 3):
        with open(folder / f"qm9_part{part}.csv", newline="") as file:
            for row in csv.DictReader(file):
                if count == limit:
                    return
                count += 1
                yield tuple(row[name] for name in _COLUMNS)


def _prepare(row: _Row) -> tuple[str, MoleculeRecord | None, str]:
    """(name, record, reason for its absence) of one molecule; runs in a worker."""
    try:
        return row[0], _record(row), ""
    except (ConsistentCalcError, ValueError) as error:
        return row[0], None, str(error)


def _record(row: _Row) -> MoleculeRecord:
    name, smiles, elements, xyz, zero_point, internal = row
    numbers = np.array([SYMBOLS.index(s) for s in re.findall(r"[A-Z][a-z]?", elements)], dtype=np.uint8)
    # The table writes 1. for 1.0, which JSON does not allow.
    positions = np.array(json.loads(re.sub(r"\.(?=[,\]])", ".0", xyz)))
    if positions.shape != (len(numbers), 3):
        raise DataError(f"{len(numbers)} elements but positions of shape {positions.shape}")
    mol = molecule_of_smiles(smiles)
    graph = _graph(mol, numbers, positions)
    return MoleculeRecord(
        numbers=numbers,
        positions=positions[None],
        smiles=smiles,
        bucket=bucket_of_smiles(smiles),
        source=f"qm9:{name}",
        bonds=None if graph is None else graph.bonds,
        stereo=None if graph is None else graph.stereo,
        equilibrium=graph is not None and graph.tags_met,
        energy=[(float(internal) - float(zero_point)) * HARTREE],
        forces=np.zeros((1, len(numbers), 3), dtype=np.float32),
    )


def _graph(mol: Mol, numbers: NDArray[Any], positions: NDArray[Any]) -> GeometryGraph | None:
    """The molecule's graph in the atom order of the geometry, with the stereo of the geometry; None if it is unknown.

    QM9 keeps the heavy atoms in the order of its SMILES and the hydrogens in that of their parents, so the graph is
    that of the SMILES with hydrogens added; every bond is checked against the geometry. Only zwitterions (0.4%) are
    ordered otherwise: their graph is perceived from the geometry and must give the SMILES again.
    """
    if not (np.array_equal(numbers_of(mol), numbers) and fits_geometry(mol, positions)):
        perceived = _perceived(numbers, positions)
        if perceived is None or _skeleton(perceived) != _skeleton(mol):
            return None
        mol = perceived
    return graph_of_geometry(mol, positions)


def _perceived(numbers: NDArray[Any], positions: NDArray[Any]) -> Mol | None:
    """Neutral molecule whose bonds RDKit reads off the geometry, None where it cannot."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds

    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(positions)
    mol.AddConformer(conformer)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBonds(mol, charge=0)
            Chem.SanitizeMol(mol)
    except ValueError:  # no arrangement of bond orders fits
        return None
    return mol.GetMol()


def _skeleton(mol: Mol) -> str:
    """Canonical SMILES without stereo. Hydrogens go through text, which also removes those of imines."""
    from rdkit import Chem

    plain = Chem.MolFromSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))
    return Chem.MolToSmiles(plain, isomericSmiles=False)
