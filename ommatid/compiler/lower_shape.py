"""Layers that move bytes into instructions: concat, slice, pad, transpose, and views that could not be free."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from ommatid.compiler.layers import Concat, Layer, Pad, Slice, Transpose
from ommatid.compiler.lower import Lowering, Region, merged
from ommatid.compiler.lower_vector import stripe_rows
from ommatid.compiler.sram import DoesNotFit
from ommatid.compiler.storage import dense_strides
from ommatid.isa.elements import NUMBER
from ommatid.isa.instructions import Memory


def lower_concat(low: Lowering, layer: Layer) -> None:
    """Emit copies of the inputs that do not already lie inside the output."""
    concat = layer.operation
    assert isinstance(concat, Concat)
    tables = {i: low.load_constant(t) for i, t in enumerate(concat.tables) if t is not None}
    rank = len(low.network.tensors[layer.output].shape)
    axis = concat.axis + 4 - rank if concat.axis or rank == 1 else 0
    whole = low.storage.spots[layer.output]
    if (
        axis == 3
        and not low.stays(layer.output)
        and all(low.storage.spots[n].buffer != whole.buffer for n in layer.inputs)
    ):
        _concat_stripes(low, layer, tables)
        low.end_layer()
        return
    at = 0
    for i, name in enumerate(layer.inputs):
        spot = low.storage.spots[name]
        offset = whole.offset + at * whole.strides[concat.axis]
        inside = spot.buffer == whole.buffer and spot.offset == offset and i not in tables
        if not inside:
            _copy_part(low, layer, name, axis, at, tables.get(i))
        at += low.network.tensors[name].shape[concat.axis]
    low.end_layer()


def _concat_stripes(low: Lowering, layer: Layer, tables: dict[int, tuple[int, int]]) -> None:
    """A Concat of channels into DRAM: whole rows are put together in SRAM, so that stores are contiguous."""
    n, h, _, _ = low.shape(layer.output)
    tiles = sum(0 if low.stays(name) else low.row_bytes(name) for name in layer.inputs)
    row_bytes = low.row_bytes(layer.output)
    rows = stripe_rows(low, h, row_bytes, row_bytes + tiles)
    for image, first in itertools.product(range(n), range(0, h, rows)):
        count = min(rows, h - first)
        target = low.open(layer.output, image, first, count)
        at = 0
        for i, name in enumerate(layer.inputs):
            channels = low.shape(name)[3]
            source = low.bring(name, image, first, count)
            part = target._replace(address=target.at(first, 0, at), channels=channels)
            copy_map(low, source, part, tables.get(i))
            low.drop(source)
            at += channels
        low.close(layer.output, image, target)


def _copy_part(
    low: Lowering, layer: Layer, name: str, axis: int, at: int, table: tuple[int, int] | None
) -> None:
    """One input of a Concat, stripe by stripe; ``at`` is its place along ``axis`` of (n, h, w, c)."""
    n, h, w, c = low.shape(name)
    row_bytes = low.row_bytes(name)
    tiles = (0 if low.stays(name) else row_bytes) + (0 if low.stays(layer.output) else row_bytes)
    rows = stripe_rows(low, h, row_bytes, tiles)
    for image, first in itertools.product(range(n), range(0, h, rows)):
        count = min(rows, h - first)
        source = low.bring(name, image, first, count)
        to_image, to_row = image + at * (axis == 0), first + at * (axis == 1)
        column, channel = at * (axis == 2), at * (axis == 3)
        target = open_part(low, layer.output, to_image, to_row, count, column, w, channel, c)
        copy_map(low, source, target, table)
        low.close(layer.output, to_image, target, channel, column)
        low.drop(source)


def open_part(
    low: Lowering,
    name: str,
    image: int,
    first: int,
    rows: int,
    column: int,
    columns: int,
    channel: int,
    channels: int,
) -> Region:
    """A rectangle of a tensor for writing: in place, or a tile that ``close`` stores."""
    if low.stays(name):
        whole = low.open(name, image, first, rows)
        return whole._replace(address=whole.at(first, column, channel), columns=columns, channels=channels)
    return low.new_tile(rows, columns, channels, first, low.kind(name))


def copy_map(low: Lowering, source: Region, target: Region, table: tuple[int, int] | None = None) -> None:
    """Copy a region, through a table (address, symbol) if given."""
    fields = {"table1_on": 1, "table1": table[0]} if table else {}
    symbols = {"src": source.symbol, "dst": target.symbol} | ({"table1": table[1]} if table else {})
    low.emitter.emit(
        "map", symbols, h=target.rows, w=target.columns, c=target.channels,
        src=source.address, src_row=source.row, src_pixel=source.pixel, src_type=NUMBER[source.kind.dtype],
        dst=target.address, dst_row=target.row, dst_pixel=target.pixel, **fields,
    )  # fmt: skip


def lower_slice(low: Lowering, layer: Layer) -> None:
    """Emit a slice that could not be a view of its input's buffer."""
    cut = layer.operation
    assert isinstance(cut, Slice)
    shape = low.network.tensors[layer.output].shape
    starts, steps = (_four(v, len(shape), fill) for v, fill in ((cut.starts, 0), (cut.steps, 1)))
    n, h, w, c = low.shape(layer.output)
    row_bytes, element = low.row_bytes(layer.output), low.kind(layer.output).bytes
    tiles = (0 if low.stays(layer.input_name) else low.row_bytes(layer.input_name) * steps[1]) + (
        0 if low.stays(layer.output) else row_bytes
    )
    rows = stripe_rows(low, h, row_bytes, tiles)
    for image, first in itertools.product(range(n), range(0, h, rows)):
        count = min(rows, h - first)
        begin = starts[1] + first * steps[1]
        source = low.bring(layer.input_name, starts[0] + image * steps[0], begin, (count - 1) * steps[1] + 1)
        target = low.open(layer.output, image, first, count)
        address = source.at(begin, starts[2], starts[3])
        if steps[3] == 1:
            view = source._replace(address=address, row=source.row * steps[1], pixel=source.pixel * steps[2])
            copy_map(low, view, target)
        else:
            strides = (source.row * steps[1], source.pixel * steps[2], steps[3] * element)
            copy_elements(
                low,
                (count, w, c),
                (address, strides, source.symbol),
                (target.address, (target.row, target.pixel, element), target.symbol),
                element,
            )
        low.close(layer.output, image, target)
        low.drop(source)
    low.end_layer()


