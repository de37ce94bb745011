"""Products of 8-bit activations and int8 weights, summed exactly in int32: one function for each kind of CPU.

All take the same arguments and give the same bits:

- the sums of ``count`` pixels by ``channels`` output channels go to ``acc`` (int32; ``step`` from pixel to pixel),
  each increased by its channel's ``correction``, and by what is there if ``accumulate``;
- a pixel's activations are runs of bytes (``vnni``: unsigned) or int16 (the others) of ``source``: run r begins at
  element ``places[pixel] + runs[r]`` and has ``quads`` times four elements;
- weights lie as docs/isa.md has them: run r's at ``r * run_bytes``, then in a quad ``lanes`` channels by four;
  the next group of ``lanes`` channels begins ``group_bytes`` further. ``lanes`` is a multiple of a vector's channels,
  and ``quads`` of those taken at a time.

A tile of the result, some pixels by one or two vectors of channels, stays in registers while the products of all
runs are added. Numba compiles for the host, so a function with instructions that it lacks is never compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ommatid.isa.compiled import callback
from ommatid.simulator.kernels.vectors import call, spread

_BYTE, _SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
EIGHT, SIXTEEN = ir.VectorType(_INT, 8), ir.VectorType(_INT, 16)
SHORTS = ir.VectorType(_SHORT, 16)

_bytes, _longs, _ints = types.CPointer(types.uint8), types.CPointer(types.int64), types.CPointer(types.int32)
_n = types.int64
#: source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run count, quads, run_bytes, ...
SIGNATURE = types.void(_bytes, _longs, _n, _ints, _n, _n, _bytes, _n, _n, _longs, _n, _n, _n, _ints, _n)

Emit = Callable[..., Any]


@dataclass(frozen=True)
class Path:
    """How a tile is computed: its size, and what is done for four products of each of eight channels."""

    pixels: int  # of a tile, the most
    vectors: int  # of channels
    channels: ir.VectorType  # the sums of a vector of channels
    sums: int  # registers that hold them
    quads: int  # taken at a time
    quad_bytes: int  # of four activations
    weights: Emit  # (builder, address, bytes to the next quad) -> one value for each of the ``sums``
    activations: Emit  # (builder, address) -> value
    add: Emit  # (builder, sum, activations, weights) -> sum
    finish: Emit  # (builder, sums) -> int32 of the channels


def _load(builder: Any, pointer: Any, kind: ir.Type, align: int = 1) -> Any:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def _at(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.gep(builder.bitcast(pointer, _BYTE.as_pointer()), [offset])


def _plain(builder: Any, pointer: Any, step: Any) -> list[Any]:
    return [_load(builder, pointer, EIGHT)]


def _bytes_by_four(builder: Any, pointer: Any) -> Any:
    return spread(builder, _load(builder, pointer, _INT), 8)


def _bytes_by_eight(builder: Any, pointer: Any) -> Any:
    return builder.bitcast(spread(builder, _load(builder, pointer, _LONG), 8), SIXTEEN)


def _shorts_by_four(builder: Any, pointer: Any) -> Any:
    return builder.bitcast(spread(builder, _load(builder, pointer, _LONG), 4), SHORTS)


def _woven(builder: Any, pointer: Any, step: Any) -> list[Any]:
    """Two quads of sixteen channels, a channel's side by side: the first and the last two of each four channels."""
    a, b = (_load(builder, p, SIXTEEN) for p in (pointer, _at(builder, pointer, step)))
    return [_lanes(builder, a, b, _by_four(first, first + 16, first + 1, first + 17)) for first in (0, 2)]


def _by_four(*lanes: int) -> list[int]:
    """The same choice of lanes in each 128 bits."""
    return [lane + part for part in range(0, 16, 4) for lane in lanes]


def _unwoven(builder: Any, sums: list[Any]) -> Any:
    low, high = sums
    even, odd = (_lanes(builder, low, high, _by_four(o, o + 2, o + 16, o + 18)) for o in (0, 1))
    return builder.add(even, odd)


