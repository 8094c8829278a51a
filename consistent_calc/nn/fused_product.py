"""Products of small matrices inside the kernels, as fast as a core can multiply.

A compiler makes of three nested loops a third of what the core can do, because sums go through the memory again and
again; a library's product has threads of its own and takes longer to be called than to run. Here a tile of the result
stays in vector registers while the sum runs (Goto & van de Geijn, ACM Trans. Math. Softw. 2008, 34, 12). Tiles are
written in LLVM's intermediate language, which has vectors on every processor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from consistent_calc.jit import compiled, helper
from consistent_calc.simd import VECTOR, load_from, multiply_add, pointer_to, spread, store_at

#: Rows of a tile that is two vectors wide.
ROWS = 4


def panels(weight: NDArray[Any]) -> NDArray[Any]:
    """The columns of a matrix in groups, as :func:`add_product` takes them.

    Args:
        weight: ``[size, n_columns]``.

    Returns:
        ``[n_panels, size, width]``: two vectors wide, one where that holds all columns; zeros fill the last panel.
    """
    lanes = VECTOR // weight.itemsize
    size, n_columns = weight.shape
    width = lanes if n_columns <= lanes else 2 * lanes
    out = np.zeros((size, -(-n_columns // width) * width), weight.dtype)
    out[:, :n_columns] = weight
    return np.ascontiguousarray(out.reshape(size, -1, width).transpose(1, 0, 2))


def _tile(n_rows: int, n_vectors: int) -> Any:
    """Some rows of ``x @ weight``, put where ``out`` begins at row and column, or added to what is there."""

    @intrinsic
    def tile(typing_context, x, row, weight, out, column, size, add):  # type: ignore[no-untyped-def]
        signature = types.void(x, types.intp, weight, out, types.intp, types.intp, types.boolean)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x_array, row, w_array, o_array, column, size, add = arguments
            number, integer = context.get_value_type(x.dtype), row.type
            lanes = VECTOR * 8 // x.dtype.bitwidth
            vector = ir.VectorType(number, lanes)
            pointer = partial(pointer_to, context, builder)
            rows = [builder.add(row, integer(r)) for r in range(n_rows)]
            offsets = [integer(v * lanes) for v in range(n_vectors)]
            places = [pointer(out, o_array, r, builder.add(column, o), vector) for r in rows for o in offsets]
            starts = [builder.select(add, load_from(builder, p), vector(None)) for p in places]

            before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            k = builder.phi(integer)
            sums = [builder.phi(vector) for _ in places]
            columns = [load_from(builder, pointer(weight, w_array, k, o, vector)) for o in offsets]
            factors = [load_from(builder, pointer(x, x_array, r, k, number)) for r in rows]
            terms = [(spread(builder, factor, vector), w) for factor in factors for w in columns]
            new = [multiply_add(builder, *pair, old) for pair, old in zip(terms, sums, strict=True)]
            following = builder.add(k, integer(1))
            for phi, first, later in zip([k, *sums], [integer(0), *starts], [following, *new], strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(later, body)
            builder.cbranch(builder.icmp_signed("<", following, size), body, after)
            builder.position_at_end(after)
            for p, found in zip(places, new, strict=True):
                store_at(builder, found, p)
            return context.get_dummy_value()

        return signature, generate

    return tile


_wide, _wide_row = _tile(ROWS, 2), _tile(1, 2)
_narrow, _narrow_row = _tile(2 * ROWS, 1), _tile(1, 1)


@helper
def _product(x, weight, out, add):  # type: ignore[no-untyped-def]
    n, size, width = len(x), x.shape[1], weight.shape[2]
    for p in range(len(weight)):
        panel, column, i = weight[p], p * width, 0
        if column + width > out.shape[1] or size == 0:
            for i in range(n):
                for c in range(column, min(column + width, out.shape[1])):
                    total = out[i, c] if add else x.dtype.type(0)
                    for k in range(size):
                        total += x[i, k] * panel[k, c - column]
                    out[i, c] = total
        elif width * x.itemsize == VECTOR:
            while i + 2 * ROWS <= n:
                _narrow(x, i, panel, out, column, size, add)
                i += 2 * ROWS
            while i < n:
                _narrow_row(x, i, panel, out, column, size, add)
                i += 1
        else:
            while i + ROWS <= n:
                _wide(x, i, panel, out, column, size, add)
                i += ROWS
            while i < n:
                _wide_row(x, i, panel, out, column, size, add)
                i += 1


@compiled
def put_product(x, weight, out):  # type: ignore[no-untyped-def]
    """Puts ``x @ weight`` into the first rows of ``out``, with the weight as :func:`panels` gives it.

    Rows may lie apart, but not columns.
    """
    _product(x, weight, out, False)


@compiled
def add_product(x, weight, out):  # type: ignore[no-untyped-def]
    """As :func:`put_product`, but adds to what is there."""
    _product(x, weight, out, True)
