"""Sixteen float32 lanes as one value inside kernels: explicit SIMD for numba.

LLVM vectorises a plain loop only when it can prove that nothing aliases, and then keeps nothing in
registers across loops. Here a kernel says what it means: `load`, arithmetic, `store` on `<16 x float>`,
which LLVM maps to one 512-bit register, two of 256 bits or four of 128, whatever the machine has.
Everything below is inlined into the kernel that uses it; none of it can be called from Python.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

if TYPE_CHECKING:
    from .jit import Floats

__all__ = [
    "LANES",
    "Lanes",
    "absolute",
    "exp2",
    "fill",
    "fma",
    "load",
    "lower",
    "negative_absolute",
    "select_less",
    "sqrt",
    "store",
    "total",
    "upper",
]

LANES = 16
Builder: TypeAlias = Any  # llvmlite's own hints say None for most results
Value: TypeAlias = Any

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_INTEGERS = ir.VectorType(_I32, LANES)
_SIGN = -(2**31)


class Lanes:
    """What a kernel's author sees: arithmetic of lanes with lanes or with a number."""

    def __add__(self, other: Operand) -> Lanes: ...
    def __radd__(self, other: float | np.float32) -> Lanes: ...
    def __sub__(self, other: Operand) -> Lanes: ...
    def __rsub__(self, other: float | np.float32) -> Lanes: ...
    def __mul__(self, other: Operand) -> Lanes: ...
    def __rmul__(self, other: float | np.float32) -> Lanes: ...
    def __truediv__(self, other: Operand) -> Lanes: ...
    def __rtruediv__(self, other: float | np.float32) -> Lanes: ...


class _LanesType(types.Type):
    """Lanes as numba's type inference sees them."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


_lanes = _LanesType()


class _LanesModel(models.PrimitiveModel):
    """Lanes as LLVM sees them."""

    def __init__(self, manager: Any, kind: Any) -> None:  # noqa: ANN401
        super().__init__(manager, kind, _VECTOR)


register_model(_LanesType)(_LanesModel)  # pyright: ignore[reportOptionalCall]


def _intrinsic(declare: Callable[..., tuple[Any, Any]]) -> Any:  # noqa: ANN401
    """Numba's intrinsic, whose type is that of the call inside a kernel and not that of its declaration."""
    return intrinsic(declare)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [value] * LANES)


