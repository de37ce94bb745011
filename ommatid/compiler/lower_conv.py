"""Convolutions into instructions: stripes of rows, chunks of weights, blocks of pixels by channels.

A transposed convolution is one plain convolution for each phase of its output grid; a grouped one is one
``conv`` for each group of a block; a depthwise one is ``dwconv``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ommatid.compiler.blocks import (
    Block,
    Phase,
    blocks_of,
    is_pointwise,
    phases_of,
    weight_blob,
    weight_unit,
)
from ommatid.compiler.bounds import is_depthwise
from ommatid.compiler.chain import bring_operand, load_chain
from ommatid.compiler.conv_blocks import Job, Weights, compute, compute_in_parts
from ommatid.compiler.layers import Binary, Conv, Layer
from ommatid.compiler.lower import Lowering, Region
from ommatid.compiler.rows import Cycles, Rows, Share
from ommatid.compiler.tile import ConvShape, block_cycles, plan_conv, sram_bytes

Array = np.ndarray[Any, Any]
PIECE_BYTES = 16 * 1024  # weights that stay are loaded in pieces, so that the first block can start early


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
        sum_bytes=low.sum_bytes,
    )


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
    operand = bring_operand(low, job.chain, image, out_first, out_rows)
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
            compute_in_parts(low, job, chunk[0], source, operand, target, (first, rows), done)
        else:
            weights = keep or _load_chunk(low, job, done, done + len(chunk))
            yield from compute(low, job, chunk, done, weights, source, operand, target, first, rows)
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
