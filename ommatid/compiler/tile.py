"""Tile shapes of a convolution: rows of a stripe, channels of a block, weights that stay or stream.

Candidates are few and each is priced by closed formulas (the array's, the DRAM's); the cheapest that fits
in the free SRAM wins. Words: a *stripe* is a range of output rows, loaded and stored as one; a *block* is
what one ``conv`` instruction computes: some pixels of a stripe by some channels, in half the accumulators;
a *chunk* is the run of channel blocks whose weights are loaded as one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from ommatid.compiler.sram import DoesNotFit, aligned
from ommatid.isa.target import Target

#: What a DRAM cycle costs where it is hidden behind the array: neighbouring layers want the bandwidth too.
DRAM_WEIGHT = 0.3


@dataclass(frozen=True)
class ConvShape:
    """What tiling needs to know of a convolution. Bytes a row are 0 for what already lies in SRAM."""

    images: int
    rows: int  # output rows of one image (of one phase, if transposed)
    columns: int
    channels: int  # output channels
    block_unit: int  # channels come in multiples of this: array columns, or a group's channels
    weight_bytes_per_unit: int  # packed, all phases
    steps: int  # weight tiles along K for one group of output channels, all phases; 0 if depthwise
    kernel: tuple[int, int]
    stride: tuple[int, int]
    row_span: int  # input rows under a kernel: (kh - 1) * dilation + 1
    input_rows: int
    input_row_bytes: int
    output_row_bytes: int  # of one stripe row, all channels and phases
    operand_row_bytes: int
    flat: bool  # pixels of a stripe can be taken in one row
    depthwise: bool
    element: int = 1  # bytes of an activation: as many passes of the array
    widest: int = 1  # bytes of what the vector engine works on
    sum_bytes: int = 0  # of the accumulators: taken by sums
    phases: int = 1  # if transposed
    runs: int = 1  # of output channels: each is drained alone, and all are one chunk


@dataclass(frozen=True)
class ConvPlan:
    """The tile shape chosen. ``chunk_blocks`` blocks of ``block_channels`` share one load of weights.

    Of several tiles of a kind, ``buffers`` are there at a time. ``narrow``: of a depthwise convolution, a chunk brings
    its own channels of the input only.
    """

    stripe_rows: int
    block_channels: int
    chunk_blocks: int
    block_pixels: int
    k_parts: int = 1
    buffers: int = 2
    narrow: bool = False

    @property
    def chunk_channels(self) -> int:
        """Output channels of a chunk."""
        return self.block_channels * self.chunk_blocks


def plan_conv(
    shape: ConvShape, target: Target, free_bytes: int, buffers: int = 2, stripe_rows: int | None = None,
    shared: bool = False,
) -> ConvPlan:  # fmt: skip
    """The cheapest plan whose buffers fit in ``free_bytes`` of SRAM; ``stripe_rows`` may be given.

    Weights that cores have in common (``shared``) are best loaded once, for all of them: as a whole where that leaves
    room for what comes next, else in chunks, each over all rows.
    With one buffer of a kind nothing is loaded ahead; a depthwise convolution is then cut by its channels, if two fit so.

    Raises:
        DoesNotFit: not even one row by one block of channels fits.
    """
    plan = None
    if buffers == 1 and shape.depthwise:
        plan, _ = _cheapest(shape, target, free_bytes, 2, narrow=True)
    if shared:
        plan, _ = _cheapest(shape, target, free_bytes // 2, buffers, weights="stay")
        if plan is None:
            plan, _ = _cheapest(shape, target, free_bytes, buffers, weights="once")
    if plan is None:
        plan, smallest = _cheapest(shape, target, free_bytes, buffers, stripe_rows=stripe_rows)
    return plan or _split_k(shape, target, free_bytes, smallest)


def _cheapest(
    shape: ConvShape,
    target: Target,
    free_bytes: int,
    buffers: int,
    narrow: bool = False,
    stripe_rows: int | None = None,
    weights: str = "",
) -> tuple[ConvPlan | None, int]:
    """The cheapest plan that fits, if any does, and what the smallest needs."""
    plans = _plans(shape, target, buffers, narrow, stripe_rows, weights)
    return next((p for p, need in plans if need <= free_bytes), None), min(need for _, need in plans)


@functools.lru_cache(maxsize=4096)  # a search prices the same layer for each of its trials
def _plans(
    shape: ConvShape, target: Target, buffers: int, narrow: bool, stripe_rows: int | None, weights: str
) -> tuple[tuple[ConvPlan, int], ...]:
    """All plans with the SRAM bytes that each needs, the cheapest first.

    ``weights`` restricts them to those whose weights "stay", or are loaded but "once".
    """
    found = []
    for block_channels in _block_channels(shape, target):
        pixels = _accumulators(shape, target) // block_channels
        for rows in _stripe_rows(shape.rows) if stripe_rows is None else [min(stripe_rows, shape.rows)]:
            for chunk in _chunks(shape, block_channels):
                plan = ConvPlan(rows, block_channels, chunk, pixels, buffers=buffers, narrow=narrow)
                once = weights == "once" and shape.images * shape.rows <= rows
                if not weights or once or _stays(shape, plan):
                    price = _price(shape, plan, target) + (_last_drain(shape, plan, target) if weights else 0)
                    found.append((price, plan, sram_bytes(shape, plan)))
    return tuple((plan, need) for _, plan, need in sorted(found, key=lambda each: each[0]))


def _split_k(shape: ConvShape, target: Target, free_bytes: int, smallest: int) -> ConvPlan:
    """Weights of one block of channels loaded in parts: for rows of weights longer than the SRAM. Not of several phases."""
    unit = shape.block_unit
    pixels = _accumulators(shape, target) // unit
    together = unit <= target.mx_channels and shape.rows * shape.columns <= pixels
    if together and not shape.depthwise and shape.phases == 1:
        most = 32 if shape.kernel == (1, 1) else shape.kernel[0]
        weightless = replace(shape, weight_bytes_per_unit=0)
        rest = sram_bytes(weightless, ConvPlan(shape.rows, unit, 1, pixels))
        for parts in range(2, most + 1):
            if rest + 2 * aligned(shape.weight_bytes_per_unit // parts) <= free_bytes:
                return ConvPlan(shape.rows, unit, 1, pixels, parts)
    raise DoesNotFit(smallest)


def _accumulators(shape: ConvShape, target: Target) -> int:
    """How many fit in half of their memory."""
    return (target.accumulator_bytes - shape.sum_bytes) // 2 // (4 * shape.element)


def _block_channels(shape: ConvShape, target: Target) -> list[int]:
    """Multiples of the unit, doubling; at least 16 pixels must fit in half the accumulators."""
    limit = _accumulators(shape, target) // 16
    sizes = [shape.block_unit]
    while sizes[-1] < shape.channels and sizes[-1] * 2 <= limit:
        sizes.append(sizes[-1] * 2)
    return [size for size in sizes if size <= max(limit, shape.block_unit)]


def _stripe_rows(rows: int) -> list[int]:
    counts = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128]
    return sorted({-(-rows // count) for count in counts} | {1, min(2, rows)}, reverse=True)


def _chunks(shape: ConvShape, block_channels: int) -> list[int]:
    blocks = -(-shape.channels // block_channels)
    sizes = {blocks}
    while blocks > 1 and shape.runs == 1:
        blocks = -(-blocks // 2)
        sizes.add(blocks)
    return sorted(sizes, reverse=True)


def _blocks(shape: ConvShape, plan: ConvPlan) -> int:
    return -(-shape.channels // plan.block_channels)


def _stays(shape: ConvShape, plan: ConvPlan) -> bool:
    """All weights are one chunk, loaded once."""
    return plan.chunk_blocks >= _blocks(shape, plan)


def _input_stripe_rows(shape: ConvShape, rows: int) -> int:
    return min((rows - 1) * shape.stride[0] + shape.row_span, shape.input_rows)


def _weight_bytes(shape: ConvShape, channels: int) -> int:
    return -(-channels // shape.block_unit) * shape.weight_bytes_per_unit


def sram_bytes(shape: ConvShape, plan: ConvPlan) -> int:
    """Bytes of tile buffers: of each kind ``buffers`` where there are several, for loading ahead of computing."""
    stripes = shape.images * -(-shape.rows // plan.stripe_rows)
    chunks = -(-_blocks(shape, plan) // plan.chunk_blocks)
    chunk_channels = min(plan.chunk_channels, shape.channels)
    inputs = _input_stripe_rows(shape, plan.stripe_rows) * shape.input_row_bytes
    if plan.narrow:
        inputs = inputs * chunk_channels // shape.channels
    operand = aligned(plan.stripe_rows * shape.operand_row_bytes)
    outputs = aligned(plan.stripe_rows * shape.output_row_bytes * chunk_channels // shape.channels)
    weights = aligned(_weight_bytes(shape, chunk_channels))
    constants = aligned(shape.channels * 8 + (512 if shape.widest == 1 else 2052))
    return (
        aligned(inputs) * min(stripes * (chunks if plan.narrow else 1), plan.buffers)
        + operand * min(stripes, plan.buffers)
        + outputs * min(stripes * chunks, plan.buffers)
        + weights * min(chunks, plan.buffers)
        + constants
        + 512
    )


def block_pixel_counts(rows: int, columns: int, pixels: int, flat: bool) -> list[tuple[int, int]]:
    """The (rows, columns) of the blocks of a stripe, each of at most ``pixels`` pixels, in order."""
    if flat:
        rows, columns = 1, rows * columns
    if columns <= pixels:
        each = max(1, pixels // columns)
        each = -(-rows // -(-rows // each))
        return [(min(each, rows - at), columns) for at in range(0, rows, each)]
    each = -(-columns // -(-columns // pixels))
    each = min(aligned(each, 4), pixels // 4 * 4) if pixels >= 4 else each
    row = [(1, min(each, columns - at)) for at in range(0, columns, each)]
    return row * rows


def stripe_cycles(shape: ConvShape, plan: ConvPlan, target: Target, rows: int) -> tuple[int, int, int]:
    """Cycles of mx and of vx of one stripe of ``rows`` rows, and its blocks."""
    blocks = block_pixel_counts(rows, shape.columns, plan.block_pixels, shape.flat)
    each = [block_cycles(target, shape, block, min(plan.block_channels, shape.channels)) for block in blocks]
    count = _blocks(shape, plan)
    return count * sum(mx for mx, _ in each), count * sum(vx for _, vx in each), count * len(blocks)


def block_cycles(target: Target, shape: ConvShape, pixels: tuple[int, int], channels: int) -> tuple[int, int]:
    """Cycles of mx and of vx that a block of (rows, columns) ``pixels`` by ``channels`` takes, all phases as one."""
    k, lanes = target.mx_k_bytes, target.mx_channels
    height, width = pixels
    drains, drained = _drains(shape, channels, target)
    vector = height * width * drained * shape.widest // target.vx_elements_per_cycle + 16 * drains
    if shape.depthwise:
        at_once = target.depthwise_macs_per_cycle // k
        span = ((at_once - 1) * shape.stride[1] + shape.kernel[1]) * shape.element
        row = max(shape.element * shape.kernel[1], -(-span * k // target.port_mx_activation_bytes_per_cycle))
        return -(-channels // k) * height * -(-width // at_once) * shape.kernel[0] * row + 16, vector
    load = -(-k * lanes // target.port_mx_weight_bytes_per_cycle)
    pixel_cycles = -(-height * width // target.mx_pixels) * shape.element
    return -(-channels // lanes) * shape.steps * max(pixel_cycles, load) + load + 8, vector


def _drains(shape: ConvShape, channels: int, target: Target) -> tuple[int, int]:
    """Instructions that drain a block of so many channels, and the channels that they take for it."""
    if shape.runs == 1:
        return 1, channels
    run = -(-shape.channels // shape.runs)
    return -(-channels // run), -(-channels // run) * aligned(run, target.vx_word_elements)


def _burst_waste(shape: ConvShape, plan: ConvPlan, target: Target, element: int) -> float:
    """Bytes that moving a chunk's channels costs, over those it needs: short runs cost whole bursts."""
    run, pixel, burst = plan.chunk_channels * element, shape.channels * element, target.dram_burst_bytes
    if run >= pixel:
        return 1.0
    bursts = -(-run // burst) + (0 if run % burst == 0 and pixel % burst == 0 else 1)
    return bursts * burst / run


def _price(shape: ConvShape, plan: ConvPlan, target: Target) -> float:
    """Estimated cycles of the layer with its neighbours overlapping half of the first load and last store."""
    whole, rest = divmod(shape.rows, plan.stripe_rows)
    stripes = shape.images * (whole + (rest > 0))
    array, _, instructions = stripe_cycles(shape, plan, target, plan.stripe_rows)
    array = shape.images * (array * whole + (stripe_cycles(shape, plan, target, rest)[0] if rest else 0))
    drains, drained = _drains(shape, plan.block_channels, target)
    elements = shape.images * shape.rows * shape.columns * shape.channels * shape.widest
    vector = (
        elements * drained / plan.block_channels / target.vx_elements_per_cycle
        + 16 * drains * instructions * stripes
    )
    input_bytes: float = _input_stripe_rows(shape, plan.stripe_rows) * shape.input_row_bytes
    if plan.narrow:
        input_bytes *= _burst_waste(shape, plan, target, shape.element)
    output_bytes = plan.stripe_rows * shape.output_row_bytes * _burst_waste(shape, plan, target, shape.widest)
    operand_bytes = plan.stripe_rows * shape.operand_row_bytes
    weights = _weight_bytes(shape, shape.channels)
    loads = weights * (1 if _stays(shape, plan) else stripes)
    dram = loads + stripes * (input_bytes + output_bytes + operand_bytes)
    chunk_bytes = _weight_bytes(shape, min(plan.chunk_channels, shape.channels))
    ends = input_bytes + operand_bytes + chunk_bytes + output_bytes * plan.chunk_channels / shape.channels
    bandwidth = target.dram_bytes_per_cycle
    issue = 4 * instructions * stripes
    return (
        max(array, vector, dram / bandwidth) + DRAM_WEIGHT * dram / bandwidth + 0.5 * ends / bandwidth + issue
    )


def _last_drain(shape: ConvShape, plan: ConvPlan, target: Target) -> int:
    """Cycles of vx at the end for which cores that share a layer by rows wait, unless its first rows are done before."""
    if shape.images * shape.rows > plan.stripe_rows:
        return 0
    last = block_pixel_counts(plan.stripe_rows, shape.columns, plan.block_pixels, shape.flat)[-1]
    return block_cycles(target, shape, last, min(plan.block_channels, shape.channels))[1]
