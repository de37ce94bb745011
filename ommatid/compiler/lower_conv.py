"""Convolutions into instructions: stripes of rows, chunks of weights, blocks of pixels by channels.

A transposed convolution is one plain convolution for each phase of its output grid; a grouped one is one
``conv`` for each group of a block; a depthwise one is ``dwconv``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ommatid.compiler.blocks import (
    Phase,
    blocks_of,
    is_pointwise,
    phases_of,
    runs_of,
    weight_blob,
    weight_unit,
)
from ommatid.compiler.bounds import is_depthwise
from ommatid.compiler.chain import OPERAND, bring_operand, load_chain
from ommatid.compiler.conv_blocks import (
    CONV,
    DRAIN,
    DWCONV,
    Chunk,
    Job,
    Weights,
    compute,
    compute_in_parts,
)
from ommatid.compiler.layers import Binary, Conv, Layer
from ommatid.compiler.lower import Lowering, Region
from ommatid.compiler.parts import by_channels, rows_read, rows_under
from ommatid.compiler.rows import Cycles, Pieces, Rows, Share
from ommatid.compiler.storage import operands
from ommatid.compiler.tile import ConvShape, block_cycles, plan_conv, sram_bytes, stripe_cycles
from ommatid.isa.elements import NUMBER

Array = np.ndarray[Any, Any]
PIECE_BYTES = 16 * 1024  # weights that stay are loaded in pieces, so that the first block can start early


def conv_rows(low: Lowering, layer: Layer, share: Share | None = None) -> Rows:
    """A convolution by rows of its output; in a cascade with what it may take.

    Raises:
        DoesNotFit: no tile shape fits in the free SRAM.
    """
    job = _prepare(low, layer, share)
    n, out_h, _, _ = low.shape(layer.output)
    together = _takes_images_together(low, layer)
    up = job.conv.upsample[0]
    chunks = _chunks(low, job)
    stays = all(len(each) <= 1 for each in chunks.values()) and job.plan.k_parts == 1
    keep = _room_for_weights(low, job, chunks) if stays else {}
    missing = list(dict.fromkeys(keep.values()))
    turns: dict[int, int] = {}

    def emit(image: int, first: int, rows: int) -> Pieces:
        mine = low.cores
        while missing:  # loaded when they are first needed
            room = missing.pop(0)
            low.on(*(core for core, theirs in keep.items() if theirs == room))
            _load_kept(low, job, room, chunks[low.cores[0]][0])
            low.on(*mine)
        images = range(n) if together else range(image, image + 1)
        core = mine[0]
        turns[core] = turns.get(core, -1) + 1
        turn = turns[core] if alike else None
        yield from _stripe(low, job, images, first // up, -(-rows // up), chunks[core], keep.get(core), turn)

    def cycles(rows: int) -> Cycles:
        return stripe_cycles(job.shape, job.plan, low.target, -(-rows // up))[:2]

    needs = rows_read(low.network, layer)
    result = Rows(1 if together else n, out_h, job.plan.stripe_rows * up, needs, emit, cycles, up)
    shared = low.parts is not None and not by_channels(low.parts)
    alike = shared and len({len(result.stripes(low.parts, core)) for core in low.cores}) == 1
    return result


def _takes_images_together(low: Lowering, layer: Layer) -> bool:
    """Whether weights, where they do not all stay, are loaded for all images at once: all images lie in SRAM."""
    return by_channels(low.parts) and all(low.stays(name) for name in (*operands(layer), layer.output))


def _chunks(low: Lowering, job: Job) -> dict[int, list[Chunk]]:
    """By core the runs of numbered blocks of its channels whose weights are loaded as one."""
    parts, size = low.parts, job.plan.chunk_blocks
    chunks = {}
    for core in low.cores:
        channels = parts[core].channels if parts else (0, job.blocks[-1].high)
        mine = [pair for pair in enumerate(job.blocks) if channels[0] <= pair[1].low < channels[1]]
        chunks[core] = [tuple(mine[i : i + size]) for i in range(0, len(mine), size)]
    return chunks


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
        free = max((b - a for a, b in low.sram.gaps()), default=0)
        free -= 8 * (conv.weights.shape[0] - shape.channels)  # parameters of what other cores make
        shared = low.parts is not None and not by_channels(low.parts)
        plan = plan_conv(shape, target, free, low.buffers, shared=shared)
        low.make_room(sram_bytes(shape, plan))
    else:
        plan = plan_conv(shape, target, share.sram_bytes, stripe_rows=-(-share.rows // conv.upsample[0]))
    blocks = blocks_of(
        conv, depthwise, plan.block_channels, sorted({part.channels for part in low.parts or ()}) or None
    )
    blob, offsets = weight_blob(conv, phases, blocks, depthwise, row_mode, target)
    source, symbol = low.emitter.constant(blob)
    parameters = np.concatenate(
        [
            part[low:high].view(np.uint8)
            for block in blocks
            for low, high, _ in runs_of(conv, block)
            for part in (conv.bias, conv.multipliers)
        ]
    )
    chain, constants = load_chain(low, layer, parameters)
    quantization, acc_bytes = low.quantization(layer.input_name), 4 * shape.element
    same = {
        "src_zero": quantization.zero_point, "src_type": NUMBER[quantization.dtype], "acc_bytes": acc_bytes,
        "stride_h": conv.window.strides[0], "stride_w": conv.window.strides[1],
        "dilation_h": conv.window.dilations[0], "dilation_w": conv.window.dilations[1],
    } | ({} if depthwise else {"weights_type": 1})  # fmt: skip
    read = ("src", "weights", "acc")
    multiply = low.emitter.form(*(("dwconv", DWCONV) if depthwise else ("conv", CONV)), read, same)
    same = {
        "source": 1, "acc_bytes": acc_bytes, "mid_zero": conv.mid[0], "mid_type": NUMBER[conv.mid[1]], **constants.fields,
    }  # fmt: skip
    beside, symbols = (OPERAND, ("operand",)) if chain.binary else ((), ())
    touched = ("acc", "parameters", "dst", *constants.symbols, *symbols)
    drain = low.emitter.form("map", (*DRAIN, *beside), touched, same)
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
        len(blob),
        acc_bytes,
        multiply,
        drain,
        rows_under(layer, low.shape(layer.input_name)[1]),
        functools.cache(lambda h, w, channels: block_cycles(target, shape, (h, w), channels)),
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
    h = low.shape(layer.input_name)[1]
    n, out_h, out_w, cout = low.shape(layer.output)
    channels = cout
    if low.parts:
        n, out_h, channels = (
            max(b - a for a, b in ranges)
            for ranges in zip(*((part.images, part.rows, part.channels) for part in low.parts), strict=True)
        )
        if by_channels(low.parts):
            n, out_h = (
                (1 if _takes_images_together(low, layer) else low.shape(layer.output)[0]),
                low.shape(layer.output)[1],
            )
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
        channels=channels,
        block_unit=unit,
        weight_bytes_per_unit=unit_bytes,
        steps=steps,
        kernel=(kh, kw),
        stride=conv.window.strides,
        row_span=(kh - 1) * conv.window.dilations[0] + 1 + (1 if up_h > 1 else 0),
        input_rows=h,
        input_row_bytes=0 if low.stays(layer.input_name) else low.row_bytes(layer.input_name),
        output_row_bytes=0
        if low.stays(layer.output)
        else up_h * low.row_bytes(layer.output) * channels // cout,
        operand_row_bytes=operand_bytes,
        element=low.kind(layer.input_name).bytes,
        widest=max(low.kind(name).bytes for name in (layer.output, *binary)),
        flat=is_pointwise(conv, phases),
        depthwise=depthwise,
        phases=len(phases),
        runs=max(len(conv.runs), 1),
        sum_bytes=low.sum_bytes,
    )


def _room_for_weights(low: Lowering, job: Job, chunks: Mapping[int, list[Chunk]]) -> dict[int, Weights]:
    """A tile for all weights of each core; equal where these are the same."""
    ranges = {core: _weight_range(job, chunk) for core, (chunk,) in chunks.items()}
    address, symbol = low.weights(max(end - begin for begin, end in ranges.values()))
    low.keep_for_layer(address)
    return {core: Weights(address, begin, symbol) for core, (begin, _) in ranges.items()}


def _weight_range(job: Job, chunk: Chunk) -> tuple[int, int]:
    """The bytes of a chunk's weights in the blob."""
    first, after = chunk[0][0], chunk[-1][0] + 1
    end = job.weight_offsets[after][0][0] if after < len(job.blocks) else job.weight_bytes
    return job.weight_offsets[first][0][0], end


