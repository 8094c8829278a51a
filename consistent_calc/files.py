"""Files that are whole at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file in one step: an error, a kill or a full disk leaves the old one as it was.

    Args:
        path: of the file, in an existing folder; it need not exist itself.

    Yields:
        Where to write the new one.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