def _four(values: Sequence[int], rank: int, fill: int) -> tuple[int, int, int, int]:
    """Per-dimension numbers of a memory shape, spread to (n, h, w, c)."""
    values = tuple(values)
    if rank < 2:
        return (fill, fill, fill, *values) if values else (fill,) * 4  # type: ignore[return-value]
    return (values[0], *(fill,) * (4 - rank), *values[1:])  # type: ignore[return-value]


def lower_pad(low: Lowering, layer: Layer) -> None:
    """Emit a constant padding: fill each stripe, then copy what of the input falls into it."""
    pad = layer.operation
    assert isinstance(pad, Pad)
    n, h, _, _ = low.shape(layer.output)
    in_n, in_h, in_w, in_c = low.shape(layer.input_name)
    before = _four(pad.before, len(low.network.tensors[layer.output].shape), 0)
    sides = (layer.output, layer.input_name)
    tiles = sum(0 if low.stays(name) else low.row_bytes(name) for name in sides)
    rows = stripe_rows(low, h, low.row_bytes(layer.output), tiles)
    for image, first in itertools.product(range(n), range(0, h, rows)):
        count = min(rows, h - first)
        target = low.open(layer.output, image, first, count)
        _fill(low, target, pad.value)
        from_image = image - before[0]
        begin, end = max(first - before[1], 0), min(first + count - before[1], in_h)
        if 0 <= from_image < in_n and begin < end:
            source = low.bring(layer.input_name, from_image, begin, end - begin)
            address = target.at(begin + before[1], before[2], before[3])
            inner = target._replace(address=address, rows=end - begin, columns=in_w, channels=in_c)
            copy_map(low, source, inner)
            low.drop(source)
        low.close(layer.output, image, target)
    low.end_layer()