def _widened(builder: Any, pointer: Any, step: Any) -> list[Any]:
    half = ir.VectorType(_BYTE, 16)
    return [builder.sext(_load(builder, _at(builder, pointer, _LONG(o)), half), SHORTS) for o in (0, 16)]


def _lanes(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes)))


def _vnni_add(builder: Any, total: Any, a: Any, w: Any) -> Any:
    return call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * total.type.count}", total.type, total, a, w)


def _avx2_add(builder: Any, total: Any, a: Any, w: Any) -> Any:
    return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", EIGHT, a, w))


def _each_spread(builder: Any, pointer: Any) -> list[Any]:
    shorts = (_load(builder, _at(builder, pointer, _LONG(2 * k)), _SHORT, 2) for k in range(4))
    return [spread(builder, builder.sext(short, _INT), 8) for short in shorts]


def _each_widened(builder: Any, pointer: Any, step: Any) -> list[list[Any]]:
    quads = _load(builder, pointer, ir.VectorType(_BYTE, 32))
    return [[builder.sext(_lanes(builder, quads, quads, range(k, 32, 4)), EIGHT) for k in range(4)]]


def _portable_add(builder: Any, total: Any, a: list[Any], w: list[Any]) -> Any:
    for pair in zip(a, w, strict=True):
        total = builder.add(total, builder.mul(*pair))
    return total


def _neighbours(builder: Any, sums: list[Any]) -> Any:
    low, high = sums
    even, odd = (_lanes(builder, low, high, range(first, 16, 2)) for first in (0, 1))
    return builder.add(even, odd)


#: 512 bits wide, two quads at a time.
VNNI512 = Path(12, 1, SIXTEEN, 2, 2, 4, _woven, _bytes_by_eight, _vnni_add, _unwoven)
VNNI = Path(8, 2, EIGHT, 1, 1, 4, _plain, _bytes_by_four, _vnni_add, lambda b, sums: sums[0])
AVX2 = Path(5, 1, EIGHT, 2, 1, 8, _widened, _shorts_by_four, _avx2_add, _neighbours)
PORTABLE = Path(5, 1, EIGHT, 1, 1, 8, _each_widened, _each_spread, _portable_add, lambda b, sums: sums[0])
PATHS = {"vnni512": VNNI512, "vnni": VNNI, "avx2": AVX2, "portable": PORTABLE}


NAMES = (
    "source", "places", "count", "acc", "step", "channels", "weights", "lanes", "group_bytes", "runs", "run_count",
    "quads", "run_bytes", "correction", "accumulate",
)  # fmt: skip


