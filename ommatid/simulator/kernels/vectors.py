"""Vectors of sixteen numbers inside kernels: LLVM makes of them what the CPU has, with the same bits everywhere.

``Ints`` are int32, ``Longs`` int64, ``Floats`` float32; bytes and shorts are widened when loaded and cut when stored.
``load`` and ``store`` take how many lanes count: no other element is touched, and other lanes load as zero.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
_BIT, _BYTE, _SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


class Vector(types.Type):
    """The Numba type of sixteen numbers."""

    def __init__(self, name: str, element: ir.Type, scalar: Any) -> None:
        super().__init__(name=name)
        self.value, self.scalar = _vector(element), scalar


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is an LLVM value like a number."""

    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.value)


INTS, FLOATS = Vector("Ints", _INT, types.int32), Vector("Floats", _FLOAT, types.float32)
LONGS = Vector("Longs", _LONG, types.int64)


def call(builder: Any, name: str, result: ir.Type, *args: Any) -> Any:
    """A call of one of LLVM's own functions."""
    shape = ir.FunctionType(result, [a.type for a in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, shape, name)
    return builder.call(function, args)


def _place(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [at])


def _mask(builder: Any, count: Any) -> Any:
    lanes = ir.Constant(_vector(_INT), list(range(LANES)))
    return builder.icmp_signed("<", lanes, spread(builder, builder.trunc(count, _INT)))


def spread(builder: Any, value: Any, lanes: int = LANES) -> Any:
    """A vector that holds the value in every lane."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes)
    )


def _short(kind: ir.Type) -> str:
    return f"v{LANES}{'f32' if kind == _FLOAT else kind}"


def _loaded(builder: Any, place: Any, element: ir.Type, bytes_: int, count: Any) -> Any:
    """The first ``count`` elements at a place, zero in other lanes."""
    kind = _vector(element)
    pointer = builder.bitcast(place, kind.as_pointer())
    out = cgutils.alloca_once(builder, kind)
    with builder.if_else(builder.icmp_signed(">=", count, _LONG(LANES)), likely=True) as (whole, part):
        with whole:
            builder.store(builder.load(pointer, align=bytes_), out)
        with part:
            name, zero = f"llvm.masked.load.{_short(element)}.p0", ir.Constant(kind, None)
            builder.store(call(builder, name, kind, pointer, _INT(bytes_), _mask(builder, count), zero), out)
    return builder.load(out)


@intrinsic
def load(typing_context: Any, array: Any, at: Any, count: Any) -> Any:
    """``count`` (or more: sixteen) elements of an array of bytes or int32 from ``at`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, array, args[0], args[1])
        value = _loaded(builder, place, place.type.pointee, array.dtype.bitwidth // 8, args[2])
        return value if value.type == INTS.value else builder.zext(value, INTS.value)

    return INTS(array, types.int64, types.int64), codegen


def _from_bytes(result: Vector, element: ir.Type) -> Any:
    def typed(typing_context: Any, array: Any, at: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place, bytes_ = _place(context, builder, array, args[0], args[1]), 2 if element == _SHORT else 4
            value = _loaded(builder, place, element, bytes_, args[2])
            return value if value.type == result.value else builder.zext(value, result.value)

        return result(array, types.int64, types.int64), codegen

    return intrinsic(typed)


#: As ``load``, of int16 (as 0..65535), int32 or float32 that begin at byte ``at`` of an array of bytes.
load_shorts, load_ints, load_floats = (
    _from_bytes(INTS, _SHORT), _from_bytes(INTS, _INT), _from_bytes(FLOATS, _FLOAT),
)  # fmt: skip
#: As ``load``, of int64 that begin at element ``at`` of an array of int32.
load_longs = _from_bytes(LONGS, _LONG)


def _into(element: ir.Type | None) -> Any:
    def typed(typing_context: Any, array: Any, at: Any, count: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = _place(context, builder, array, args[0], args[1])
            kind, bytes_ = _vector(element or place.type.pointee), array.dtype.bitwidth // 8
            pointer = builder.bitcast(place, kind.as_pointer())
            data = args[3] if args[3].type == kind else builder.trunc(args[3], kind)
            enough = builder.icmp_signed(">=", args[2], _LONG(LANES))
            with builder.if_else(enough, likely=True) as (whole, part):
                with whole:
                    builder.store(data, pointer, align=bytes_)
                with part:
                    name = f"llvm.masked.store.{_short(kind.element)}.p0"
                    call(builder, name, ir.VoidType(), data, pointer, _INT(bytes_), _mask(builder, args[2]))
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64, value), codegen

    return intrinsic(typed)


#: Put the first ``count`` (or more: sixteen) lanes into an array from ``at`` on: as its elements, as int16 or int64.
store, store_shorts, store_longs = _into(None), _into(_SHORT), _into(_LONG)


@intrinsic
def ints(typing_context: Any, value: Any) -> Any:
    """The number in every lane; Floats that hold integers as Ints; the low halves of Longs."""
    if value == FLOATS:
        return INTS(FLOATS), lambda context, builder, sig, args: builder.fptosi(args[0], INTS.value)
    if value == LONGS:
        return INTS(LONGS), lambda context, builder, sig, args: builder.trunc(args[0], INTS.value)
    return INTS(types.int32), lambda context, builder, sig, args: spread(builder, args[0])


@intrinsic
def longs(typing_context: Any, value: Any) -> Any:
    """The number in every lane; Ints widened."""
    if value == INTS:
        return LONGS(INTS), lambda context, builder, sig, args: builder.sext(args[0], LONGS.value)
    return LONGS(types.int64), lambda context, builder, sig, args: spread(builder, args[0])


@intrinsic
def wrapped(typing_context: Any, value: Any) -> Any:
    """Longs wrapped at 48 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rest = ir.Constant(LONGS.value, [16] * LANES)
        return builder.ashr(builder.shl(args[0], rest), rest)

    return LONGS(LONGS), codegen


@intrinsic
def floats(typing_context: Any, value: Any) -> Any:
    """The number in every lane; Ints or Longs rounded to float32; their bits are not kept."""
    if value in (INTS, LONGS):
        return FLOATS(value), lambda context, builder, sig, args: builder.sitofp(args[0], FLOATS.value)
    return FLOATS(types.float32), lambda context, builder, sig, args: spread(builder, args[0])


@intrinsic
def rint(typing_context: Any, value: Any) -> Any:
    """Floats rounded to integers, halves to even, as Ints."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = call(builder, f"llvm.rint.{_short(_FLOAT)}", FLOATS.value, args[0])
        return builder.fptosi(whole, INTS.value)

    return INTS(FLOATS), codegen


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.fma.{_short(_FLOAT)}", FLOATS.value, *args)

    return FLOATS(FLOATS, FLOATS, FLOATS), codegen


@intrinsic
def pick(typing_context: Any, sign: Any, positive: Any, negative: Any) -> Any:
    """Lanes of ``positive`` where ``sign`` is at least 0, else of ``negative``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(
            builder.icmp_signed(">=", args[0], ir.Constant(INTS.value, None)), args[1], args[2]
        )

    return FLOATS(INTS, FLOATS, FLOATS), codegen


def _extreme(sign: str) -> Any:
    def typed(typing_context: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            compare = builder.fcmp_ordered if a == FLOATS else builder.icmp_signed
            return builder.select(compare(sign, *args), *args)

        return a(a, a), codegen

    return typed


least = intrinsic(_extreme("<"))
most = intrinsic(_extreme(">"))


def _binary(of_ints: str, of_floats: str) -> Any:
    def typed(typing_context: Any, a: Any, b: Any) -> Any:
        name = of_floats if a == FLOATS else of_ints
        return a(a, a), lambda context, builder, sig, args: getattr(builder, name)(*args)

    return intrinsic(typed)


def _operator(sign: Any, of_ints: str, of_floats: str) -> None:
    """Make a sign mean an LLVM operation on two vectors of a type; Ints beside Longs are widened."""
    instruction = _binary(of_ints, of_floats)

    @overload(sign)
    def typed(a, b):
        if (a, b) == (LONGS, INTS):
            return lambda a, b: instruction(a, longs(b))
        return (lambda a, b: instruction(a, b)) if isinstance(a, Vector) and a == b else None


_operator(operator.add, "add", "fadd")
_operator(operator.sub, "sub", "fsub")
_operator(operator.mul, "mul", "fmul")
_operator(operator.truediv, "sdiv", "fdiv")
_operator(operator.xor, "xor", "xor")
_operator(operator.and_, "and_", "and_")


def _looked_up(
    context: Any, builder: Any, table: Any, array: Any, index: Any, kind: ir.Type, step: int
) -> Any:
    """The elements ``step`` bytes apart of a table of bytes, at each lane's index, as Ints."""
    data = context.make_array(table)(context, builder, array).data
    found = ir.Constant(_vector(kind), ir.Undefined)
    for lane in range(LANES):
        at = builder.mul(builder.zext(builder.extract_element(index, _INT(lane)), _LONG), _LONG(step))
        place = builder.bitcast(builder.gep(data, [at]), kind.as_pointer())
        found = builder.insert_element(found, builder.load(place, align=step), _INT(lane))
    return found if kind == _INT else builder.zext(found, INTS.value)


@intrinsic
def look_up(typing_context: Any, table: Any, value: Any) -> Any:
    """The byte of a table at each lane's index 0..255."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _looked_up(context, builder, table, args[0], args[1], _BYTE, 1)

    return INTS(table, INTS), codegen


@intrinsic
def look_up_shorts(typing_context: Any, table: Any, value: Any) -> Any:
    """The int16 (as 0..65535) of a table of bytes at each lane's index 0..255."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _looked_up(context, builder, table, args[0], args[1], _SHORT, 2)

    return INTS(table, INTS), codegen


@intrinsic
def interpolate(typing_context: Any, table: Any, value: Any) -> Any:
    """The value between two of 513 int16 of a table of bytes for each lane's int16 (both as 0..65535)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def all_lanes(number: int) -> Any:
            return ir.Constant(INTS.value, [number] * LANES)

        u = builder.xor(args[1], all_lanes(32768))
        index, fraction = builder.lshr(u, all_lanes(7)), builder.and_(u, all_lanes(127))
        both = _looked_up(context, builder, table, args[0], index, _INT, 2)  # T[i] below, T[i + 1] above
        low = builder.ashr(builder.shl(both, all_lanes(16)), all_lanes(16))
        rise = builder.mul(builder.sub(builder.ashr(both, all_lanes(16)), low), fraction)
        between = builder.add(low, builder.ashr(builder.add(rise, all_lanes(64)), all_lanes(7)))
        return builder.and_(between, all_lanes(65535))

    return INTS(table, INTS), codegen


@intrinsic
def move(typing_context: Any, to: Any, at: Any, source: Any, start: Any, count: Any) -> Any:
    """``to[at : at + count] = source[start : start + count]`` of bytes that do not overlap."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cgutils.raw_memcpy(
            builder, _place(context, builder, to, args[0], args[1]),
            _place(context, builder, source, args[2], args[3]), args[4], 1,
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(to, types.int64, source, types.int64, types.int64), codegen


@intrinsic
def record(typing_context: Any, stream: Any, at: Any, layout: Any) -> Any:
    """The record of a structured dtype that begins at byte ``at``, in place."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, stream, args[0], args[1])
        return builder.bitcast(place, context.get_value_type(layout.dtype))

    return layout.dtype(stream, types.int64, layout), codegen
