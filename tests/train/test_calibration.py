"""Calibration finds what is put in."""

from __future__ import annotations

import numpy as np
import pytest

from consistent_calc.errors import DataError
from consistent_calc.train.calibration import calibrate

RNG = np.random.default_rng(0)
STD = RNG.uniform(0.1, 2.0, 20_000)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_errors_drawn_from_the_standard_deviations(scale: float) -> None:
    found = calibrate(STD, scale * STD * RNG.normal(size=len(STD)))
    assert found.scale == pytest.approx(scale, rel=0.03)
    assert 0.4 < found.spearman < 0.7
    assert [b.n for b in found.bins] == [2000] * 10
    for b in found.bins:
        assert b.error_rms == pytest.approx(scale * b.std, rel=0.1)
        assert b.error_median == pytest.approx(0.67 * scale * b.std, rel=0.15)
        assert b.error_90 == pytest.approx(1.64 * scale * b.std, rel=0.15)


def test_ranks() -> None:
    assert calibrate(STD, -(STD**3)).spearman == pytest.approx(1)
    assert calibrate(STD, 5 - STD).spearman == pytest.approx(-1)
    assert abs(calibrate(STD, RNG.normal(size=len(STD))).spearman) < 0.05
    assert calibrate(np.ones(50), STD[:50]).spearman == 0
    assert calibrate(np.zeros(50), STD[:50]).scale == np.inf


def test_missing_labels_do_not_count() -> None:
    error = np.array([1.0, np.nan, -2.0, 3.0])
    found = calibrate(np.array([1.0, 100.0, 2.0, 3.0]), error, n_bins=2)
    assert found.scale == pytest.approx(1)
    assert sum(b.n for b in found.bins) == 3
    with pytest.raises(DataError, match="two errors"):
        calibrate(np.ones(2), error[:2])