def _fill(low: Lowering, region: Region, value: int) -> None:
    """Every element becomes this code: all bytes at once if they are equal, else each of an element in turn."""
    element = region.kind.bytes
    bytes_ = [value >> 8 * i & 255 for i in range(element)]
    pixels = [(region.columns, region.pixel, region.pixel), (region.rows, region.row, region.row)]
    run, loops = merged(region.channels * element, pixels)
    if len(set(bytes_)) > 1:
        run, loops = merged(1, [(region.channels, element, element), *pixels])
    else:
        bytes_ = bytes_[:1]
    fields: dict[str, int] = {}
    for i, (count, _, stride) in enumerate(loops, 1):
        fields |= {f"n{i}": count, f"dst_s{i}": stride}
    for i, byte in enumerate(bytes_):
        low.emitter.emit(
            "fill", {"dst": region.symbol}, dst=region.address + i, run=run, value=byte, **fields
        )


# --- transpose -------------------------------------------------------------------------------------------


def lower_transpose(low: Lowering, layer: Layer) -> None:
    """Emit a transposition: leading dimensions that stay in place are cut into parts that fit, then the next one.

    Raises:
        DoesNotFit: what must be in SRAM at once does not fit.
    """
    operation = layer.operation
    assert isinstance(operation, Transpose)
    shape = low.network.tensors[layer.input_name].shape
    _rearrange(low, layer, shape, operation.perm)


def lower_view(low: Lowering, layer: Layer) -> None:
    """Emit a copy for a view whose bytes could not stay where they are."""
    shape = low.network.tensors[layer.input_name].shape
    _rearrange(low, layer, shape, tuple(range(len(shape))))


