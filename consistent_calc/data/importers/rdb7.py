"""Import of RDB7: reactants, transition states and products of gas-phase reactions, all stationary points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data.importers.graph import GeometryGraph, fits_geometry, graph_of_geometry, numbers_of
from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import bucket_of_smiles
from consistent_calc.data.store import StoreWriter
from consistent_calc.errors import ConsistentCalcError, DataError, MoleculeInputError
from consistent_calc.units import KCAL_PER_MOL

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LEVEL = "wB97X-D3/def2-TZVP"
KINDS = {0: "reactant", 1: "transition state", 2: "product"}


def import_rdb7(path: str | Path, out: str | Path) -> ImportReport:
    """Writes each reaction as three molecules with zero forces: reactant, transition state, product.

    There are no energies: the barrier in the data is CCSD(T)-F12 and belongs to another level, so it is kept apart
    in ``barrier``. All three geometries of a reaction get the largest bucket of the molecules in it, so that nothing
    of a test molecule (the largest buckets) is trained on through its reactions.

    Args:
        path: ``rdb7_stationary.npz``.
        out: the store to write.
    """
    data = _load(Path(path))
    report = ImportReport()
    writer = StoreWriter(
        out,
        level=LEVEL,
        provenance="RDB7 stationary points (forces are zero); barriers are CCSD(T)-F12 with zero-point energy",
        licence="MIT",
        kinds=KINDS,
    )
    with writer:
        for i, smiles in enumerate(data["smiles"]):
            atoms = slice(data["ptr"][i], data["ptr"][i + 1])
            positions = [data[name][atoms] for name in ("pos_r", "pos_ts", "pos_p")]
            barrier = float(data["dE0_ccsdtf12_kcal"][i]) * KCAL_PER_MOL
            try:
                records = _reaction(str(smiles), data["Z"][atoms], positions, barrier, f"rdb7:{data['rxn'][i]}")
                for record in records:
                    writer.add(record)
            except ConsistentCalcError as error:
                report.failures.append((f"reaction {data['rxn'][i]}", str(error)))
                continue
            report.n_equilibrium += sum(bool(r.equilibrium) for r in records)
            report.n_without_graph += sum(r.bonds is None for r in records)
        report.n_molecules, report.n_conformations = writer.n_molecules, writer.n_conformations
    return report


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an npz file: {error}") from error


def _reaction(
    reaction: str, numbers: NDArray[Any], positions: list[NDArray[Any]], barrier: float, source: str
) -> list[MoleculeRecord]:
    sides = [_mapped_molecule(side, numbers) for side in reaction.split(">>")]
    bucket = max(_bucket_of_side(mol) for mol in sides)
    graphs = [sides[0], None, sides[1]]
    return [
        _stationary_point(kind, graph, numbers, r, bucket=bucket, barrier=barrier, source=source)
        for kind, (graph, r) in enumerate(zip(graphs, positions, strict=True))
    ]


def _mapped_molecule(smiles: str, numbers: NDArray[Any]) -> Mol:
    """Molecule of an atom-mapped SMILES, its atoms in the order of their map numbers."""
    from rdkit import Chem, rdBase

    parameters: Any = Chem.SmilesParserParams()  # RDKit's stubs type its options wrongly
    parameters.removeHs = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, parameters)
    if mol is None:
        raise MoleculeInputError(f"RDKit cannot read the SMILES {smiles!r}.")
    maps = [a.GetAtomMapNum() for a in mol.GetAtoms()]
    if sorted(maps) != list(range(1, len(numbers) + 1)):
        raise DataError("the atom map numbers are not 1 to the number of atoms")
    mol = Chem.RenumberAtoms(mol, [int(i) for i in np.argsort(maps)])
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    if not np.array_equal(numbers_of(mol), numbers):
        raise DataError("the elements differ from those of the SMILES")
    return mol


def _bucket_of_side(mol: Mol) -> int:
    """Largest bucket of one side of a reaction, of the whole and of each of its fragments."""
    from rdkit import Chem

    whole = Chem.MolToSmiles(Chem.RemoveHs(mol))
    return max(bucket_of_smiles(s) for s in {whole, *whole.split(".")})


def _stationary_point(
    kind: int,
    mol: Mol | None,
    numbers: NDArray[Any],
    positions: NDArray[Any],
    *,
    bucket: int,
    barrier: float,
    source: str,
) -> MoleculeRecord:
    from rdkit import Chem

    # Weak complexes and geometries that relaxed into something else are stationary points, but not of this graph.
    graph: GeometryGraph | None = None
    if mol is not None and fits_geometry(mol, positions):
        graph = graph_of_geometry(mol, positions)
    return MoleculeRecord(
        numbers=numbers,
        positions=positions[None],
        smiles="" if graph is None else Chem.MolToSmiles(Chem.RemoveHs(graph.mol)),
        bucket=bucket,
        source=source,
        bonds=None if graph is None else graph.bonds,
        stereo=None if graph is None else graph.stereo,
        kind=kind,
        equilibrium=graph is not None and graph.tags_met and len(Chem.GetMolFrags(graph.mol)) == 1,
        forces=np.zeros((1, len(numbers), 3), dtype=np.float32),
        barrier=barrier,
    )
