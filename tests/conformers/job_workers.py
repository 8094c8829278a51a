"""What the workers of the tests run in the place of the trained model; they import it by its name."""

from __future__ import annotations

import os

from consistent_calc.conformers.input import Failure
from consistent_calc.conformers.result import ConformerResult


def work(chunk, options, checkpoint, device):
    """Every molecule fails politely, but for ammonia, which takes down the process."""
    if any(entry.smiles == "N" for entry in chunk):
        os._exit(1)
    return [
        ConformerResult(e.id, e.name, e.smiles, failure=Failure("polite", f"seed {options.seed} of {checkpoint}"))
        for e in chunk
    ]