def _rearrange(low: Lowering, layer: Layer, shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    fixed = next((i for i, axis in enumerate(perm) if axis != i), len(perm))
    outer = math.prod(shape[:fixed])
    inner_shape = shape[fixed:]
    inner_perm = tuple(axis - fixed for axis in perm[fixed:])
    element = low.kind(layer.output).bytes
    inner = math.prod(inner_shape) * element
    try:
        parts = list(_outer_parts(low, layer, outer, inner))
    except DoesNotFit:
        if low.buffers > 1:
            raise
        _rearrange_in_parts(low, layer, outer, inner_shape, inner_perm)
        parts = []
    for at, count in parts:
        source = bring_flat(low, layer.input_name, at * inner, count * inner)
        target = open_flat(low, layer.output, at * inner, count * inner)
        in_strides = dense_strides(inner_shape, element)
        dims = (count, *(inner_shape[axis] for axis in inner_perm))
        strides = (inner, *(in_strides[axis] for axis in inner_perm))
        to = (target[0], dense_strides(dims, element), target[1])
        copy_elements(low, dims, (source[0], strides, source[1]), to, element)
        close_flat(low, layer.output, at * inner, count * inner, target)
        if source[2]:
            low.sram.release(source[0])
    low.end_layer()


def _rearrange_in_parts(
    low: Lowering, layer: Layer, outer: int, shape: tuple[int, ...], perm: tuple[int, ...]
) -> None:
    """As ``_rearrange`` of ``outer`` blocks of this shape: cut along what is the outermost dimension in the output."""
    element, axis = low.kind(layer.output).bytes, perm[0]
    strides, size = dense_strides(shape, element), math.prod(shape) * element
    row = size // shape[axis]
    tiles = row * sum(not low.stays(name) for name in (layer.input_name, layer.output))
    rows = stripe_rows(low, shape[axis], row, tiles)
    home, stays = low.home(layer.input_name), low.stays(layer.input_name)
    begins = home.address + low.storage.spots[layer.input_name].offset
    for at, first in itertools.product(range(outer), range(0, shape[axis], rows)):
        count = min(rows, shape[axis] - first)
        address = begins + at * size + first * strides[axis]
        symbol, steps = home.symbol, strides
        if not stays:
            run = count * strides[axis]
            tile, symbol = low.raw_tile(count * row)
            steps = dense_strides((*shape[:axis], count, *shape[axis + 1 :]), element)
            loops = _split_count(math.prod(shape[:axis]), shape[axis] * strides[axis], run)
            low.dma("load", address, home.symbol, tile, symbol, *merged(run, loops))
            address = tile
        begin = at * size + first * row
        target = open_flat(low, layer.output, begin, count * row)
        dims = (count, *(shape[a] for a in perm[1:]))
        to = (target[0], dense_strides(dims, element), target[1])
        copy_elements(low, dims, (address, tuple(steps[a] for a in perm), symbol), to, element)
        close_flat(low, layer.output, begin, count * row, target)
        if not stays:
            low.sram.release(address)


def _outer_parts(low: Lowering, layer: Layer, outer: int, inner: int) -> Iterator[tuple[int, int]]:
    sides = (not low.stays(layer.input_name)) + (not low.stays(layer.output))
    count = stripe_rows(low, outer, inner, inner * sides)
    for at in range(0, outer, count):
        yield at, min(count, outer - at)


def bring_flat(low: Lowering, name: str, at: int, size: int) -> tuple[int, int, bool]:
    """Bytes of a dense tensor in SRAM: (address, symbol, whether it is a tile)."""
    home, spot = low.home(name), low.storage.spots[name]
    if low.stays(name):
        return home.address + spot.offset + at, home.symbol, False
    address, symbol = low.raw_tile(size)
    low.dma("load", home.address + spot.offset + at, home.symbol, address, symbol, size)
    return address, symbol, True


def open_flat(low: Lowering, name: str, at: int, size: int) -> tuple[int, int, bool]:
    home, spot = low.home(name), low.storage.spots[name]
    if home.memory == Memory.SRAM:
        return home.address + spot.offset + at, home.symbol, False
    return (*low.raw_tile(size), True)


def close_flat(low: Lowering, name: str, at: int, size: int, tile: tuple[int, int, bool]) -> None:
    if tile[2]:
        home, spot = low.home(name), low.storage.spots[name]
        low.dma("store", tile[0], tile[1], home.address + spot.offset + at, home.symbol, size)
        low.sram.release(tile[0])


Side = tuple[int, tuple[int, ...], int]  # address, strides outermost first, symbol


def copy_elements(low: Lowering, dims: tuple[int, ...], src: Side, dst: Side, element: int) -> None:
    """``copy`` over any number of dimensions (outermost first), in as few instructions as its loops allow."""
    loops = _merged_loops(dims, src[1], dst[1])
    inner, outer = loops[:4], loops[4:]
    for index in itertools.product(*(range(n) for n, _, _ in reversed(outer))):
        steps = list(zip(reversed(index), outer, strict=True))
        fields = {
            "src": src[0] + sum(i * s for i, (_, s, _) in steps),
            "dst": dst[0] + sum(i * d for i, (_, _, d) in steps),
        }
        for k, (count, s, d) in enumerate(inner):
            fields |= {f"n{k}": count, f"src_s{k}": s, f"dst_s{k}": d}
        low.emitter.emit("copy", {"src": src[2], "dst": dst[2]}, element_bytes=element, **fields)


def _merged_loops(
    dims: tuple[int, ...], src: tuple[int, ...], dst: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """Loops (count, source stride, destination stride), innermost first, merged and split to 16-bit counts."""
    loops: list[tuple[int, int, int]] = []
    for count, s, d in reversed(list(zip(dims, src, dst, strict=True))):
        if count == 1:
            continue
        if loops and s == loops[-1][0] * loops[-1][1] and d == loops[-1][0] * loops[-1][2]:
            n, s0, d0 = loops.pop()
            loops.append((n * count, s0, d0))
        else:
            loops.append((count, s, d))
    return [part for loop in loops for part in _split_count(*loop)]


def _split_count(count: int, s: int, d: int) -> list[tuple[int, int, int]]:
    if count <= 65535:
        return [(count, s, d)]
    low = next((m for m in range(65535, 1, -1) if count % m == 0), 0)
    if not low:
        raise DoesNotFit(count)
    return [(low, s, d), *_split_count(count // low, s * low, d * low)]
