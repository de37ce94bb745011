"""Layers of the vector engine into instructions, stripe by stripe: map, pool, mean, resize, softmax, lrn, norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ommatid.compiler.chain import Chain, ChainConstants, bring_operand, chain_fields, load_chain
from ommatid.compiler.layers import Layer, Lrn, Map, Mean, Norm, Pool, Resize, Softmax
from ommatid.compiler.lower import Lowering, Region
from ommatid.compiler.rows import Pieces, Rows, Share, Window, in_pieces
from ommatid.compiler.sram import DoesNotFit
from ommatid.compiler.storage import operands
from ommatid.isa.elements import NUMBER
from ommatid.isa.program import Quantization

#: Stripes that a layer is cut into where its rows allow, so that neighbours in the queue overlap.
STRIPES = 8
#: What the field of an instruction holds.
MOST_ROWS = 65535
#: Bytes that a stripe should have at least: below, issue overhead shows.
STRIPE_BYTES = 8192

#: Emits a window of a stripe.
EmitWindow = Callable[[Window], None]


def stripe_rows(low: Lowering, rows: int, row_bytes: int, tile_row_bytes: int, halo_bytes: int = 0) -> int:
    """Rows of a stripe: about an eighth of the layer, two stripes of tiles within the free SRAM.

    ``row_bytes`` is the work of a row, ``tile_row_bytes`` what of it needs tiles, ``halo_bytes`` tile bytes
    that a stripe needs beyond its rows.

    Raises:
        DoesNotFit: not even one row fits.
    """
    free = max((b - a for a, b in low.sram.gaps()), default=0)
    wanted = max(-(-rows // STRIPES), -(-STRIPE_BYTES // max(row_bytes, 1)))
    most = rows
    if tile_row_bytes:
        most = (free // 2 - halo_bytes - 512) // tile_row_bytes
        if most < 1:
            most = (free - halo_bytes - 512) // tile_row_bytes
        if most < 1:
            raise DoesNotFit(tile_row_bytes + halo_bytes)
    return max(1, min(wanted, most, rows, MOST_ROWS))


def _tile_bytes(low: Lowering, name: str, row_bytes: int) -> int:
    return 0 if low.stays(name) else row_bytes


def _by_rows(
    low: Lowering, layer: Layer, share: Share | None, needs: Callable[[int, int], dict[str, tuple[int, int]]],
    stripe: Callable[[int, int, int], Iterator[EmitWindow]], passes: int, each: int | None = None, extra: int = 0,
) -> Rows:  # fmt: skip
    """A layer by ``each`` rows of its output (None: as ``_each`` says): ``passes`` over the elements of each.

    ``stripe`` brings what rows need, yields what emits windows of them, and gives it back.
    """
    n, h, w, c = low.shape(layer.output)
    pixel_cycles = passes * c / low.target.vx_elements_per_cycle

    def emit(image: int, first: int, rows: int) -> Pieces:
        for emit_window in stripe(image, first, rows):
            yield from in_pieces(first, rows, w, pixel_cycles, emit_window)

    if share is not None:
        each = min(share.rows, h)
    elif each is None:
        each = _each(low, layer, extra)
    return Rows(n, h, each, needs, emit, lambda rows: (0, int(rows * w * pixel_cycles)))


def _each(
    low: Lowering, layer: Layer, extra: int = 0, halo_bytes: int = 0, ratio: float = 1.0, part: float = 1.0
) -> int:
    """Rows of a stripe of a layer's output; ``ratio`` input rows stand under one, ``part`` of the channels is there at a
    time."""
    name = layer.input_name
    tiles = int(_tile_bytes(low, name, low.row_bytes(name)) * ratio) + _tile_bytes(
        low, layer.output, low.row_bytes(layer.output)
    )
    tile_bytes, halo_bytes = math.ceil(tiles * part) + extra, math.ceil(halo_bytes * part)
    return stripe_rows(low, low.shape(layer.output)[1], low.row_bytes(layer.output), tile_bytes, halo_bytes)


def source_fields(region: Region, quantization: Quantization) -> dict[str, Any]:
    """The fields of an input image of the vector engine."""
    return {
        "src": region.address, "src_row": region.row, "src_pixel": region.pixel,
        "src_zero": quantization.zero_point, "src_type": NUMBER[quantization.dtype],
    }  # fmt: skip


def target_fields(region: Region, quantization: Quantization | None = None) -> dict[str, Any]:
    """The fields of an output image of the vector engine."""
    fields: dict[str, Any] = {"dst": region.address, "dst_row": region.row, "dst_pixel": region.pixel}
    if quantization is not None:
        fields |= {"dst_zero": quantization.zero_point, "dst_type": NUMBER[quantization.dtype]}
    return fields


def map_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """An element-wise layer."""
    operation = layer.operation
    assert isinstance(operation, Map)
    chain, constants = load_chain(low, layer, operation.affine)
    other = chain.binary.other if chain.binary else None
    operand_bytes = 0
    names = [layer.input_name, layer.output, *([other] if other is not None else [])]
    h, row_bytes = low.shape(layer.output)[1], low.row_bytes(layer.output)
    same = len({low.shape(name) for name in names}) == 1
    if share is None and same and (h == 1 or 8 * row_bytes > low.target.sram_bytes):
        low.see_as_rows(*names)
    if other is not None and low.shape(other)[1] > 1:
        operand_bytes = _tile_bytes(low, other, low.row_bytes(other))

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        return {name: (first, first + rows) if low.shape(name)[1] > 1 else (0, 1) for name in operands(layer)}

    def stripe(image: int, first: int, rows: int) -> Iterator[EmitWindow]:
        operand = bring_operand(low, chain, image, first, rows)
        source = low.bring(layer.input_name, image, first, rows)
        target = low.open(layer.output, image, first, rows)
        yield lambda window: emit_map(
            low,
            layer,
            operation,
            chain,
            constants,
            source.window(*window),
            operand,
            target.window(*window),
            window[2],
        )
        low.close(layer.output, image, target)
        low.drop(source)
        if operand is not None:
            low.drop(operand)

    return _by_rows(low, layer, share, needs, stripe, 1, extra=operand_bytes)


def emit_map(
    low: Lowering, layer: Layer, operation: Map, chain: Chain, constants: ChainConstants,
    source: Region, operand: Region | None, target: Region, left: int,
) -> None:  # fmt: skip
    """One ``map`` over a window whose first column is ``left``; input dimensions of 1 are repeated over the output's."""
    shape = low.shape(chain.binary.other) if chain.binary else None
    fields, symbols = chain_fields(constants, operand, shape, (target.first, left, 0))
    if operation.affine is not None and operation.mid is not None:
        fields |= {
            "source": 2, "parameters": constants.address,
            "mid_zero": operation.mid[0], "mid_type": NUMBER[operation.mid[1]],
        }  # fmt: skip
        symbols["parameters"] = constants.symbol
    fields |= {"h": target.rows, "w": target.columns, "c": target.channels, **target_fields(target)}
    fields |= source_fields(source, low.quantization(layer.input_name))
    low.emitter.emit("map", symbols | {"src": source.symbol, "dst": target.symbol}, **one_row(fields))


