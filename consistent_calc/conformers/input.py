"""Reads molecules from SMILES, files and RDKit; a bad entry becomes a typed failure, never an exception.

Nothing is guessed: no fragment is stripped, no charge, protonation state or tautomer is changed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from rdkit import Chem, rdBase

from consistent_calc.conformers.stereoisomers import clean_labels, stereo_notes, stereoisomers
from consistent_calc.elements import symbol
from consistent_calc.rdkit_readers import quietly, sdf_records

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SUFFIXES = (".smi", ".smiles", ".txt", ".csv", ".sdf", ".mol")


@dataclass(frozen=True)
class Failure:
    """Why an input has no result.

    Attributes:
        reason: a short code for tables, such as ``"invalid_smiles"``.
        message: what happened and what to do about it.
    """

    reason: str
    message: str


@dataclass(frozen=True, eq=False)
class MoleculeInput:
    """One input entry: a molecule, or the reason why there is none.

    Attributes:
        id: unique within one call of :func:`read_molecules`.
        name: as given, on one line, or the empty string.
        smiles: canonical SMILES of the molecule, else the text that could not be read.
        mol: with all hydrogens explicit and no conformers; None after a failure.
        failure: None for a usable molecule.
        notes: what the user should know, such as unspecified stereo centres.
    """

    id: str
    name: str
    smiles: str
    mol: Mol | None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()


class _Entry(NamedTuple):
    name: str
    text: str
    mol: Mol | None
    failure: Failure | None


def read_molecules(
    source: str | Path | Mol | Iterable[str | Path | Mol],
    *,
    elements: Collection[int] | None = None,
    enumerate_stereo: bool = False,
) -> Iterator[MoleculeInput]:
    """Yields one :class:`MoleculeInput` an entry, in order.

    Args:
        source: a SMILES string (a name may follow after a blank); the path of a ``.smi``, ``.smiles``, ``.txt`` (one
            SMILES and name a line), ``.csv`` (a column named SMILES), ``.sdf`` or ``.mol`` file; an RDKit molecule; or
            any iterable of these. Coordinates in files are used for their stereochemistry only, those of RDKit
            molecules not at all (theirs is in their tags).
        elements: atomic numbers that are allowed; None allows all.
        enumerate_stereo: yield every stereoisomer of a molecule with unspecified centres or double bonds that ETKDG
            finds a geometry of (at most 64) instead of one entry with a note; their names get a number.

    Failure reasons:
        ``file_not_found``, ``unreadable_file``, ``no_smiles_column``, ``invalid_smiles``, ``invalid_molecule``,
        ``invalid_record``, ``empty_molecule``, ``multiple_fragments``, ``unsupported_element``, ``odd_electrons``.
    """
    used: set[str] = set()
    for number, raw in enumerate(_entries(source), start=1):
        # A line break, or the mark of its end, would cut the record or the row that the text is written to.
        name = " ".join(raw.name.replace("$$$$", "$").split())
        entry = raw._replace(name=name, text=" ".join(raw.text.split()))
        unique = _unique(entry.name or f"molecule_{number}", used)
        if entry.mol is None or entry.failure is not None:
            yield MoleculeInput(unique, entry.name, entry.text, None, entry.failure)
            continue
        prepared = _prepare(entry.mol, elements)
        if isinstance(prepared, Failure):
            yield MoleculeInput(unique, entry.name, entry.text, None, prepared)
            continue
        isomers, of_all = stereoisomers(prepared) if enumerate_stereo else ([prepared], ())
        for k, mol in enumerate(isomers, start=1):
            notes = (*stereo_notes(entry.text, mol), *of_all)
            with rdBase.BlockLogs():  # RDKit warns of a proton that it keeps
                smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
            numbered = f"_isomer{k}" if len(isomers) > 1 else ""
            label = _unique(unique + numbered, used) if numbered else unique
            yield MoleculeInput(label, entry.name and entry.name + numbered, smiles, mol, None, notes)


def count_entries(source: str | Path | Mol | Iterable[str | Path | Mol]) -> int | None:
    """Number of entries of a source, for a progress display, by counting lines and records without reading molecules.

    Comments and blank lines of a CSV file are counted too; None where the number cannot be known beforehand.
    """
    if isinstance(source, (list, tuple)):
        counts = [count_entries(item) for item in source]
        return None if any(c is None for c in counts) else sum(c for c in counts if c is not None)
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is None or path.suffix.lower() not in SUFFIXES or not path.is_file():
        return 1 if isinstance(source, (str, Path, Chem.Mol)) else None
    suffix = path.suffix.lower()
    with path.open("rb") as lines:
        if suffix == ".sdf":
            return sum(line.startswith(b"$$$$") for line in lines)
        if suffix == ".csv":
            return max(0, sum(1 for _ in lines) - 1)
        if suffix == ".mol":
            return 1
        return sum(bool(line.strip()) and not line.lstrip().startswith(b"#") for line in lines)


def source_files(source: object) -> list[Path]:
    """The existing files among the sources; those that an iterator has still to give are not known."""
    if isinstance(source, (list, tuple, set)):
        return [path for item in source for path in source_files(item)]
    return [path] if _names_file(source) and (path := Path(source)).is_file() else []


def _names_file(source: object) -> TypeGuard[str | Path]:
    """Whether a source is to be read as a file, be there one or not."""
    return isinstance(source, Path) or (isinstance(source, str) and source.lower().endswith(SUFFIXES))


def _unique(wanted: str, used: set[str]) -> str:
    unique, k = wanted, 1
    while unique in used:
        k += 1
        unique = f"{wanted}_{k}"
    used.add(unique)
    return unique


# ---------------------------------------------------------------------- sources


def _entries(source: str | Path | Mol | Iterable[str | Path | Mol]) -> Iterator[_Entry]:
    if isinstance(source, Chem.Mol):
        yield _sanitized(_name(source), Chem.Mol(source), "invalid_molecule")
    elif _names_file(source):
        yield from _file_entries(Path(source))
    elif isinstance(source, str):
        entry = _smiles_entry(source)
        yield from _file_entries(Path(source)) if entry.mol is None and _is_file(source) else [entry]
    elif isinstance(source, Iterable):
        for item in source:
            yield from _entries(item)
    else:
        message = f"A molecule is given as SMILES, file path or RDKit molecule, not as {type(source).__name__}."
        yield _Entry("", repr(source), None, Failure("invalid_molecule", message))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def _file_entries(path: Path) -> Iterator[_Entry]:
    readers: dict[str, Callable[[Path], Iterator[_Entry]]] = {
        ".csv": _csv_entries,
        ".sdf": _sdf_entries,
        ".mol": _sdf_entries,
    }
    if path.suffix.lower() not in SUFFIXES:
        message = f"Unknown kind of file {path.name!r}; use one of {', '.join(SUFFIXES)}."
        yield _Entry("", str(path), None, Failure("invalid_record", message))
    elif not path.is_file():
        yield _Entry("", str(path), None, Failure("file_not_found", f"There is no file {str(path)!r}."))
    else:
        empty = True
        try:
            for entry in readers.get(path.suffix.lower(), _line_entries)(path):
                empty = False
                yield entry
            if empty:
                raise OSError("it holds no molecules")
        except (OSError, csv.Error) as error:
            message = f"The file {str(path)!r} cannot be read (any further): {error}"
            yield _Entry("", str(path), None, Failure("unreadable_file", message))


def _line_entries(path: Path) -> Iterator[_Entry]:
    """One SMILES a line, perhaps followed by a name; blank lines, comments and a header are skipped."""
    # A byte that is no UTF-8 spoils its own line, not the file.
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines):
            text = line.strip()
            is_header = number == 0 and text.split(maxsplit=1)[:1] in (["SMILES"], ["smiles"], ["Smiles"])
            if text and not text.startswith("#") and not is_header:
                yield _smiles_entry(text)


def _csv_entries(path: Path) -> Iterator[_Entry]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        table = csv.DictReader(lines)
        columns = {column.strip().lower(): column for column in table.fieldnames or ()}
        if "smiles" not in columns:
            message = f"{path.name!r} has no column named SMILES; it has: {', '.join(columns) or 'none'}."
            yield _Entry("", str(path), None, Failure("no_smiles_column", message))
            return
        named = next((columns[c] for c in ("name", "id", "title") if c in columns), None)
        for row in table:
            entry = _smiles_entry((row[columns["smiles"]] or "").strip())
            name = (row[named] or "").strip() if named else ""
            yield entry._replace(name=name or entry.name)


def _sdf_entries(path: Path) -> Iterator[_Entry]:
    """Records of an SDF; stereo comes from the coordinates (3D) or from wedges and double bonds (2D)."""
    for i, (name, mol, reason) in enumerate(sdf_records(path), start=1):
        text = f"record {i} of {path.name}"
        if mol is None:
            message = f"Record {i} of {path.name!r} cannot be read: {reason}"
            yield _Entry(name, text, None, Failure("invalid_record", message))
        else:
            yield _Entry(name, text, mol, None)


def _smiles_entry(text: str) -> _Entry:
    text = text.encode("utf-8", "replace").decode()  # a command line may hold bytes that are no UTF-8
    mol, reason = quietly(lambda: Chem.MolFromSmiles(text))
    if mol is None:
        message = f"RDKit cannot read the SMILES {text!r}: {reason}"
        return _Entry("", text, None, Failure("invalid_smiles", message))
    return _Entry(_name(mol), text, mol, None)


def _name(mol: Mol) -> str:
    try:
        return mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    except UnicodeDecodeError as error:  # of a file that was not UTF-8
        return str(error.object, "utf-8", errors="replace")


def _sanitized(name: str, mol: Mol, reason: str) -> _Entry:
    """Sanitises a caller's molecule, which may have been built without."""
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except ValueError as error:
        return _Entry(name, name, None, Failure(reason, f"RDKit rejects the molecule: {error}"))
    return _Entry(name, Chem.MolToSmiles(mol), mol, None)


