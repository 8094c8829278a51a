"""What the commands share: the terminal, common options, loading of checkpoints, and errors as one clear line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consistent_calc.errors import ConsistentCalcError, DataError

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel

out, err = Console(), Console(stderr=True)


class Precision(StrEnum):
    """Precision of the network."""

    float32 = "float32"
    float64 = "float64"


Checkpoint = Annotated[
    Path | None, typer.Option(help="Checkpoint card or weights, or name of a shipped one; by default base.")
]
Level = Annotated[str | None, typer.Option(help="Level of theory; by default the checkpoint's first.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Charge = Annotated[int | None, typer.Option(help="Total charge; by default the one in the file, else 0.")]
Dtype = Annotated[Precision, typer.Option(help="Precision of the network.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turns the package's errors, and those of files and disks, into one line and exit status 1.

    A bug keeps its traceback.
    """
    try:
        yield
    except (ConsistentCalcError, OSError) as error:
        reason = error.reason if isinstance(error, ConsistentCalcError) else "file"
        err.print(f"[bold red]Error[/] ({reason}): {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None


def load(checkpoint: Path | None, device: str, dtype: Precision) -> ConsistentModel:
    import torch

    from consistent_calc.checkpoint import load_model

    return load_model(checkpoint, device=device, dtype=getattr(torch, dtype.value))


def new_table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def exit_on(failures: int, total: int) -> None:
    """Exit status 1 if anything failed; the rest of the batch is done."""
    if failures:
        err.print(f"[bold red]{failures} of {total} failed[/]", highlight=False)
        raise typer.Exit(1)


#: ASE's formats that keep the results of a calculation and initial charges, and those of them that keep ``info`` too.
WITH_RESULTS = ("extxyz", "traj", "db", "json")
WITH_INFO = WITH_RESULTS[:2]


def check_target(output: Path | None, *, n_images: int = 0, needs: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Makes the folder of an output file; what cannot be written is better known before the work than after it.

    Args:
        output: the file, or None.
        n_images: structures that ASE will write in the format that it tells from the name.
        needs: what must not be lost, each with the formats that keep it.

    Raises:
        DataError: the name tells no format that ASE writes as it should be, or one for a single structure where there
            are several.
    """
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if n_images:
        from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

        try:
            found = get_ioformat(filetype(str(output), read=False))
        except UnknownFileTypeError:
            found = None
        if found is None or not found.can_write:
            raise DataError(f"ASE writes no format for the name {output.name!r}; use for example .xyz or .traj.")
        if found.name in ("sdf", "mol"):
            raise DataError(f"ASE writes neither bonds nor charges to {output.name!r}; use for example .xyz or .traj.")
        for what, formats in (needs or {}).items():
            if found.name not in formats:
                raise DataError(f"ASE does not write {what} to {output.name!r}; use .xyz or .traj.")
        if n_images > 1 and found.single:
            raise DataError(f"{output.name} can hold one structure, not {n_images}; use for example .xyz or .traj.")