def _product(path: Path) -> Any:
    """An intrinsic that does all of it: channels by the vectors of a tile, pixels in blocks of about one size."""

    def typed(typing_context: Any, arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            job = SimpleNamespace(**{n: builder.extract_value(args[0], i) for i, n in enumerate(NAMES)})
            width = path.channels.count * path.vectors
            blocks = builder.udiv(builder.add(job.count, _LONG(path.pixels - 1)), _LONG(path.pixels))
            size, more = builder.udiv(job.count, blocks), builder.urem(job.count, blocks)
            tiles = builder.udiv(builder.add(job.channels, _LONG(width - 1)), _LONG(width))
            with cgutils.for_range(builder, tiles) as tile:
                channel = builder.mul(tile.index, _LONG(width))
                panels = _panels(path, builder, job, channel)
                with cgutils.for_range(builder, blocks) as block:
                    larger = builder.icmp_unsigned("<", block.index, more)
                    extra = builder.select(larger, block.index, more)
                    first = builder.add(builder.mul(block.index, size), extra)
                    pixels = builder.add(size, builder.zext(larger, _LONG))
                    _emit_tiles(path, builder, job, channel, panels, first, pixels)
            return context.get_dummy_value()

        return types.void(arguments), codegen

    return intrinsic(typed)


def _panels(path: Path, builder: Any, job: Any, channel: Any) -> list[Any]:
    """Where the weights of the tile's vectors of channels begin; a vector past the end stands in for none."""
    panels = []
    for v in range(path.vectors):
        own = builder.add(channel, _LONG(path.channels.count * v))
        own = builder.select(builder.icmp_signed("<", own, job.channels), own, channel)
        group, lane = builder.udiv(own, job.lanes), builder.urem(own, job.lanes)
        at = builder.add(builder.mul(group, job.group_bytes), builder.mul(lane, _LONG(4)))
        panels.append(_at(builder, job.weights, at))
    return panels


def _emit_tiles(
    path: Path, builder: Any, job: Any, channel: Any, panels: list[Any], first: Any, pixels: Any
) -> None:
    """The tile of some pixels from ``first`` on: code for each number of them."""
    after = builder.append_basic_block("after")
    switch = builder.switch(pixels, after)
    for count in range(1, path.pixels + 1):
        block = builder.append_basic_block(f"tile{count}")
        switch.add_case(_LONG(count), block)
        builder.position_at_end(block)
        indices = [builder.add(first, _LONG(m)) for m in range(count)]
        sums = _emit_sums(path, builder, job, panels, indices)
        _emit_results(path, builder, job, channel, indices, sums)
        builder.branch(after)
    builder.position_at_end(after)


def _emit_sums(path: Path, builder: Any, job: Any, panels: list[Any], indices: list[Any]) -> list[Any]:
    """The loop over runs and quads: places of the sums by pixel, vector of channels, and register."""
    bases = [
        _at(builder, job.source, _scaled(path, builder, _entry(builder, job.places, i))) for i in indices
    ]
    sums = [[[_zeros(builder, path.channels) for _ in range(path.sums)] for _ in panels] for _ in bases]
    with cgutils.for_range(builder, job.run_count) as run:
        offset = _scaled(path, builder, _entry(builder, job.runs, run.index))
        starts = [_at(builder, base, offset) for base in bases]
        rows = [_at(builder, panel, builder.mul(run.index, job.run_bytes)) for panel in panels]
        steps = builder.udiv(job.quads, _LONG(path.quads))
        with cgutils.for_range(builder, steps) as step:
            quad, row_bytes = builder.mul(step.index, _LONG(path.quads)), builder.mul(job.lanes, _LONG(4))
            at = builder.mul(quad, row_bytes)
            factors = [path.weights(builder, _at(builder, row, at), row_bytes) for row in rows]
            at = builder.mul(quad, _LONG(path.quad_bytes))
            for start, pixel in zip(starts, sums, strict=True):
                a = path.activations(builder, _at(builder, start, at))
                for vector, values in zip(pixel, factors, strict=True):
                    for place, w in zip(vector, values, strict=True):
                        builder.store(path.add(builder, builder.load(place), a, w), place)
    return sums


def _zeros(builder: Any, kind: ir.VectorType) -> Any:
    place = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, None), place)
    return place


def _entry(builder: Any, table: Any, index: Any) -> Any:
    return builder.load(builder.gep(table, [index]), align=8)


