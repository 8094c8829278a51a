"""RDKit's readers, with their log as a reason instead of lines on stderr."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rdkit import Chem, rdBase

if TYPE_CHECKING:
    from rdkit.Chem import Mol


#: Where RDKit says nothing.
_UNKNOWN = "syntax error or impossible valence."


def sdf_records(path: Path) -> Iterator[tuple[str, Mol | None, str]]:
    """Name, molecule and, where it cannot be read, RDKit's reason of every record of an SDF; hydrogens are kept.

    Raises:
        OSError: the file cannot be read.
    """
    # A byte that is no UTF-8 spoils its own text, not the file.
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    # RDKit's own division loses what follows a first record without content.
    *records, rest = re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE)
    for record in [*records, rest] if rest.strip() else records:
        mol, reason = quietly(lambda record=record: Chem.MolFromMolBlock(record, removeHs=False))  # type: ignore[misc]
        yield record.partition("\n")[0].strip(), mol, reason


def quietly(read: Callable[[], Mol | None]) -> tuple[Mol | None, str]:
    """What an RDKit reader returns, and the first error that it logged (or might have)."""
    with rdBase.BlockLogs():
        if not hasattr(rdBase, "CaptureErrorLog"):  # RDKit before 2025.09
            return read(), _UNKNOWN
        with rdBase.CaptureErrorLog() as log:
            mol = read()
        messages = [re.sub(r"^\[[\d:.]+\]\s*", "", line).strip() for line in log.messages.splitlines()]
    return mol, next((line for line in messages if line), _UNKNOWN)
