"""Vectors inside kernels against numpy, for as many lanes as the processor has and for one."""

from __future__ import annotations

import numpy as np
import pytest

from consistent_calc.jit import compiled
from consistent_calc.simd import VECTOR, add, broadcast, fma, lanes_of, load, multiply, store, total


@compiled
def _kernel(a, b, number, lanes, out, sums):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        for c in range(0, a.shape[1], len(lanes)):
            x, y = load(a, i, c, lanes), load(b, i, c, lanes)
            z = add(fma(broadcast(number, lanes), multiply(x, y), y), x)
            store(out, i, c, z)
            sums[i] += total(z)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-5)])
@pytest.mark.parametrize("columns", [32, 5])
def test_the_same_as_numpy(dtype: type, tolerance: float, columns: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(3, columns + 2)).astype(dtype)[:, 1:-1] for _ in range(2))
    out, sums = np.empty((3, columns), dtype), np.zeros(3, dtype)
    _kernel(a, b, dtype(1.5), lanes_of(dtype, columns), out, sums)
    np.testing.assert_allclose(out, dtype(1.5) * a * b + b + a, atol=tolerance)
    np.testing.assert_allclose(sums, out.sum(1), atol=10 * tolerance)


def test_lanes() -> None:
    assert len(lanes_of(np.float64, 128, 64)) == VECTOR // 8
    assert len(lanes_of(np.float32, 128, 64)) == VECTOR // 4
    assert len(lanes_of(np.float32, 128, 12)) == 1
