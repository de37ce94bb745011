"""Sets of small numbers as the bits of an int64, and lanes: counts of eight members as its bytes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ommatid.isa.compiled import inlined

ONES = 0x0101010101010101  # one in every lane


@intrinsic  # type: ignore[untyped-decorator]
def lowest(typing_context: Any, bits: Any) -> Any:
    """The least member of a set that is not empty."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def size(typing_context: Any, bits: Any) -> Any:
    """How many members a set has."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def first(typing_context: Any, times: Any, at: Any) -> Any:
    """The least of eight times (float64, not negative), from ``at`` on, and the set of those that are equal to it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)  # as these bits times that are not negative compare alike, and faster
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        data = builder.bitcast(builder.gep(data, [args[1]]), integer.as_pointer())
        found = [(builder.load(builder.gep(data, [integer(k)])), integer(1 << k)) for k in range(8)]
        while len(found) > 1:
            found = [earlier(builder, *a, *b) for a, b in zip(found[::2], found[1::2], strict=True)]
        time, places = found[0]
        return context.make_tuple(
            builder, signature.return_type, [builder.bitcast(time, ir.DoubleType()), places]
        )

    def earlier(builder: Any, a: Any, places_a: Any, b: Any, places_b: Any) -> Any:
        before, after = builder.icmp_signed("<", a, b), builder.icmp_signed(">", a, b)
        none = ir.IntType(64)(0)
        places = builder.or_(builder.select(after, none, places_a), builder.select(before, none, places_b))
        return builder.select(before, a, b), places

    return types.Tuple((types.float64, types.int64))(times, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def unowned(typing_context: Any, array: Any) -> Any:
    """The array without its owner, which the caller keeps: counting references at every call took most of the time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bare = context.make_array(array)(context, builder, args[0])
        bare.meminfo, bare.parent = (part.type(None) for part in (bare.meminfo, bare.parent))
        return bare._getvalue()

    return array(array), codegen


@intrinsic  # type: ignore[untyped-decorator]
def ahead(typing_context: Any, records: Any, index: Any) -> Any:
    """Have the host bring a record (at most 128 bytes) into its cache that is needed soon; any index will do."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        record = builder.bitcast(builder.gep(data, [args[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for offset in (0, 64):
            line = builder.gep(record, [ir.IntType(64)(offset)])
            builder.call(prefetch, [line, flag(1), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(records, types.int64), codegen


@inlined
def without(takes: int, held: int) -> int:
    """A one in each lane where ``takes`` has a one and ``held`` (lanes of at most 15) nothing."""
    return takes & ~(held + 127 * ONES >> 7)


@inlined
def members(lanes: int) -> int:
    """The set of the lanes that hold a one."""
    return lanes * 0x0102040810204080 >> 56 & 255