def _load_kept(low: Lowering, job: Job, room: Weights, chunk: Chunk) -> None:
    """All weights of a core into their tile, in pieces of whole blocks."""
    begin, end = _weight_range(job, chunk)
    for number, _ in chunk:
        stop = _weight_range(job, ((number, job.blocks[number]),))[1]
        if stop - begin >= PIECE_BYTES or stop == end:
            to, size = room.address + begin - room.offset, stop - begin
            low.dma("load", job.weight_source + begin, job.weight_symbol, to, room.symbol, size)
            begin = stop


def _chunk_weights(low: Lowering, job: Job, chunk: Chunk, turn: int | None) -> Weights:
    """The weights of a chunk; where cores take the same ones in turns, loaded for all by the first that comes."""
    if turn is None:
        return _load_chunk(low, job, chunk)
    key = turn, chunk[0][0]
    if key not in job.loaded:
        mine = low.cores
        low.share(low.parts)
        job.loaded[key] = _load_chunk(low, job, chunk)
        low.on(*mine)
    return job.loaded[key]


def _load_chunk(low: Lowering, job: Job, chunk: Chunk) -> Weights:
    """The weights of a chunk in a tile of their own."""
    begin, end = _weight_range(job, chunk)
    address, symbol = low.weights(end - begin)
    low.dma("load", job.weight_source + begin, job.weight_symbol, address, symbol, end - begin)
    return Weights(address, begin, symbol)