def one_row(fields: dict[str, Any]) -> dict[str, Any]:
    """An image of one column as one of one row: its words are then counted as those of one run."""
    if fields["w"] > 1 or fields["h"] == 1:
        return fields
    pixels = {name.replace("_row", "_pixel"): step for name, step in fields.items() if name.endswith("_row")}
    return fields | pixels | {"h": 1, "w": fields["h"]}


def pool_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A pooling layer."""
    pool = layer.operation
    assert isinstance(pool, Pool)
    window = pool.window
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.strides, window.dilations
    height, width = low.shape(layer.input_name)[1:3]
    span = (kh - 1) * dh + 1
    halo = _tile_bytes(low, layer.input_name, low.row_bytes(layer.input_name)) * max(span - sh, 0)
    parts = _channel_parts(low, layer, halo, sh) if share is None else [(0, low.shape(layer.output)[3])]

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        top = first * sh - window.pads[0]
        begin = min(max(top, 0), height - 1)
        return {layer.input_name: (begin, max(min(top + (rows - 1) * sh + span, height), begin + 1))}

    def stripe(image: int, first: int, rows: int) -> Iterator[EmitWindow]:
        begin, end = needs(first, rows)[layer.input_name]
        for channel, channels in parts:
            source = low.bring(layer.input_name, image, begin, end - begin, channel, channels)
            target = low.open(layer.output, image, first, rows, channel, channels)

            def emit(window: Window, source: Region = source, target: Region = target) -> None:
                top, left = window[0] * sh - pool.window.pads[0], window[2] * sw - pool.window.pads[1]
                part = target.window(*window)
                row, column = min(max(top, begin), end - 1), min(max(left, 0), width - 1)
                bottom = max(min(top + (part.rows - 1) * sh + span, end), row + 1)
                right = max(min(left + (part.columns - 1) * sw + (kw - 1) * dw + 1, width), column + 1)
                inside = source.window(row, bottom, column, right)
                low.emitter.emit(
                    "pool", {"src": source.symbol, "dst": target.symbol},
                    **source_fields(inside, low.quantization(layer.input_name)),
                    **target_fields(part, low.quantization(layer.output)),
                    in_h=bottom - row, in_w=right - column, pad_top=row - top, pad_left=column - left,
                    kh=kh, kw=kw, stride_h=sh, stride_w=sw, dilation_h=dh, dilation_w=dw, out_h=part.rows,
                    out_w=part.columns, c=target.channels, kind=int(pool.kind == "average"),
                    count_pad=int(pool.count_pad), factor=pool.factor,
                )  # fmt: skip

            yield emit
            low.close(layer.output, image, target, channel)
            low.drop(source)

    each = None if share else _each(low, layer, 0, halo, sh, parts[0][1] / low.shape(layer.output)[3])
    return _by_rows(low, layer, share, needs, stripe, kh * kw, each)


def _channel_parts(low: Lowering, layer: Layer, halo: int, ratio: float) -> list[tuple[int, int]]:
    """(first, count) of the channels to take at a time: all, unless not even a row of them fits in all of the SRAM."""
    channels = each = low.shape(layer.output)[3]
    while each > 1 and low.buffers == 1:
        try:
            _each(low, layer, 0, halo, ratio, each / channels)
            break
        except DoesNotFit:
            each = -(-each // 2)
    return [(at, min(each, channels - at)) for at in range(0, channels, each)]


def mean_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A mean over rows and columns, by rows of its input: sums in the accumulators, after the last row one ``map``
    that requantises them."""
    mean = layer.operation
    assert isinstance(mean, Mean)
    n, h, w, c = low.shape(layer.input_name)
    parameters = np.concatenate(
        [np.zeros(c, np.int32).view(np.uint8), np.full(c, mean.factor, np.float32).view(np.uint8)]
    )
    chain, constants = load_chain(low, layer, parameters)
    row_bytes = low.row_bytes(layer.input_name)
    each = (
        min(share.rows, h)
        if share
        else stripe_rows(low, h, row_bytes, _tile_bytes(low, layer.input_name, row_bytes))
    )
    places = [low.sums(c * 4) if share else low.accumulators(c * 4) for _ in range(n)]

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        return {
            name: (first, first + rows) if name == layer.input_name else (0, 1) for name in operands(layer)
        }

    def emit(image: int, first: int, rows: int) -> Pieces:
        begin, end = low.parts[low.cores[0]].channels if low.parts else (0, c)
        channels = end - begin
        acc, acc_symbol = places[image]
        source = low.bring(layer.input_name, image, first, rows, begin, channels)

        def emit_window(window: Window) -> None:
            part = source.window(*window)
            low.emitter.emit(
                "reduce", {"src": source.symbol, "acc": acc_symbol}, h=part.rows, w=part.columns, c=channels,
                **source_fields(part, low.quantization(layer.input_name)), acc=acc,
                accumulate=int(window[0] + window[2] > 0),
            )  # fmt: skip

        yield from in_pieces(first, rows, w, channels / low.target.vx_elements_per_cycle, emit_window)
        low.drop(source)
        if first + rows < h:
            return
        operand = bring_operand(low, chain, image, 0, 1)
        target = low.open(layer.output, image, 0, 1, begin, channels)
        shape = low.shape(chain.binary.other) if chain.binary else None
        fields, symbols = chain_fields(constants, operand, shape, (0, 0, begin))
        low.emitter.emit(
            "map", symbols | {"acc": acc_symbol, "parameters": constants.symbol, "dst": target.symbol},
            h=1, w=1, c=channels, source=1, src=acc,
            parameters=constants.address + 4 * (c - channels),  # as many zeros, then multipliers
            mid_zero=mean.mid[0], mid_type=NUMBER[mean.mid[1]], **target_fields(target), **fields,
        )  # fmt: skip
        low.close(layer.output, image, target, begin)
        if operand is not None:
            low.drop(operand)

    return Rows(n, h, each, needs, emit, lambda rows: (0, rows * w * c // low.target.vx_elements_per_cycle))


def resize_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A resize: each stripe with its rows' table, counted from the first input row that it reads."""
    resize = layer.operation
    assert isinstance(resize, Resize)
    columns, columns_symbol = low.load_constant(resize.columns.astype(np.uint16))
    _, in_h, in_w, _ = low.shape(layer.input_name)
    out_h = low.shape(layer.output)[1]
    halo = 2 * _tile_bytes(low, layer.input_name, low.row_bytes(layer.input_name))

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        table = resize.rows[first : first + rows, :2]
        return {layer.input_name: (int(table.min()), int(table.max()) + 1)}

    def stripe(image: int, first: int, rows: int) -> Iterator[EmitWindow]:
        table = resize.rows[first : first + rows].astype(np.int64)
        begin, end = needs(first, rows)[layer.input_name]
        table[:, :2] -= begin
        source_constant, constant_symbol = low.emitter.constant(table.astype(np.uint16))
        address, symbol = low.weights(rows * 8)
        low.dma("load", source_constant, constant_symbol, address, symbol, rows * 8)
        source = low.bring(layer.input_name, image, begin, end - begin)
        target = low.open(layer.output, image, first, rows)

        def emit(window: Window) -> None:
            part = target.window(*window)
            low.emitter.emit(
                "resize",
                {"src": source.symbol, "rows": symbol, "columns": columns_symbol, "dst": target.symbol},
                **source_fields(source, low.quantization(layer.input_name)),
                **target_fields(part, low.quantization(layer.output)),
                in_h=end - begin, in_w=in_w, out_h=part.rows, out_w=part.columns, c=part.channels,
                rows=address + 8 * (window[0] - first), columns=columns + 8 * window[2],
                taps=int(resize.taps == 4), factor=resize.factor,
            )  # fmt: skip

        yield emit
        low.close(layer.output, image, target)
        low.drop(source)
        low.sram.release(address)

    each = None if share else _each(low, layer, 8, halo, in_h / out_h)
    return _by_rows(low, layer, share, needs, stripe, 4 if resize.taps == 4 else 1, each)


def softmax_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A softmax over channels."""
    softmax = layer.operation
    assert isinstance(softmax, Softmax)
    table, symbol = low.load_constant(softmax.table)
    fields = {"table": table, "factor": softmax.factor}
    return _image_rows(low, layer, share, 4, "softmax", fields, {"table": symbol}, drop=("src_zero",))


def lrn_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A local response normalisation."""
    lrn = layer.operation
    assert isinstance(lrn, Lrn)
    fields = {"size": lrn.size, "alpha": lrn.alpha, "bias": lrn.bias, "factor": lrn.factor}
    return _image_rows(low, layer, share, lrn.size + 3, "lrn", fields, {})


def norm_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A normalisation over channels."""
    norm = layer.operation
    assert isinstance(norm, Norm)
    parameters, symbol = low.load_constant(norm.factors)
    fields = {"parameters": parameters, "epsilon": norm.epsilon, "centre": int(norm.centre)}
    return _image_rows(low, layer, share, 3, "norm", fields, {"parameters": symbol})


def _image_rows(
    low: Lowering,
    layer: Layer,
    share: Share | None,
    passes: int,
    mnemonic: str,
    fields: dict[str, Any],
    symbols: dict[str, int],
    drop: tuple[str, ...] = (),
) -> Rows:
    """A layer of one input image and one output image of the same shape, whose pixels know nothing of each other,
    in ``passes`` over its elements."""
    if share is None:
        low.see_as_rows(layer.input_name, layer.output)

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        return {layer.input_name: (first, first + rows)}

    def stripe(image: int, first: int, rows: int) -> Iterator[EmitWindow]:
        source = low.bring(layer.input_name, image, first, rows)
        target = low.open(layer.output, image, first, rows)

        def emit(window: Window) -> None:
            part = target.window(*window)
            inputs = source_fields(source.window(*window), low.quantization(layer.input_name))
            image_fields = {
                "h": part.rows, "w": part.columns, "c": part.channels,
                **{name: value for name, value in inputs.items() if name not in drop},
                **target_fields(part, low.quantization(layer.output)),
            }  # fmt: skip
            low.emitter.emit(
                mnemonic,
                symbols | {"src": source.symbol, "dst": target.symbol},
                **one_row(image_fields),
                **fields,
            )

        yield emit
        low.close(layer.output, image, target)
        low.drop(source)

    return _by_rows(low, layer, share, needs, stripe, passes)
