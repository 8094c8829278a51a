"""Vectors of numbers inside kernels, in LLVM's intermediate language, which has them on every processor.

A compiler makes vectors of loops by itself, but a loop of 32 steps is too short for it, and one over several arrays has
too many that might overlap. How many numbers a vector has is said by the length of a tuple, ``lanes``, which is part of
the type and so known when a kernel is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, datamodel
from numba.extending import intrinsic, models, register_model
from numpy.typing import DTypeLike

from consistent_calc.jit import REORDER

#: Bytes of a vector: of a register, or of two where these are shorter.
VECTOR = 64 if binding.get_host_cpu_features().get("avx512f") else 32


def lanes_of(dtype: DTypeLike, *sizes: int) -> tuple[int, ...]:
    """As many lanes as a vector of this type has; a single one if that does not divide all sizes."""
    n = VECTOR // np.dtype(dtype).itemsize
    return (0,) * (1 if any(size % n for size in sizes) else n)


class Vector(types.Type):
    """Some numbers of one type."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: datamodel.DataModelManager, kind: Vector) -> None:
        number = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.lanes))


def pointer_to(context, builder, kind, array, row, column, what):  # type: ignore[no-untyped-def]
    """To something that begins at an element of an array of two dimensions, whose columns do not lie apart."""
    made = context.make_array(kind)(context, builder, array)
    stride = cgutils.unpack_tuple(builder, made.strides, 2)[0]
    begin = builder.gep(builder.bitcast(made.data, ir.IntType(8).as_pointer()), [builder.mul(row, stride)])
    number = context.get_value_type(kind.dtype).as_pointer()
    return builder.bitcast(builder.gep(builder.bitcast(begin, number), [column]), what.as_pointer())


def load_from(builder, pointer):  # type: ignore[no-untyped-def]
    """A number or a vector."""
    found = builder.load(pointer)
    found.align = 4  # a float's; the processors of today do not care
    return found


def store_at(builder, value, pointer):  # type: ignore[no-untyped-def]
    """Writes a vector."""
    builder.store(value, pointer).align = 4


def spread(builder, number, vector):  # type: ignore[no-untyped-def]
    """The same number in all lanes."""
    undefined, zero = vector(ir.Undefined), ir.IntType(32)(0)
    first = builder.insert_element(undefined, number, zero)
    return builder.shuffle_vector(first, undefined, ir.VectorType(zero.type, vector.count)(None))


def multiply_add(builder, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c``, in one operation where there is one."""
    return builder.fadd(builder.fmul(a, b, flags=tuple(REORDER)), c, flags=tuple(REORDER))


@intrinsic
def load(typing_context, array, row, column, lanes):  # type: ignore[no-untyped-def]
    """The vector that begins at ``array[row, column]``; nothing is checked."""
    vector = Vector(array.dtype, len(lanes))

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector)
        return load_from(builder, pointer_to(context, builder, array, *arguments[:3], kind))

    return vector(array, types.intp, types.intp, lanes), generate


@intrinsic
def store(typing_context, array, row, column, vector):  # type: ignore[no-untyped-def]
    """Writes a vector to where ``array[row, column]`` is; nothing is checked."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector)
        store_at(builder, arguments[3], pointer_to(context, builder, array, *arguments[:3], kind))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def broadcast(typing_context, number, lanes):  # type: ignore[no-untyped-def]
    """The same number in all lanes."""
    vector = Vector(number, len(lanes))

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return spread(builder, arguments[0], context.get_value_type(vector))

    return vector(number, lanes), generate


@intrinsic
def multiply(typing_context, a, b):  # type: ignore[no-untyped-def]
    """``a * b``, lane by lane."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fmul(*arguments, flags=tuple(REORDER))

    return a(a, a), generate


@intrinsic
def add(typing_context, a, b):  # type: ignore[no-untyped-def]
    """``a + b``, lane by lane."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fadd(*arguments, flags=tuple(REORDER))

    return a(a, a), generate


@intrinsic
def fma(typing_context, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c``, lane by lane, in one operation where there is one."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return multiply_add(builder, *arguments)

    return a(a, a, a), generate


@intrinsic
def total(typing_context, vector):  # type: ignore[no-untyped-def]
    """The sum of all lanes."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        number = context.get_value_type(vector.dtype)
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{vector.dtype.bitwidth}"
        kind = ir.FunctionType(number, [number, context.get_value_type(vector)])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(number, -0.0), arguments[0]], fastmath=tuple(REORDER))

    return vector.dtype(vector), generate
