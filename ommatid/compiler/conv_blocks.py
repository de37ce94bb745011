"""Blocks of a convolution into instructions: what the array computes into half the accumulators, and its drain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ommatid.compiler.blocks import Block, Call, Phase, is_pointwise, runs_of
from ommatid.compiler.chain import Chain, ChainConstants, chain_operand
from ommatid.compiler.emit import Form
from ommatid.compiler.layers import Conv, Layer
from ommatid.compiler.lower import Lowering, Region
from ommatid.compiler.rows import Cycles, Pieces
from ommatid.compiler.tile import ConvPlan, ConvShape, block_pixel_counts

Array = np.ndarray[Any, Any]


class Place(NamedTuple):
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
    multiply: Form  # of its instructions of mx, and of vx
    drain: Form
    under: Callable[[int, int], tuple[int, int]]  # the rows of the input that some of its rows read
    cycles: Callable[[int, int, int], Cycles]  # of a block of rows, columns and channels
    brought: dict[tuple[int, int], Region] = field(default_factory=dict)  # of the input, for all cores
    loaded: dict[tuple[int, int], Weights] = field(default_factory=dict)  # by turn and block, for all cores


#: Fields of its instructions that differ from block to block: ``_window`` gives those of the input.
WINDOW = (
    "src", "src_row", "src_pixel", "in_h", "in_w", "pad_top", "pad_left", "kh", "kw", "out_h", "out_w",
)  # fmt: skip
CONV = (*WINDOW, "weights", "acc", "acc_pixel", "cout", "cin", "accumulate", "row_mode")
DWCONV = (*CONV[: CONV.index("cout")], "c", "weights_tap", "accumulate")
DRAIN = (
    "h", "w", "c", "src", "src_row", "src_pixel", "parameters", "dst", "dst_row", "dst_pixel",
)  # fmt: skip

#: Blocks with their numbers, whose weights are loaded as one.
Chunk = tuple[tuple[int, Block], ...]


@dataclass(frozen=True)
class Weights:
    """Weights in SRAM: ``address`` is where byte ``offset`` of the blob lies."""

    address: int
    offset: int
    symbol: int


def _is_flat(job: Job, source: Region, target: Region, operand: Region | None) -> bool:
    """Whether the pixels of a stripe can be taken as one row everywhere."""
    if job.depthwise or not is_pointwise(job.conv, job.phases) or not (source.flat and target.flat):
        return False
    if operand is None or operand.rows == operand.columns == 1:
        return True
    return operand.flat and (operand.rows, operand.columns) == (target.rows, target.columns)


@functools.lru_cache(maxsize=1024)  # many stripes are alike
def _places(rows: int, columns: int, pixels: int, flat: bool) -> tuple[Place, ...]:
    """The blocks of at most so many pixels of a stripe of one phase, row by row from row 0 on."""
    found, row, column = [], 0, 0
    for height, width in block_pixel_counts(rows, columns, pixels, flat):
        found.append(Place(row, column, height, width, flat))
        column += width
        if not flat and column == columns:
            row, column = row + height, 0
    return tuple(found)


def compute(
    low: Lowering, job: Job, chunk: Chunk, weights: Weights, source: Region,
    operand: Region | None, target: Region, first: int, rows: int,
) -> Pieces:  # fmt: skip
    """A chunk of channels over all pixels of a stripe: phase by phase, place by place, block by block."""
    _, out_h, out_w, _ = low.shape(job.layer.output)
    up_h, up_w = job.conv.upsample
    flat = _is_flat(job, source, target, operand)
    for index, phase in enumerate(job.phases):
        phase_rows = min(rows, -(-(out_h - phase.row) // up_h) - first)
        columns = -(-(out_w - phase.column) // up_w)
        if phase_rows <= 0 or columns <= 0:
            continue
        _, kh, kw, cin = phase.weights.shape
        for row, column, height, width, _ in _places(phase_rows, columns, job.plan.block_pixels, flat):
            place = Place(first + row, column, height, width, flat)
            window = _window(job, phase, (kh, kw), phase.pad_top, place, source)
            for at, block in chunk:
                channels = block.high - block.low
                yield job.cycles(place.height, place.width, channels)
                acc = low.accumulators(place.height * place.width * channels * job.acc_bytes)
                for offset, call in zip(job.weight_offsets[at][index], block.calls, strict=True):
                    address = weights.address + offset - weights.offset
                    _multiply(low, job, window, call, cin, source, (address, weights.symbol), acc, block)
                _drain(low, job, phase, block, place, acc, operand, target, chunk[0][1].low)


def _window(
    job: Job, phase: Phase, kernel: tuple[int, int], pad_top: int, place: Place, source: Region
) -> tuple[int, ...]:
    """The input window of a block, as WINDOW has it: where it starts, what of it exists, what is padding."""
    (stride_h, stride_w), (dil_h, dil_w) = job.conv.window.strides, job.conv.window.dilations
    row, column, height, width, flat = place
    top, left = row * stride_h - pad_top, column * stride_w - phase.pad_left
    bottom = top + (height - 1) * stride_h + (kernel[0] - 1) * dil_h + 1
    right = left + (width - 1) * stride_w + (kernel[1] - 1) * dil_w + 1
    limit_h = source.first + source.rows
    columns = source.columns * (limit_h - row) if flat else source.columns
    first_row = min(max(top, source.first), limit_h - 1)
    last_row = max(min(bottom, limit_h), first_row + 1)
    first_column = min(max(left, 0), columns - 1)
    last_column = max(min(right, columns), first_column + 1)
    return (
        source.at(first_row, first_column), source.row, source.pixel, last_row - first_row, last_column - first_column,
        first_row - top, first_column - left, *kernel, height, width,
    )  # fmt: skip


def _multiply(
    low: Lowering, job: Job, window: tuple[int, ...], call: Call, cin: int, source: Region,
    weights: tuple[int, int], acc: tuple[int, int], block: Block, accumulate: int = 0, row_mode: bool | None = None,
) -> None:  # fmt: skip
    """One ``conv`` or ``dwconv``."""
    count = call.high - call.low
    row_mode = job.row_mode if row_mode is None else row_mode
    channels = (count, count, accumulate) if job.depthwise else (count, cin, accumulate, int(row_mode))
    low.emitter.add(
        job.multiply,
        (
            window[0] + call.source * source.kind.bytes, *window[1:], weights[0],
            acc[0] + (call.low - block.low) * job.acc_bytes, (block.high - block.low) * job.acc_bytes, *channels,
        ),
        (source.symbol, weights[1], acc[1]),
    )  # fmt: skip


def _drain(
    low: Lowering, job: Job, phase: Phase, block: Block, place: Place,
    acc: tuple[int, int], operand: Region | None, target: Region, chunk_low: int,
) -> None:  # fmt: skip
    """The ``map`` for each run of channels that requantises a block, applies the chain and writes the output."""
    row, column, height, width, flat = place
    pixel = (block.high - block.low) * job.acc_bytes
    up_h, up_w = job.conv.upsample
    row, column = phase.row + row * up_h, phase.column + column * up_w
    constants = job.constants
    shape = low.shape(job.chain.binary.other) if job.chain.binary else None
    if shape is not None and flat and shape[1:3] != (1, 1):
        shape = (shape[0], 2, 2, shape[3])  # its columns run on, even if a row has but one
    for first, after, channel in runs_of(job.conv, block):
        beside, symbols = chain_operand(operand, shape, (row, column, channel))
        if beside:
            beside = beside[0], beside[1] * up_h, beside[2] * up_w, beside[3]
        begin = target.at(row, column, channel - chunk_low)
        low.emitter.add(
            job.drain,
            (
                height, width, after - first, acc[0] + (first - block.low) * job.acc_bytes, width * pixel, pixel,
                constants.address + 8 * first, begin, target.row * up_h, target.pixel * up_w, *beside,
            ),
            (acc[1], constants.symbol, target.symbol, *constants.symbols.values(), *symbols),
        )  # fmt: skip
        if low.parts and target.tile is None:
            loops = (height, target.row * up_h), (width, target.pixel * up_w)
            low.send(job.layer.output, begin, *loops, (after - first) * target.kind.bytes)


def compute_in_parts(
    low: Lowering, job: Job, numbered: tuple[int, Block], source: Region, operand: Region | None, target: Region,
    rows: tuple[int, int],
) -> None:  # fmt: skip
    """One block whose weights are loaded and accumulated part by part along K (see ``tile._split_k``)."""
    number, block = numbered
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
            window = _window(job, phase, kernel, pad_top, place, source)
            depth = cin
            if not along_rows:
                window = window[0] + begin * source.kind.bytes, *window[1:]
                depth = end - begin
            row_mode = job.row_mode and along_rows
            _multiply(
                low, job, window, call, depth, source, (address, symbol), acc, block, int(index > 0), row_mode
            )
            low.sram.release(address)
    _drain(low, job, phase, block, place, acc, operand, target, block.low)


def _k_ranges(low: Lowering, size: int, parts: int, along_rows: bool) -> list[tuple[int, int]]:
    """``size`` kernel rows or input channels in at most ``parts`` ranges; channels at multiples of the array's K."""
    unit = 1 if along_rows else low.target.mx_k_bytes
    units = -(-size // unit)
    each = -(-units // parts) * unit
    return [(a, min(a + each, size)) for a in range(0, size, each)]