def _call(builder: Builder, name: str, *args: Value) -> Value:
    """Call an LLVM intrinsic of vectors by its full name (llvmlite cannot derive that name itself)."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), args
    )


def _broadcast(builder: Builder, kind: types.Type, value: Value) -> Value:
    """Lanes as they are; a number in all lanes."""
    if isinstance(kind, _LanesType):
        return value
    if isinstance(kind, types.Integer):
        value = builder.sitofp(value, _F32)
    elif kind == types.float64:
        value = builder.fptrunc(value, _F32)
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _integers(0))


Emit = Callable[..., Value]


def _operation(emit: Emit) -> Any:  # noqa: ANN401
    """An intrinsic on lanes or numbers, which are broadcast, whose result is lanes."""

    def declare(_context: Any, *kinds: types.Type) -> tuple[Any, Any]:  # noqa: ANN401
        def generate(_context: Any, builder: Builder, sig: Any, args: Sequence[Value]) -> Value:  # noqa: ANN401
            return emit(builder, *(_broadcast(builder, k, a) for k, a in zip(sig.args, args, strict=True)))

        return _lanes(*kinds), generate

    declare.__name__ = emit.__name__
    declare.__signature__ = inspect.signature(
        emit
    )  # numba folds arguments by name; the builder's place is its own
    return _intrinsic(declare)


def _define_operator(python_operator: Callable[..., Any], method: str) -> None:
    scalars = (types.float32, types.float64)
    operands = [(_lanes, _lanes), *((_lanes, s) for s in scalars), *((s, _lanes) for s in scalars)]

    class _Typing(ConcreteTemplate):
        cases = [signature(_lanes, *pair) for pair in operands]  # noqa: RUF012

    infer_global(python_operator)(_Typing)  # pyright: ignore[reportOptionalCall]

    def generate(_context: Any, builder: Builder, sig: Any, args: Sequence[Value]) -> Value:  # noqa: ANN401
        return getattr(builder, method)(
            *(_broadcast(builder, k, a) for k, a in zip(sig.args, args, strict=True))
        )

    for pair in operands:
        lower_builtin(python_operator, *pair)(generate)


for _operator, _method in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_operator, _method)


def _address(context: Any, builder: Builder, kind: Any, array: Value, index: Value) -> Value:  # noqa: ANN401
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _load(_context: Any, array: Any, _index: Any) -> tuple[Any, Any]:  # noqa: ANN401
    def generate(context: Any, builder: Builder, sig: Any, args: Sequence[Value]) -> Value:  # noqa: ANN401
        value = builder.load(_address(context, builder, sig.args[0], args[0], args[1]))
        value.align = 4
        return value

    return _lanes(array, types.intp), generate


def _store(_context: Any, array: Any, _index: Any, _value: Any) -> tuple[Any, Any]:  # noqa: ANN401
    def generate(context: Any, builder: Builder, sig: Any, args: Sequence[Value]) -> Value:  # noqa: ANN401
        stored = builder.store(args[2], _address(context, builder, sig.args[0], args[0], args[1]))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), generate


def _total(_context: Any, _value: Any) -> tuple[Any, Any]:  # noqa: ANN401
    def generate(_context: Any, builder: Builder, _sig: Any, args: Sequence[Value]) -> Value:  # noqa: ANN401
        value, width = args[0], LANES
        while width > 1:  # fold the upper half onto the lower one
            width //= 2
            order = ir.Constant(ir.VectorType(_I32, width), list(range(width)))
            above = ir.Constant(ir.VectorType(_I32, width), list(range(width, 2 * width)))
            value = builder.fadd(
                builder.shuffle_vector(value, value, order), builder.shuffle_vector(value, value, above)
            )
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return types.float32(_lanes), generate


def _fill(_builder: Builder, value: Value) -> Value:
    return value


def _fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    return _call(builder, "fma", a, b, c)


def _sqrt(builder: Builder, a: Value) -> Value:
    return _call(builder, "sqrt", a)


def _lower(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _upper(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _select_less(builder: Builder, a: Value, b: Value, yes: Value, no: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


def _negative_absolute(builder: Builder, a: Value) -> Value:
    return builder.bitcast(builder.or_(builder.bitcast(a, _INTEGERS), _integers(_SIGN)), _VECTOR)


def _absolute(builder: Builder, a: Value) -> Value:
    return builder.bitcast(builder.and_(builder.bitcast(a, _INTEGERS), _integers(~_SIGN)), _VECTOR)


def _exp2_coefficients() -> list[float]:
    """Chebyshev fit of 2**f on [-1/2, 1/2], degree 5: relative error 2.3e-7, near float32's own."""
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    chebyshev = np.polynomial.chebyshev.chebfit(nodes, 2.0 ** (nodes / 2), 5)
    return list(np.polynomial.chebyshev.cheb2poly(chebyshev) * 2.0 ** np.arange(6))


_EXP2 = _exp2_coefficients()


def _exp2(builder: Builder, a: Value) -> Value:
    a = _upper(builder, a, _constant(-126.0))
    whole = _call(builder, "rint", a)
    fraction = builder.fsub(a, whole)
    power = _constant(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        power = _fma(builder, power, fraction, _constant(coefficient))
    exponent = builder.shl(builder.fptosi(whole, _INTEGERS), _integers(23))
    return builder.bitcast(builder.add(builder.bitcast(power, _INTEGERS), exponent), _VECTOR)


Operand: TypeAlias = Lanes | float | np.float32

load: Callable[[Floats, int], Lanes] = _intrinsic(_load)
"""Sixteen values of a contiguous float32 array from a flat index on."""
store: Callable[[Floats, int, Lanes], None] = _intrinsic(_store)
"""Write sixteen values to a contiguous float32 array from a flat index on."""
total: Callable[[Lanes], np.float32] = _intrinsic(_total)
"""Sum of the lanes, in a fixed order."""
fill: Callable[[Operand], Lanes] = _operation(_fill)
"""One number in all lanes."""
fma: Callable[[Operand, Operand, Operand], Lanes] = _operation(_fma)
"""a * b + c, rounded once."""
sqrt: Callable[[Operand], Lanes] = _operation(_sqrt)
"""Square root."""
lower: Callable[[Operand, Operand], Lanes] = _operation(_lower)
"""The smaller of two; the second where either is not a number."""
upper: Callable[[Operand, Operand], Lanes] = _operation(_upper)
"""The larger of two; the second where either is not a number."""
select_less: Callable[[Operand, Operand, Operand, Operand], Lanes] = _operation(_select_less)
"""yes where a < b, else no."""
absolute: Callable[[Operand], Lanes] = _operation(_absolute)
"""|a|"""
negative_absolute: Callable[[Operand], Lanes] = _operation(_negative_absolute)
"""-|a|"""
exp2: Callable[[Operand], Lanes] = _operation(_exp2)
"""2 ** a for a >= -126 (below: 2 ** -126), a < 128; relative error 2.3e-7."""