# ---------------------------------------------------------------------- rules


def _prepare(mol: Mol, elements: Collection[int] | None) -> Mol | Failure:
    """The molecule with explicit hydrogens and clean stereo labels, or the first rule it breaks."""
    if mol.GetNumAtoms() == 0:
        return Failure("empty_molecule", "The entry holds no atoms.")
    n_fragments = len(Chem.GetMolFrags(mol))
    if n_fragments > 1:
        return Failure(
            "multiple_fragments",
            f"The entry holds {n_fragments} fragments (a salt or a mixture). Give the one molecule you mean, with its "
            "charge; nothing is removed silently.",
        )
    if any(atom.HasQuery() for atom in mol.GetAtoms()) or any(bond.HasQuery() for bond in mol.GetBonds()):
        return Failure("invalid_molecule", "The entry is a substructure query (SMARTS), not a molecule; give a SMILES.")
    mol = Chem.AddHs(mol)
    numbers = {atom.GetAtomicNum() for atom in mol.GetAtoms()}
    unknown = {0} & numbers if elements is None else numbers - set(elements)
    if unknown:
        names = ", ".join("dummy atom" if z == 0 else symbol(z) for z in sorted(unknown))
        allowed = "" if elements is None else f" Known are {', '.join(symbol(z) for z in sorted(elements))}."
        return Failure("unsupported_element", f"The molecule contains {names}.{allowed}")
    n_electrons = sum(atom.GetAtomicNum() for atom in mol.GetAtoms()) - Chem.GetFormalCharge(mol)
    n_unpaired = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    if n_electrons % 2 or n_unpaired:
        return Failure(
            "odd_electrons",
            f"The molecule has unpaired electrons ({n_electrons} electrons, {n_unpaired} of them radical); the model "
            "was trained on closed shells only. Check the charge and the hydrogens.",
        )
    mol.RemoveAllConformers()
    clean_labels(mol)
    return mol
