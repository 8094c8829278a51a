"""Whether a standard deviation tells how large an error is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from consistent_calc.errors import DataError


@dataclass(frozen=True)
class StdBin:
    """Entries of similar standard deviation; all in the unit of the error.

    Attributes:
        n: how many.
        std: root mean square of the standard deviations.
        error_rms, error_median, error_90: root mean square, median and 90% quantile of the absolute errors.
    """

    n: int
    std: float
    error_rms: float
    error_median: float
    error_90: float


@dataclass(frozen=True)
class Calibration:
    """How standard deviations and errors go together.

    Attributes:
        spearman: rank correlation of standard deviation and absolute error: 1 sorts the errors perfectly, 0 tells
            nothing.
        scale: root mean square error over root mean square standard deviation: above 1 the ensemble is too sure of
            itself, and standard deviations should be multiplied by it.
        bins: from the smallest to the largest standard deviation.
    """

    spearman: float
    scale: float
    bins: tuple[StdBin, ...]


def calibrate(std: NDArray[np.float64], error: NDArray[np.float64], n_bins: int = 10) -> Calibration:
    """Compares standard deviations with errors; entries without an error (NaN) do not count.

    Args:
        std: ``[n]``, standard deviations.
        error: ``[n]``, errors in the same unit; their signs do not matter.
        n_bins: bins of about equal size.

    Raises:
        DataError: fewer than two entries.
    """
    known = ~np.isnan(error)
    std, error = std[known], np.abs(error[known])
    if len(error) < 2:
        raise DataError(f"A calibration needs at least two errors, got {len(error)}.")
    order = np.argsort(std)
    bins = [
        StdBin(
            n=len(rows),
            std=_rms(std[rows]),
            error_rms=_rms(error[rows]),
            error_median=float(np.median(error[rows])),
            error_90=float(np.quantile(error[rows], 0.9)),
        )
        for rows in np.array_split(order, min(n_bins, len(order)))
    ]
    spread = _rms(std)
    return Calibration(
        # Constant standard deviations have no ranks.
        spearman=float(spearmanr(std, error).statistic) if np.ptp(std) > 0 and np.ptp(error) > 0 else 0.0,
        scale=_rms(error) / spread if spread > 0 else float("inf"),
        bins=tuple(bins),
    )


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
