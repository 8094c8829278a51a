"""A small store of molecules held together by springs, and the configuration of a run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_molecules import CONFIG, SMILES, record

from consistent_calc.data import StoreWriter


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training molecules in bucket 0, the last two also in bucket 90 (validation)."""
    path = tmp_path_factory.mktemp("toy") / "toy.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, level="springs", provenance="test", licence="MIT", kinds={0: "all"}) as writer:
        for smiles in SMILES:
            writer.add(record(smiles, 0, rng))
        for smiles in SMILES[-2:]:
            writer.add(record(smiles, 90, rng))
    return path


@pytest.fixture
def run_folder(tmp_path: Path, toy_store: Path) -> Path:
    """A folder with the store and a configuration of 12 steps, ``config.toml``."""
    (tmp_path / "toy.h5").write_bytes(toy_store.read_bytes())
    (tmp_path / "config.toml").write_text(CONFIG.format(steps=12))
    return tmp_path
