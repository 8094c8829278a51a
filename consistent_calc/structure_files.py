"""Structure files of the command line: every structure of a file is usable or has a failure of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from consistent_calc.console import WITH_INFO, WITH_RESULTS
from consistent_calc.errors import DataError, InvalidStructureError

if TYPE_CHECKING:
    from ase import Atoms

    from consistent_calc.structures import StructureBatch


@dataclass(frozen=True, eq=False)
class Usable:
    """A structure that a model can evaluate.

    Attributes:
        atoms: as read, but without results that came with the file.
        batch: the same as a batch of one.
    """

    atoms: Atoms
    batch: StructureBatch


@dataclass(frozen=True, eq=False)
class Unusable:
    """A structure that could not be read, or that no model could answer.

    Attributes:
        formula: empty where it could not be read.
        reason: why.
    """

    formula: str
    reason: InvalidStructureError


def read_structures(file: Path, elements: Iterable[int], charge: int | None = None) -> list[Usable | Unusable]:
    """All structures of a file in one of ASE's formats, or of an SDF.

    Args:
        file: its format is told from name and content.
        elements: atomic numbers that the model knows.
        charge: total charge, None for those that come with the structures.

    Raises:
        InvalidStructureError, DataError: the file as a whole cannot be read, or holds nothing.
    """
    from consistent_calc.structures import StructureBatch

    # Of an SDF ASE reads one molecule, and no charges; of extended XYZ nothing, if the last frame was cut off.
    readers = dict.fromkeys((".sdf", ".mol"), _read_sdf) | dict.fromkeys((".xyz", ".extxyz"), _read_extxyz)
    images = readers.get(file.suffix.lower(), _read_frames)(file)
    if not images:
        raise InvalidStructureError(f"{file} holds no structures.")
    found: list[Usable | Unusable] = []
    for image in images:
        if isinstance(image, InvalidStructureError):
            found.append(Unusable("", image))
            continue
        image.calc = None  # energies that came with the file must not pass for results
        if charge is not None:
            image.info["charge"] = charge
        try:
            found.append(Usable(image, StructureBatch.from_ase(image).validate(elements)))
        except InvalidStructureError as error:
            found.append(Unusable(image.get_chemical_formula(), error))
    return found


def what_ions_need(structures: Iterable[Usable | Unusable]) -> dict[str, tuple[str, ...]]:
    """The formats that keep the charges of all structures, for :func:`consistent_calc.console.check_target`."""
    usable = [s for s in structures if isinstance(s, Usable)]
    told = [round(s.atoms.get_initial_charges().sum()) for s in usable]
    charges = [round(float(s.batch.charge[0])) for s in usable]
    if not any(told) and not any(charges):
        return {}
    return {"the charges of ions": WITH_RESULTS if charges == told else WITH_INFO}


def write_images(output: Path, images: list[Atoms]) -> None:
    """Writes structures; if ASE cannot do so in this format, as extended XYZ beside it, so that they are not lost."""
    from ase.io import write

    try:
        write(output, images)
    except OSError:
        raise
    except Exception as error:  # ASE's writers raise anything
        refuge = output.with_name(output.name + ".xyz")
        write(refuge, images, format="extxyz")
        message = f"ASE cannot write this to {output} ({type(error).__name__}: {error}); it is in {refuge}."
        raise DataError(message) from None


def _read_frames(file: Path) -> list[Atoms | InvalidStructureError]:
    """All frames of a file in one of ASE's formats."""
    from ase.io import read

    try:
        return cast("list[Atoms | InvalidStructureError]", read(file, index=":"))
    except Exception as error:  # ASE's readers raise anything, down to StopIteration
        raise InvalidStructureError(f"ASE cannot read {file}: {type(error).__name__}: {error}") from None


def _read_extxyz(file: Path) -> list[Atoms | InvalidStructureError]:
    """All frames of an extended XYZ file, one by one."""
    from io import StringIO

    from ase.io import read

    from consistent_calc.data.importers.extxyz import extxyz_frames

    images: list[Atoms | InvalidStructureError] = []
    for text in extxyz_frames(file):
        try:
            images.append(cast("Atoms", read(StringIO(text), format="extxyz", index=0)))
        except Exception as error:  # ASE's readers raise anything
            images.append(InvalidStructureError(f"ASE cannot read this frame: {type(error).__name__}: {error}"))
    return images


def _read_sdf(file: Path) -> list[Atoms | InvalidStructureError]:
    """All molecules of an SDF, with their charges."""
    from consistent_calc.rdkit_readers import sdf_records
    from consistent_calc.structures import StructureBatch

    images: list[Atoms | InvalidStructureError] = []
    for _, mol, reason in sdf_records(file):
        try:
            if mol is None:
                raise InvalidStructureError(f"RDKit cannot read this molecule: {reason}")
            images += StructureBatch.from_rdkit(mol).to_ase()
        except InvalidStructureError as error:
            images.append(error)
    return images
