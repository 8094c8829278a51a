"""Fixtures: a small synthetic store, and the raw data where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from data_examples import random_record, write_store

from consistent_calc.data import MoleculeRecord


@pytest.fixture
def records() -> list[MoleculeRecord]:
    """Three molecules in each of the 100 buckets."""
    rng = np.random.default_rng(0)
    return [random_record(rng, bucket) for bucket in list(range(100)) * 3]


@pytest.fixture
def store_path(tmp_path: Path, records: list[MoleculeRecord]) -> Path:
    """A store of :func:`records`."""
    return write_store(tmp_path / "store.h5", records)


@pytest.fixture
def raw_data() -> Path:
    """Folder of the raw data; the test is skipped where there is none."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CONSISTENT_CALC_RAW_DATA", default))
    if not folder.is_dir():
        pytest.skip("no raw data; set CONSISTENT_CALC_RAW_DATA")
    return folder