def _scaled(path: Path, builder: Any, elements: Any) -> Any:
    return builder.mul(elements, _LONG(path.quad_bytes // 4))


def _emit_results(
    path: Path, builder: Any, job: Any, channel: Any, indices: list[Any], sums: list[Any]
) -> None:
    """Put or add the tile's sums, corrected, into the accumulators of the channels that exist."""
    width, kind = path.channels.count, path.channels
    owns = [builder.add(channel, _LONG(width * v)) for v in range(path.vectors)]
    corrections = [_load(builder, builder.gep(job.correction, [own]), kind, 4) for own in owns]
    left = builder.sub(job.channels, channel)
    enough = builder.icmp_signed(">=", left, _LONG(width * path.vectors))
    plain = builder.and_(enough, builder.icmp_signed("==", job.accumulate, _LONG(0)))
    with builder.if_else(plain, likely=True) as (whole, part):
        for block, put in ((whole, _store), (part, _deposit)):
            with block:
                for index, pixel in zip(indices, sums, strict=True):
                    row = builder.gep(job.acc, [builder.add(builder.mul(index, job.step), channel)])
                    for v, (vector, correction) in enumerate(zip(pixel, corrections, strict=True)):
                        total = path.finish(builder, [builder.load(place) for place in vector])
                        place = builder.bitcast(builder.gep(row, [_LONG(width * v)]), kind.as_pointer())
                        remain = builder.sub(left, _LONG(width * v))
                        put(builder, place, builder.add(total, correction), remain, job.accumulate)


def _store(builder: Any, place: Any, total: Any, left: Any, accumulate: Any) -> None:
    """Store a vector of sums."""
    builder.store(total, place, align=4)


def _deposit(builder: Any, place: Any, total: Any, left: Any, accumulate: Any) -> None:
    """Store, or add, the first ``left`` of a vector of sums."""
    kind = total.type
    lanes, zero = ir.Constant(kind, list(range(kind.count))), ir.Constant(kind, None)
    mask = builder.icmp_signed("<", lanes, spread(builder, builder.trunc(left, _INT), kind.count))
    old = call(builder, f"llvm.masked.load.v{kind.count}i32.p0", kind, place, _INT(4), mask, zero)
    adds = builder.icmp_signed("!=", accumulate, _LONG(0))
    total = builder.add(total, builder.select(adds, old, zero))
    call(builder, f"llvm.masked.store.v{kind.count}i32.p0", ir.VoidType(), total, place, _INT(4), mask)


_512, _256, _avx2, _portable = _product(VNNI512), _product(VNNI), _product(AVX2), _product(PORTABLE)


@callback(SIGNATURE)
def vnni512(
    source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
    correction, accumulate,
):  # fmt: skip
    """512-bit ``vpdpbusd``: twelve pixels by sixteen channels, two quads at a time.

    CPUs load 512 bits once a cycle and multiply twice: so eight bytes of a pixel are loaded and multiplied twice.
    """
    _512((
        source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
        correction, accumulate,
    ))  # fmt: skip


@callback(SIGNATURE)
def vnni(
    source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
    correction, accumulate,
):  # fmt: skip
    """256-bit ``vpdpbusd``: eight pixels by sixteen channels."""
    _256((
        source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
        correction, accumulate,
    ))  # fmt: skip


@callback(SIGNATURE)
def avx2(
    source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
    correction, accumulate,
):  # fmt: skip
    """``vpmaddwd`` of 16-bit numbers: five pixels by eight channels."""
    _avx2((
        source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
        correction, accumulate,
    ))  # fmt: skip


@callback(SIGNATURE)
def portable(
    source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
    correction, accumulate,
):  # fmt: skip
    """As ``avx2``, in operations that every CPU has."""
    _portable((
        source, places, count, acc, step, channels, weights, lanes, group_bytes, runs, run_count, quads, run_bytes,
        correction, accumulate,
    ))  # fmt: skip


@functools.cache
def available() -> tuple[str, ...]:
    """The paths that this CPU has, best first."""
    has = llvmlite.binding.get_host_cpu_features()
    wide = has.get("avx512vnni") and has.get("avx512vl")
    found = {"vnni512": wide, "vnni": wide or has.get("avxvnni"), "avx2": has.get("avx2"), "portable": True}
    return tuple(path for path in PATHS if found[path])


@functools.cache
def address(path: str) -> int:
    """Where the path's function is, compiled if it was not yet."""
    function = {"vnni512": vnni512, "vnni": vnni, "avx2": avx2, "portable": portable}[path]
    function.compile()
    return int(function.address)


@intrinsic
def multiply(typing_context: Any, function: Any, arguments: Any) -> Any:
    """Call the function at an address with a tuple of arrays and integers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = []
        for i, kind in enumerate(arguments.types):
            value = builder.extract_value(args[1], i)
            if isinstance(kind, types.Array):
                value = builder.bitcast(
                    context.make_array(kind)(context, builder, value).data, _BYTE.as_pointer()
                )
            values.append(value)
        shape = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        builder.call(builder.inttoptr(args[0], shape.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(function, arguments), codegen