def _stripe(
    low: Lowering,
    job: Job,
    images: Sequence[int],
    first: int,
    rows: int,
    chunks: list[Chunk],
    keep: Weights | None,
    turn: int | None,
) -> Pieces:
    """Output rows ``first`` .. ``first + rows`` (of each phase) of images, block by block.

    ``turn`` is the number of the stripe, if all cores make as many of the same channels.
    """
    layer, up = job.layer, job.conv.upsample[0]
    out_h = low.shape(layer.output)[1]
    out_first, out_rows = first * up, min(rows * up, out_h - first * up)
    begin, end = job.under(out_first, out_rows)
    narrow = job.plan.narrow
    read = []
    for image in images:
        source = None if narrow else _bring(low, job, image, begin, end - begin)
        read.append((image, source, bring_operand(low, job.chain, image, out_first, out_rows)))
    for chunk in chunks:
        channel = chunk[0][1].low
        channels = chunk[-1][1].high - channel
        weights = keep
        for image, source, operand in read:
            if narrow:
                source = low.bring_channels(layer.input_name, image, begin, end - begin, channel, channels)
            assert source is not None
            target = low.open(layer.output, image, out_first, out_rows, channel, channels)
            if job.plan.k_parts > 1:
                yield job.cycles(rows, target.columns, channels)
                compute_in_parts(low, job, chunk[0], source, operand, target, (first, rows))
            else:
                weights = weights or _chunk_weights(low, job, chunk, turn)
                yield from compute(low, job, chunk, weights, source, operand, target, first, rows)
            if weights is not None and keep is None and image == images[-1]:
                low.sram.release(weights.address)
            if (
                target.tile is not None or not low.parts
            ):  # else its blocks have been sent, each when it was ready
                low.close(layer.output, image, target, channel)
            if narrow or chunk is chunks[-1]:
                low.drop(source)
    for _, _, operand in read:
        if operand is not None:
            low.drop(operand)


def _bring(low: Lowering, job: Job, image: int, first: int, rows: int) -> Region:
    """Rows of the input; loaded once for all cores, by the first that comes, where these make different channels."""
    name = job.layer.input_name
    if low.stays(name) or not by_channels(low.parts):
        return low.bring(name, image, first, rows)
    if (image, first) not in job.brought:
        mine = low.cores
        low.share(low.parts)
        job.brought[image, first] = low.bring(name, image, first, rows)
        low.on(*mine)
    return job.brought[image, first]
