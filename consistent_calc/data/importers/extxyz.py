"""Import of extended XYZ files (imports ASE inside the functions): molecules or crystals from any program."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from consistent_calc.data.importers.report import ImportReport
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import N_BUCKETS, bucket_of_smiles
from consistent_calc.data.store import StoreWriter
from consistent_calc.elements import chemical_formula
from consistent_calc.errors import DataError, InvalidStructureError

if TYPE_CHECKING:
    from ase import Atoms

KINDS = {0: "imported frame"}
#: Charge labels whose sum is further from the total charge, in e, belong to another charge than the one named.
MAX_CHARGE_ERROR = 0.1


def import_extxyz(
    path: str | Path,
    out: str | Path,
    level: str,
    *,
    licence: str = "unknown",
    max_force: float = 0.05,
    charge: int | None = None,
) -> ImportReport:
    """Writes the frames of an extended XYZ file as a store; frames that cannot be read are reported and skipped.

    Energy, forces, charges, dipole, cell and periodicity are kept, stress is not. Units are ASE's (eV, Angstrom).
    Frames with the same ``info["smiles"]``, elements and charge are conformations of one molecule. The side of the
    split comes from ``info["smiles"]``; without it, from a hash of the (for crystals reduced) chemical formula.

    Args:
        path: the file.
        out: the store to write.
        level: level of theory of the labels.
        licence: of the data.
        max_force: frames whose largest force is below it, in eV/Angstrom, are flagged as minima.
        charge: total charge of all frames in e; by default ``info["charge"]``, else ``info["total_charge"]``, else the
            sum of the initial charges.

    Raises:
        DataError: the file or all of its frames cannot be read, or none has an energy or forces; ``out`` is as it was.
    """
    report = ImportReport()
    molecules: dict[tuple[Any, ...], list[Atoms]] = {}
    for i, text in enumerate(extxyz_frames(Path(path))):
        try:
            atoms, total = _read_frame(text, charge)
            key = (str(atoms.info.get("smiles", "")), tuple(atoms.numbers.tolist()), total, bool(atoms.pbc.any()))
            _bucket(key[0], atoms)
        except Exception as error:  # ASE's reader raises nearly any type on a malformed frame
            report.failures.append((f"frame {i}", f"{type(error).__name__}: {error}"))
            continue
        molecules.setdefault(key, []).append(atoms)
    frames = [atoms for images in molecules.values() for atoms in images]
    if frames and not any(a.calc is not None and {"energy", "forces"} & set(a.calc.results) for a in frames):
        raise DataError(
            f"No frame of {path} has an energy or forces under the names that ASE knows ('energy', 'forces'); it has "
            f"{', '.join([*frames[0].info, *frames[0].arrays])}. Rename the columns."
        )
    writer = StoreWriter(out, level=level, provenance=f"imported from {Path(path).name}", licence=licence, kinds=KINDS)
    with writer:
        for (smiles, _, total, _), images in molecules.items():
            record = _record(smiles, total, images, max_force)
            try:
                writer.add(record)
            except (DataError, OverflowError) as error:  # such as a charge that does not fit the store
                report.failures.append((smiles or images[0].get_chemical_formula(), str(error)))
                continue
            report.n_equilibrium += int(record.equilibrium.sum())
            report.n_without_graph += 1
        if not writer.n_molecules:
            reasons = "; ".join(f"{entry}: {reason}" for entry, reason in report.failures[:3])
            raise DataError(f"No frame of {path} can be used. {reasons or 'The file is empty.'}")
        report.n_molecules, report.n_conformations = writer.n_molecules, writer.n_conformations
    return report


def extxyz_frames(path: Path) -> Iterator[str]:
    """The text of each frame: one bad frame must not make the others unreadable, as it does in ase.io.read.

    Raises:
        DataError: the file cannot be read, or is no text.
    """
    try:
        lines = io.StringIO(path.read_text(encoding="utf-8-sig")).readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 0
    while start < len(lines):
        first = lines[start].strip()
        if not first:
            start += 1
            continue
        if not first.isdecimal():
            # The count of atoms is damaged, so go on at the next line that can begin a frame.
            end = next((j for j in range(start + 1, len(lines)) if lines[j].strip().isdecimal()), len(lines))
        else:
            end = start + int(first) + 2
            while end < len(lines) and lines[end].startswith("VEC"):  # the cell of a plain XYZ file
                end += 1
        yield "".join(lines[start:end])
        start = end


def _read_frame(text: str, charge: int | None) -> tuple[Atoms, int]:
    """One frame and its total charge, by default the one it names.

    Raises:
        InvalidStructureError: too few lines, a fractional charge, positions or cells that cannot be evaluated.
        DataError: labels that are infinite, of another shape than theirs, or of another charge.
        Exception: whatever ASE raises on malformed text.
    """
    from ase.io import read

    from consistent_calc.neighbors import neighbor_list
    from consistent_calc.structures import StructureBatch
    from consistent_calc.validity import MINIMAL_DISTANCE

    atoms = cast("Atoms", read(io.StringIO(text), format="extxyz", index=0))
    batch = StructureBatch.from_ase(atoms, charge=charge).validate(warn_odd_electrons=False)
    coincident = neighbor_list(batch, MINIMAL_DISTANCE).edges
    if coincident.shape[1]:
        raise InvalidStructureError(f"atoms {int(coincident[0, 0])} and {int(coincident[1, 0])} are at one place")
    total = round(float(batch.charge[0]))
    _check_labels({} if atoms.calc is None else atoms.calc.results, len(atoms), total)
    return atoms, total


def _shapes(n: int) -> dict[str, tuple[int, ...]]:
    """The results that are kept, with their shapes in a frame of ``n`` atoms."""
    return {"energy": (), "forces": (n, 3), "charges": (n,), "dipole": (3,)}


def _check_labels(results: dict[str, Any], n: int, total: int) -> None:
    """Refuses results that a store cannot hold, or would hold as something else: NumPy makes a vector of a scalar.

    Raises:
        DataError: which one, and why.
    """
    for name, value in results.items():
        if np.isinf(value).any():
            raise DataError(f"{name} is infinite")
    for name, shape in _shapes(n).items():
        values = np.asarray(results.get(name, np.zeros(shape)))
        if values.shape != shape or values.dtype.kind not in "iuf":
            raise DataError(f"{name} must be numbers of shape {shape}, got {values.dtype} of shape {values.shape}")
    found = float(np.sum(results.get("charges", total)))
    if abs(found - total) > MAX_CHARGE_ERROR:
        raise DataError(
            f"the atomic charges add up to {found:+.2f} e, but the total charge is {total:+d} e; set info 'charge'"
        )


def _bucket(smiles: str, atoms: Atoms) -> int:
    if smiles:
        return bucket_of_smiles(smiles)
    numbers = atoms.numbers.tolist()
    if atoms.pbc.any():  # a crystal and its supercells stay together
        counts = np.bincount(numbers)
        divisor = reduce(math.gcd, [int(c) for c in counts if c])
        numbers = [z for z, c in enumerate(counts) for _ in range(c // divisor)]
    return int(hashlib.md5(chemical_formula(numbers).encode()).hexdigest(), 16) % N_BUCKETS


def _record(smiles: str, charge: int, images: list[Atoms], max_force: float) -> MoleculeRecord:
    first = images[0]
    forces = _labels(images, "forces")
    periodic = first.pbc.any()
    with np.errstate(invalid="ignore"):  # frames without forces are NaN and compare as False
        relaxed = np.linalg.norm(forces, axis=-1).max(axis=1) < max_force
    return MoleculeRecord(
        numbers=first.numbers,
        positions=np.stack([a.positions for a in images]),
        smiles=smiles,
        bucket=_bucket(smiles, first),
        source="extxyz",
        charge=charge,
        equilibrium=relaxed,
        energy=_present(_labels(images, "energy")),
        forces=_present(forces),
        partial_charges=_present(_labels(images, "charges")),
        dipole=_present(_labels(images, "dipole")),
        cell=np.stack([a.cell.array for a in images]) if periodic else None,
        pbc=np.stack([a.pbc for a in images]) if periodic else None,
    )


def _labels(images: list[Atoms], name: str) -> np.ndarray:
    """A calculator result of every frame, NaN where a frame lacks it, ``[n_frames, *shape]``."""
    out = np.full((len(images), *_shapes(len(images[0]))[name]), np.nan)
    for i, atoms in enumerate(images):
        value = None if atoms.calc is None else atoms.calc.results.get(name)
        if value is not None:
            out[i] = value
    return out


def _present(values: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(values).all() else values
