"""Vectors of 16 float32 for numba kernels.

LLVM does not vectorise ``exp`` without Intel's SVML, and whether it vectorises a loop at all hangs on what it can prove
about aliases. So the vector is a type of its own here: LLVM maps it to one AVX-512 register, two of AVX2 or four of
NEON. Numba's on-disk cache looks only at the file of the cached function: after a change here delete ``__pycache__``.
"""

# ruff: noqa: ARG001 - numba passes every argument of an intrinsic and of its emitter

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

LANES = 16

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)

# numba ships few types; naming the decorators' types here keeps the functions below checked
_define: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic
_insert_function: Callable[..., Any] = cgutils.get_or_insert_function


class _Vector(types.Type):
    """Numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


class _VectorModel(models.PrimitiveModel):
    """How LLVM holds it."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOATS)  # type: ignore[no-untyped-call]


register_model(_Vector)(_VectorModel)
_VECTOR = _Vector()


def _const(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * LANES)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _FLOATS.as_pointer())


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # fmuladd, not fma: without the instruction the latter is a slow call
    function = _insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), "llvm.fmuladd.v16f32")
    return builder.call(function, [a, b, c])


@_define
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """``array[offset : offset + 16]`` of a contiguous float32 array; not bounds-checked."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], args[0], args[1]), align=4)

    return _VECTOR(array, types.intp), emit


@_define
def store(typingctx: Any, array: Any, offset: Any, vector: Any) -> Any:
    """``array[offset : offset + 16] = vector``; not bounds-checked."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), emit


@_define
def prefetch(typingctx: Any, array: Any, offset: Any) -> Any:
    """Ask for ``array[offset]`` to be brought near; walks down columns jump too far for the processor to guess."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.bitcast(_pointer(context, builder, signature.args[0], *args), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = _insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _INT(0), _INT(3), _INT(1)])  # for reading, keep in all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@_define
def splat(typingctx: Any, scalar: Any) -> Any:
    """A vector with ``scalar`` in every lane."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), args[0], _INT(0))
        return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))

    return _VECTOR(types.float32), emit


@_define
def mul(typingctx: Any, a: Any, b: Any) -> Any:
    """``a * b``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)

    return _VECTOR(_VECTOR, _VECTOR), emit


@_define
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), emit


@_define
def total(typingctx: Any, vector: Any) -> Any:
    """Sum over the lanes, as a balanced tree."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        width = LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_INT, width), list(part)))
                for part in (range(width), range(width, 2 * width))
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, _INT(0))

    return types.float32(_VECTOR), emit


@_define
def claim(typingctx: Any, counter: Any) -> Any:
    """``counter[0]`` before adding one to it, atomically: the next task for a thread."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), emit


@_define
def address(typingctx: Any, number: Any) -> Any:
    """A pointer from its value as an integer."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), emit


@_define
def exp(typingctx: Any, vector: Any) -> Any:
    """e to the power of each lane, relative error below 2e-7 in [-87, 88] and held at those ends; NaN stays NaN.

    Cody and Waite: x = n ln 2 + f, a polynomial (Cephes ``expf``) for e^f, and n added to the exponent's bits.
    exp(0) is exactly 1: a pixel with Δ = 0 passes the state on unchanged.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        x = builder.select(builder.fcmp_ordered("<", x, _const(-87.3)), _const(-87.3), x)
        x = builder.select(builder.fcmp_ordered(">", x, _const(88.3)), _const(88.3), x)
        magic = _const(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, which then stands in the low bits
        shifted = _fma(builder, x, _const(1.44269504088896341), magic)
        n = builder.fsub(shifted, magic)
        f = _fma(builder, n, _const(-0.693359375), x)
        f = _fma(builder, n, _const(2.12194440e-4), f)
        power = _const(1.9875691500e-4)
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0):
            power = _fma(builder, power, f, _const(factor))
        exponent = builder.shl(builder.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)

    return _VECTOR(_VECTOR), emit
