"""Every tutorial runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))

#: Those that train a model.
SLOW = {"consistency", "fine_tuning"}


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) >= 4


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in TUTORIALS]
)
def test_tutorial_runs(path: Path) -> None:
    before = sorted(path.parent.rglob("*"))
    notebook = nbformat.read(path, as_version=4)
    # In its own folder, as Jupyter does it: a tutorial may read the data beside it, and writes nothing there.
    client = NotebookClient(
        notebook,
        timeout=1800 if path.stem in SLOW else 300,  # seconds a cell
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    assert sorted(path.parent.rglob("*")) == before
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures
