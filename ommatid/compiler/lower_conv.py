"""Convolutions into instructions: stripes of rows, chunks of weights, blocks of pixels by channels.

A transposed convolution is one plain convolution for each phase of its output grid; a grouped one is one
``conv`` for each group of a block; a depthwise one is ``dwconv``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ommatid.compiler.blocks import (
    Block,
    Call,
    Phase,
    blocks_of,
    is_pointwise,
    phases_of,
    weight_blob,
    weight_unit,
)
from ommatid.compiler.bounds import is_depthwise
from ommatid.compiler.layers import Binary, Conv, Layer
from ommatid.compiler.lower import (
    Chain,
    ChainConstants,
    Lowering,
    Region,
    chain_fields,
    load_chain,
)
from ommatid.compiler.rows import Cycles, Rows, Share
from ommatid.compiler.tile import ConvPlan, ConvShape, block_cycles, block_pixel_counts, plan_conv, sram_bytes
from ommatid.isa.elements import NUMBER

Array = np.ndarray[Any, Any]
PIECE_BYTES = 16 * 1024  # weights that stay are loaded in pieces, so that the first block can start early


@dataclass(frozen=True)
class Place:
    """Pixels of a block: output rows and columns of a phase. ``flat``: columns run on through all rows."""

    row: int
    column: int
    height: int
    width: int
    flat: bool


@dataclass(frozen=True)
class Job:
    """All that is fixed while a layer is lowered."""

    layer: Layer
    conv: Conv
    depthwise: bool
    row_mode: bool
    phases: tuple[Phase, ...]
    shape: ConvShape
    plan: ConvPlan
    blocks: tuple[Block, ...]
    chain: Chain
    constants: ChainConstants
    weight_offsets: tuple[tuple[tuple[int, ...], ...], ...]  # [block][phase][call], bytes in the blob
    weight_source: int
    weight_symbol: int
    weight_bytes: int
    acc_bytes: int


def conv_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A convolution by rows of its output; in a cascade with what it may take.

    Raises:
        DoesNotFit: no tile shape fits in the free SRAM.
    """
    job = _prepare(low, layer, share)
    n, out_h, _, _ = low.shape(layer.output)
    up = job.conv.upsample[0]
    chunks = [
        job.blocks[i : i + job.plan.chunk_blocks] for i in range(0, len(job.blocks), job.plan.chunk_blocks)
    ]
    keep = _room_for_weights(low, job) if len(chunks) == 1 and job.plan.k_parts == 1 else None
    missing = [keep] if keep else []

    def needs(first: int, rows: int) -> dict[str, tuple[int, int]]:
        height = low.shape(layer.input_name)[1]
        spans = {layer.input_name: _input_rows(job, first // up, -(-rows // up), height)}
        if job.chain.binary is not None:
            name = job.chain.binary.other
            high = (first, first + rows) if low.shape(name)[1] > 1 else (0, 1)
            low_row, high_row = spans.get(name, high)
            spans[name] = min(low_row, high[0]), max(high_row, high[1])
        return spans

    def emit(image: int, first: int, rows: int) -> Iterator[Cycles]:
        while missing:  # loaded when they are first needed
            _load_all_weights(low, job, missing.pop())
        yield from _stripe(low, job, image, first // up, -(-rows // up), chunks, keep)

    return Rows(n, out_h, job.plan.stripe_rows * up, needs, emit, up)


def _prepare(low: Lowering, layer: Layer, share: Share | None) -> Job:
    conv = layer.operation
    assert isinstance(conv, Conv)
    target = low.target
    depthwise = is_depthwise(layer)
    phases = phases_of(conv)
    if is_pointwise(conv, phases) and not depthwise and share is None:
        _see_tokens_as_rows(low, layer)
    c = low.shape(layer.input_name)[3] * low.kind(layer.input_name).bytes
    pixel = low.strides(layer.input_name)[2] if low.stays(layer.input_name) else c
    row_mode = not depthwise and conv.groups == 1 and conv.window.dilations[1] == 1 and pixel == c
    unit_bytes, steps, unit = weight_unit(conv, phases, depthwise, row_mode, target)
    shape = _conv_shape(low, layer, phases, depthwise, unit_bytes, steps, unit)
    if share is None:
        plan = plan_conv(shape, target, max((b - a for a, b in low.sram.gaps()), default=0), low.buffers)
        low.make_room(sram_bytes(shape, plan))
    else:
        plan = plan_conv(shape, target, share.sram_bytes, stripe_rows=-(-share.rows // conv.upsample[0]))
    blocks = blocks_of(conv, depthwise, plan.block_channels)
    blob, offsets = weight_blob(conv, phases, blocks, depthwise, row_mode, target)
    source, symbol = low.emitter.constant(blob)
    parameters = np.concatenate(
        [
            part
            for b in blocks
            for part in (
                conv.bias[b.low : b.high].view(np.uint8),
                conv.multipliers[b.low : b.high].view(np.uint8),
            )
        ]
    )
    chain, constants = load_chain(low, layer, parameters)
    return Job(
        layer,
        conv,
        depthwise,
        row_mode,
        phases,
        shape,
        plan,
        blocks,
        chain,
        constants,
        offsets,
        source,
        symbol,
        blob.nbytes,
        4 * shape.element,
    )


def _see_tokens_as_rows(low: Lowering, layer: Layer) -> None:
    """Tokens have no rows to be cut: a pointwise convolution may then see them as rows of one pixel."""
    names = [layer.input_name, layer.output]
    shapes = [low.shape(name) for name in names]
    for step in layer.steps:
        if isinstance(step, Binary) and low.shape(step.other)[:3] != (1, 1, 1):
            names.append(step.other)
            shapes.append(low.shape(step.other))
    if len({shape[:3] for shape in shapes}) == 1 and shapes[0][1] == 1:
        low.see_as_rows(*names, dense=True)


def _conv_shape(
    low: Lowering,
    layer: Layer,
    phases: tuple[Phase, ...],
    depthwise: bool,
    unit_bytes: int,
    steps: int,
    unit: int,
) -> ConvShape:
    conv = layer.operation
    assert isinstance(conv, Conv)
    n, h, _, _ = low.shape(layer.input_name)
    _, out_h, out_w, cout = low.shape(layer.output)
    up_h, up_w = conv.upsample
    kh = max(p.weights.shape[1] for p in phases)
    kw = max(p.weights.shape[2] for p in phases)
    binary = [step.other for step in layer.steps if hasattr(step, "other")]
    operand_bytes = 0
    for other in binary:
        one_row = low.shape(other)[1] == 1
        operand_bytes += 0 if low.stays(other) or one_row else up_h * low.row_bytes(other)
    return ConvShape(
        images=n,
        rows=-(-out_h // up_h),
        columns=-(-out_w // up_w),
        channels=cout,
        block_unit=unit,
        weight_bytes_per_unit=unit_bytes,
        steps=steps,
        kernel=(kh, kw),
        stride=conv.window.strides,
        row_span=(kh - 1) * conv.window.dilations[0] + 1 + (1 if up_h > 1 else 0),
        input_rows=h,
        input_row_bytes=0 if low.stays(layer.input_name) else low.row_bytes(layer.input_name),
        output_row_bytes=0 if low.stays(layer.output) else up_h * low.row_bytes(layer.output),
        operand_row_bytes=operand_bytes,
        element=low.kind(layer.input_name).bytes,
        widest=max(low.kind(name).bytes for name in (layer.output, *binary)),
        flat=is_pointwise(conv, phases),
        depthwise=depthwise,
    )


@dataclass(frozen=True)
class Weights:
    """Weights in SRAM: ``address`` is where byte ``offset`` of the blob lies."""

    address: int
    offset: int
    symbol: int


def _room_for_weights(low: Lowering, job: Job) -> Weights:
    """A tile for all weights."""
    address, symbol = low.weights(job.weight_bytes)
    low.keep_for_layer(address)
    return Weights(address, 0, symbol)


def _load_all_weights(low: Lowering, job: Job, room: Weights) -> None:
    """All weights into their tile, in pieces of whole blocks."""
    begin = 0
    starts = [offsets[0][0] for offsets in job.weight_offsets[1:]] + [job.weight_bytes]
    for start in starts:
        if start - begin >= PIECE_BYTES or start == job.weight_bytes:
            to, size = room.address + begin, start - begin
            low.dma("load", job.weight_source + begin, job.weight_symbol, to, room.symbol, size)
            begin = start


def _load_chunk(low: Lowering, job: Job, first: int, last: int) -> Weights:
    """The weights of blocks ``first`` to ``last`` (not included)."""
    begin = job.weight_offsets[first][0][0]
    end = job.weight_offsets[last][0][0] if last < len(job.blocks) else job.weight_bytes
    address, symbol = low.weights(end - begin)
    low.dma("load", job.weight_source + begin, job.weight_symbol, address, symbol, end - begin)
    return Weights(address, begin, symbol)


def _stripe(
    low: Lowering,
    job: Job,
    image: int,
    first: int,
    rows: int,
    chunks: list[tuple[Block, ...]],
    keep: Weights | None,
) -> Iterator[Cycles]:
    """Output rows ``first`` .. ``first + rows`` (of each phase) of one image, block by block."""
    layer, up = job.layer, job.conv.upsample[0]
    out_h = low.shape(layer.output)[1]
    begin, end = _input_rows(job, first, rows, low.shape(layer.input_name)[1])
    out_first, out_rows = first * up, min(rows * up, out_h - first * up)
    narrow = job.plan.narrow
    source = None if narrow else low.bring(layer.input_name, image, begin, end - begin)
    operand = _bring_operand(low, job, image, out_first, out_rows)
    done = 0
    for chunk in chunks:
        whole = len(chunks) == 1
        channels = chunk[-1].high - chunk[0].low
        if narrow:
            source = _bring_channels(low, job, image, (begin, end), chunk[0].low, channels)
        assert source is not None
        target = low.open(layer.output, image, out_first, out_rows, chunk[0].low, channels)
        if job.plan.k_parts > 1:
            yield block_cycles(low.target, job.shape, (rows, target.columns), channels)
            _compute_in_parts(low, job, chunk[0], source, operand, target, (first, rows), done)
        else:
            weights = keep or _load_chunk(low, job, done, done + len(chunk))
            yield from _compute(low, job, chunk, done, weights, source, operand, target, first, rows)
            if keep is None:
                low.sram.release(weights.address)
        low.close(layer.output, image, target, 0 if whole else chunk[0].low)
        done += len(chunk)
        if narrow or chunk is chunks[-1]:
            low.drop(source)
    if operand is not None:
        low.drop(operand)


def _bring_channels(
    low: Lowering, job: Job, image: int, rows: tuple[int, int], channel: int, channels: int
) -> Region:
    """A part of the input's channels, addressed as if all were there."""
    part = low.bring(job.layer.input_name, image, rows[0], rows[1] - rows[0], channel, channels)
    return replace(part, address=part.address - channel * part.kind.bytes)


def _input_rows(job: Job, first: int, rows: int, height: int) -> tuple[int, int]:
    """The input rows under output rows ``first`` .. ``first + rows`` of all phases, at least one."""
    stride, dilation = job.conv.window.strides[0], job.conv.window.dilations[0]
    low = min(first * stride - p.pad_top for p in job.phases)
    high = max(
        (first + rows - 1) * stride - p.pad_top + (p.weights.shape[1] - 1) * dilation + 1 for p in job.phases
    )
    begin = min(max(low, 0), height - 1)
    return begin, max(min(high, height), begin + 1)


def _bring_operand(low: Lowering, job: Job, image: int, first: int, rows: int) -> Region | None:
    step = job.chain.binary
    if step is None:
        return None
    n, h, _, _ = low.shape(step.other)
    return low.bring(step.other, image if n > 1 else 0, first if h > 1 else 0, rows if h > 1 else 1)


def _is_flat(job: Job, source: Region, target: Region, operand: Region | None) -> bool:
    """Whether the pixels of a stripe can be taken as one row everywhere."""
    if job.depthwise or not is_pointwise(job.conv, job.phases) or not (source.flat and target.flat):
        return False
    if operand is None or operand.rows == operand.columns == 1:
        return True
    return operand.flat and (operand.rows, operand.columns) == (target.rows, target.columns)


def _places(job: Job, flat: bool, first: int, rows: int, columns: int) -> Iterator[Place]:
    """The blocks of pixels of a stripe of one phase, row by row."""
    row, column = 0, 0
    for height, width in block_pixel_counts(rows, columns, job.plan.block_pixels, flat):
        yield Place(first + row, column, height, width, flat)
        column += width
        if not flat and column == columns:
            row, column = row + height, 0


def _compute(
    low: Lowering, job: Job, chunk: tuple[Block, ...], number: int, weights: Weights, source: Region,
    operand: Region | None, target: Region, first: int, rows: int,
) -> Iterator[Cycles]:  # fmt: skip
    """A chunk of channels over all pixels of a stripe: phase by phase, place by place, block by block."""
    _, out_h, out_w, _ = low.shape(job.layer.output)
    up_h, up_w = job.conv.upsample
    flat = _is_flat(job, source, target, operand)
    for index, phase in enumerate(job.phases):
        phase_rows = min(rows, -(-(out_h - phase.row) // up_h) - first)
        columns = -(-(out_w - phase.column) // up_w)
        if phase_rows <= 0 or columns <= 0:
            continue
        for place in _places(job, flat, first, phase_rows, columns):
            for at, block in enumerate(chunk, number):
                yield block_cycles(low.target, job.shape, (place.height, place.width), block.high - block.low)
                acc = low.accumulators(place.height * place.width * (block.high - block.low) * job.acc_bytes)
                for offset, call in zip(job.weight_offsets[at][index], block.calls, strict=True):
                    address = weights.address + offset - weights.offset
                    _multiply(low, job, phase, call, place, source, (address, weights.symbol), acc, block)
                _drain(low, job, phase, block, place, acc, operand, target, chunk[0].low)


def _window_fields(
    low: Lowering, job: Job, phase: Phase, kernel: tuple[int, int], pad_top: int, channel: int,
    place: Place, source: Region,
) -> dict[str, Any]:  # fmt: skip
    """The input window of a block: where it starts, what of it exists, what is padding."""
    row, column, height, width = place.row, place.column, place.height, place.width
    (stride_h, stride_w), (dil_h, dil_w) = job.conv.window.strides, job.conv.window.dilations
    top, left = row * stride_h - pad_top, column * stride_w - phase.pad_left
    bottom = top + (height - 1) * stride_h + (kernel[0] - 1) * dil_h + 1
    right = left + (width - 1) * stride_w + (kernel[1] - 1) * dil_w + 1
    limit_h = source.first + source.rows
    columns = source.columns * (limit_h - row) if place.flat else source.columns
    first_row = min(max(top, source.first), limit_h - 1)
    last_row = max(min(bottom, limit_h), first_row + 1)
    first_column = min(max(left, 0), columns - 1)
    last_column = max(min(right, columns), first_column + 1)
    quantization = low.quantization(job.layer.input_name)
    return {
        "src": source.at(first_row, first_column, channel),
        "src_row": source.row,
        "src_pixel": source.pixel,
        "in_h": last_row - first_row,
        "in_w": last_column - first_column,
        "pad_top": first_row - top,
        "pad_left": first_column - left,
        "kh": kernel[0],
        "kw": kernel[1],
        "stride_h": stride_h,
        "stride_w": stride_w,
        "dilation_h": dil_h,
        "dilation_w": dil_w,
        "out_h": height,
        "out_w": width,
        "src_zero": quantization.zero_point,
        "src_type": NUMBER[quantization.dtype],
    }


def _multiply(
    low: Lowering, job: Job, phase: Phase, call: Call, place: Place, source: Region,
    weights: tuple[int, int], acc: tuple[int, int], block: Block,
) -> None:  # fmt: skip
    """One ``conv`` or ``dwconv``."""
    _, kh, kw, cin = phase.weights.shape
    channels = block.high - block.low
    fields = _window_fields(low, job, phase, (kh, kw), phase.pad_top, call.source, place, source)
    fields |= {
        "weights": weights[0],
        "acc": acc[0] + (call.low - block.low) * job.acc_bytes,
        "acc_pixel": channels * job.acc_bytes,
        "acc_bytes": job.acc_bytes,
    }
    symbols = {"src": source.symbol, "weights": weights[1], "acc": acc[1]}
    if job.depthwise:
        low.emitter.emit(
            "dwconv", symbols, c=call.high - call.low, weights_tap=call.high - call.low, **fields
        )
    else:
        low.emitter.emit(
            "conv",
            symbols,
            cin=cin,
            cout=call.high - call.low,
            row_mode=int(job.row_mode),
            weights_type=1,
            **fields,
        )


def _drain(
    low: Lowering, job: Job, phase: Phase, block: Block, place: Place,
    acc: tuple[int, int], operand: Region | None, target: Region, chunk_low: int,
) -> None:  # fmt: skip
    """The ``map`` that requantises a block, applies the chain and writes the output."""
    height, width = place.height, place.width
    channels = block.high - block.low
    up_h, up_w = job.conv.upsample
    at = (phase.row + place.row * up_h, phase.column + place.column * up_w)
    shape = low.shape(job.chain.binary.other) if job.chain.binary else None
    if shape is not None and place.flat and shape[1:3] != (1, 1):
        shape = (shape[0], 2, 2, shape[3])  # its columns run on, even if a row has but one
    fields, symbols = chain_fields(job.chain, job.constants, operand, shape, (*at, block.low))
    if "operand" in fields:
        fields["operand_row"] *= up_h
        fields["operand_pixel"] *= up_w
    low.emitter.emit(
        "map",
        symbols | {"acc": acc[1], "parameters": job.constants.symbol, "dst": target.symbol},
        h=height, w=width, c=channels, source=1, src=acc[0], src_row=width * channels * job.acc_bytes,
        src_pixel=channels * job.acc_bytes, acc_bytes=job.acc_bytes,
        parameters=job.constants.address + 8 * block.low, mid_zero=job.conv.mid[0], mid_type=NUMBER[job.conv.mid[1]],
        dst=target.at(at[0], at[1], block.low - chunk_low), dst_row=target.row * up_h, dst_pixel=target.pixel * up_w,
        **fields,
    )  # fmt: skip


def _compute_in_parts(
    low: Lowering, job: Job, block: Block, source: Region, operand: Region | None, target: Region,
    rows: tuple[int, int], number: int,
) -> None:  # fmt: skip
    """One block whose weights are loaded and accumulated part by part along K (see ``tile._split_k``)."""
    phase = job.phases[0]
    _, kh, kw, cin = phase.weights.shape
    columns = low.shape(job.layer.output)[2]
    place = Place(rows[0], 0, rows[1], columns, False)
    acc = low.accumulators(rows[1] * columns * (block.high - block.low) * job.acc_bytes)
    along_rows = kh >= job.plan.k_parts
    k, tile_bytes = low.target.mx_k_bytes, low.target.mx_k_bytes * low.target.mx_channels
    row_steps = -(-kw * cin // k) if job.row_mode else kw * -(-cin // k)
    parts = _k_ranges(low, kh if along_rows else cin, job.plan.k_parts, along_rows)
    for call, begins in zip(block.calls, job.weight_offsets[number][0], strict=True):
        for index, (begin, end) in enumerate(parts):
            first, last = (begin * row_steps, end * row_steps) if along_rows else (begin // k, -(-end // k))
            size = (last - first) * tile_bytes
            address, symbol = low.weights(size)
            weights = job.weight_source + begins + first * tile_bytes
            low.dma("load", weights, job.weight_symbol, address, symbol, size)
            kernel = (end - begin, kw) if along_rows else (kh, kw)
            pad_top = phase.pad_top - begin * job.conv.window.dilations[0] if along_rows else phase.pad_top
            channel = call.source if along_rows else call.source + begin
            fields = _window_fields(low, job, phase, kernel, pad_top, channel, place, source)
            low.emitter.emit(
                "conv", {"src": source.symbol, "weights": symbol, "acc": acc[1]},
                cin=cin if along_rows else end - begin, cout=call.high - call.low,
                row_mode=int(job.row_mode and along_rows), weights=address, weights_type=1,
                acc=acc[0] + (call.low - block.low) * job.acc_bytes, acc_bytes=job.acc_bytes,
                acc_pixel=(block.high - block.low) * job.acc_bytes, accumulate=int(index > 0), **fields,
            )  # fmt: skip
            low.sram.release(address)
    _drain(low, job, phase, block, place, acc, operand, target, block.low)


def _k_ranges(low: Lowering, size: int, parts: int, along_rows: bool) -> list[tuple[int, int]]:
    """``size`` kernel rows or input channels in at most ``parts`` ranges; channels at multiples of the array's K."""
    unit = 1 if along_rows else low.target.mx_k_bytes
    units = -(-size // unit)
    each = -(-units // parts) * unit
    return [(a, min(a + each, size)) for a in range(0, size, each)]
