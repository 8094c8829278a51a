"""Products inside the kernels against numpy's, in all forms of tiles and remainders."""

from __future__ import annotations

import numpy as np
import pytest

from consistent_calc.nn.fused_product import add_product, panels, put_product
from consistent_calc.simd import VECTOR


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-5)])
@pytest.mark.parametrize("n_columns", [1, 7, 8, 16, 31, 32, 64, 75])
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 9, 19])
def test_products(dtype: type, tolerance: float, n_columns: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 4, 6, 40):
        bound = tolerance * max(1, size / 6)
        x, weight, out = (
            rng.normal(size=s).astype(dtype) for s in ((rows, size), (size, n_columns), (rows, n_columns))
        )
        expected = out + x @ weight
        add_product(x, panels(weight), out)
        np.testing.assert_allclose(out, expected, atol=bound)
        out[:] = np.nan
        put_product(x, panels(weight), out)
        np.testing.assert_allclose(out, x @ weight, atol=bound)


def test_rows_may_lie_apart_and_neighbors_stay() -> None:
    rng = np.random.default_rng(0)
    x, weight, out = rng.normal(size=(9, 12)), rng.normal(size=(6, 32)), rng.normal(size=(20, 40))
    expected = out.copy()
    expected[2:20:2, 4:36] += x[:, 3:9] @ weight
    add_product(x[:, 3:9], panels(weight), out[2:20:2, 4:36])
    np.testing.assert_allclose(out, expected, atol=1e-13)


def test_panels() -> None:
    width = 2 * VECTOR // 8
    weight = np.arange(2.0 * (width + 1)).reshape(2, -1)
    found = panels(weight)
    assert found.shape == (2, 2, width)
    np.testing.assert_array_equal(found[0], weight[:, :width])
    np.testing.assert_array_equal(found[1, :, 0], weight[:, width])
    assert not found[1, :, 1:].any()
    assert panels(weight[:, : width // 2]).shape == (1, 2, width // 2)
