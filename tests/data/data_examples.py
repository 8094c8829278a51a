"""Small synthetic molecules and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from consistent_calc.data import MoleculeRecord, StoreWriter

LEVEL = "test/level"


def random_record(rng: np.random.Generator, bucket: int | None, **changes: Any) -> MoleculeRecord:
    """A molecule of 1-6 atoms in 1-4 conformations, with all labels of the schema."""
    n, c = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    values: dict[str, Any] = {
        "numbers": rng.integers(1, 18, n),
        "positions": rng.normal(size=(c, n, 3)).astype(np.float32),
        "smiles": f"molecule of bucket {bucket}",
        "bucket": bucket,
        "source": "synthetic",
        "charge": int(rng.integers(-2, 3)),
        "bonds": [(i, i + 1, 2) for i in range(n - 1)],
        "stereo": [(0, 1, 2, 3, -1)] if n > 3 else [],
        "kind": rng.integers(0, 3, c),
        "equilibrium": rng.random(c) < 0.5,
        "energy": rng.normal(size=c) - 1e5,
        "forces": rng.normal(size=(c, n, 3)).astype(np.float32),
        "partial_charges": rng.normal(size=(c, n)).astype(np.float32),
        "dipole": rng.normal(size=(c, 3)).astype(np.float32),
    }
    return MoleculeRecord(**(values | changes))


def write_store(path: Path, records: list[MoleculeRecord], **options: Any) -> Path:
    """A store of these molecules."""
    with StoreWriter(path, level=LEVEL, provenance="synthetic", licence="MIT", kinds={0: "a", 2: "c"}, **options) as w:
        for record in records:
            w.add(record)
    return path
