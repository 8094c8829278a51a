"""Products of small matrices inside the kernels, as fast as a core can multiply.

A compiler makes of three nested loops a third of what the core can do, because sums go through the memory again and
again; a library's product has threads of its own and takes longer to be called than to run. Here a tile of the result
stays in vector registers while the sum runs (Goto & van de Geijn, ACM Trans. Math. Softw. 2008, 34, 12). Tiles are
written in LLVM's intermediate language, which has vectors on every processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from consistent_calc.jit import REORDER, compiled

#: Bytes of a vector: of a register, or of two where these are shorter.
VECTOR = 64 if binding.get_host_cpu_features().get("avx512f") else 32
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
    """Adds the product of some rows of ``x`` and a panel to a tile of ``out`` that begins at row and column."""

    @intrinsic
    def tile(typing_context, x, row, weight, panel, out, column):  # type: ignore[no-untyped-def]
        number = x.dtype
        signature = types.void(x, types.intp, weight, types.intp, out, types.intp)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kinds = dict(zip(("x", "row", "weight", "panel", "out", "column"), signature.args, strict=True))
            given = dict(zip(kinds, arguments, strict=True))
            scalar = context.get_value_type(number)
            size_of_scalar = number.bitwidth // 8
            lanes = VECTOR // size_of_scalar
            vector, integer = ir.VectorType(scalar, lanes), ir.IntType(64)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            undefined = ir.Constant(vector, ir.Undefined)
            sum_flags = tuple(REORDER)

            def array(name):  # type: ignore[no-untyped-def]
                made = context.make_array(kinds[name])(context, builder, given[name])
                strides = cgutils.unpack_tuple(builder, made.strides, kinds[name].ndim)
                shape = cgutils.unpack_tuple(builder, made.shape, kinds[name].ndim)
                return builder.bitcast(made.data, ir.IntType(8).as_pointer()), strides, shape

            def load(pointer, offset, kind):  # type: ignore[no-untyped-def]
                found = builder.load(builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer()))
                found.align = size_of_scalar
                return found

            def constant(value):  # type: ignore[no-untyped-def]
                return ir.Constant(integer, value)

            x_data, x_strides, x_shape = array("x")
            w_data, w_strides, _ = array("weight")
            o_data, o_strides, _ = array("out")
            begin = builder.mul(given["panel"], w_strides[0])
            corner = builder.add(
                builder.mul(given["row"], o_strides[0]), builder.mul(given["column"], constant(size_of_scalar))
            )
            places = [
                builder.add(corner, builder.add(builder.mul(o_strides[0], constant(r)), constant(v * VECTOR)))
                for r in range(n_rows)
                for v in range(n_vectors)
            ]
            rows = [builder.mul(builder.add(given["row"], constant(r)), x_strides[0]) for r in range(n_rows)]
            starts = [load(o_data, place, vector) for place in places]
            before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            k = builder.phi(integer)
            k.add_incoming(constant(0), before)
            sums = [builder.phi(vector) for _ in starts]
            of_k = builder.add(begin, builder.mul(k, w_strides[1]))
            columns = [load(w_data, builder.add(of_k, constant(v * VECTOR)), vector) for v in range(n_vectors)]
            new = []
            for r, of_row in enumerate(rows):
                number_of_row = load(x_data, builder.add(of_row, builder.mul(k, constant(size_of_scalar))), scalar)
                first = builder.insert_element(undefined, number_of_row, ir.Constant(ir.IntType(32), 0))
                factor = builder.shuffle_vector(first, undefined, everywhere)
                for v, w in enumerate(columns):
                    product = builder.fmul(factor, w, flags=sum_flags)
                    new.append(builder.fadd(product, sums[r * n_vectors + v], flags=sum_flags))
            for total, start, term in zip(sums, starts, new, strict=True):
                total.add_incoming(start, before)
                total.add_incoming(term, body)
            following = builder.add(k, constant(1))
            k.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed("<", following, x_shape[1]), body, after)
            builder.position_at_end(after)
            for place, total in zip(places, new, strict=True):
                stored = builder.store(total, builder.bitcast(builder.gep(o_data, [place]), vector.as_pointer()))
                stored.align = size_of_scalar
            return context.get_dummy_value()

        return signature, generate

    return tile


_wide, _wide_row = _tile(ROWS, 2), _tile(1, 2)
_narrow, _narrow_row = _tile(2 * ROWS, 1), _tile(1, 1)


@compiled
def add_product(x, weight, out):  # type: ignore[no-untyped-def]
    """Adds ``x @ weight`` to ``out``, with the weight as :func:`panels` gives it; rows may lie apart, not columns."""
    n, size, width = len(x), x.shape[1], weight.shape[2]
    lanes = VECTOR // x.itemsize
    if size == 0:
        return
    for p in range(len(weight)):
        column, i = p * width, 0
        if column + width > out.shape[1]:
            for i in range(n):
                for c in range(column, out.shape[1]):
                    for k in range(size):
                        out[i, c] += x[i, k] * weight[p, k, c - column]
        elif width == lanes:
            while i + 2 * ROWS <= n:
                _narrow(x, i, weight, p, out, column)
                i += 2 * ROWS
            while i < n:
                _narrow_row(x, i, weight, p, out, column)
                i += 1
        else:
            while i + ROWS <= n:
                _wide(x, i, weight, p, out, column)
                i += ROWS
            while i < n:
                _wide_row(x, i, weight, p, out, column)
                i += 1
