"""Products of two activations into instructions: blocks of rows by columns, the second operand as weight tiles.

The vector engine copies what a block needs of the second operand into the order of weight tiles. It does so for the
next block before it requantises this one, so that the array need not wait. Each matrix is seen through the strides
of its tensor: transposed, broadcast and sliced ones cost nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ommatid.compiler.chain import Chain, ChainConstants, chain_fields, load_chain
from ommatid.compiler.layers import Layer, MatMul
from ommatid.compiler.lower import Lowering, merged
from ommatid.compiler.lower_shape import copy_elements
from ommatid.compiler.sram import DoesNotFit, aligned
from ommatid.isa.elements import NUMBER
from ommatid.isa.instructions import Memory
from ommatid.isa.target import Target

Strides = tuple[int, int]  # bytes from row to row, from column to column
Range = tuple[int, int]
MOST_COUNT = 65520  # of loops, and of channels: 16 bits, in whole steps of K


@dataclass(frozen=True)
class Sizes:
    """Rows and columns of a block of the result, and how much of K is summed at a time."""

    rows: int
    columns: int
    inner: int


@dataclass(frozen=True)
class Block:
    """A part of one matrix product: ``batch`` is its index in the batch's dimensions."""

    batch: tuple[int, ...]
    rows: Range
    columns: Range
    inner: Range


@dataclass(frozen=True)
class Part:
    """A part of a matrix in SRAM: ``tile`` is the buffer to give back, if it has one."""

    address: int
    strides: Strides
    symbol: int
    tile: int | None = None


@dataclass(frozen=True)
class Job:
    """All that is fixed while a layer is lowered."""

    layer: Layer
    product: MatMul
    sizes: Sizes
    chain: Chain
    constants: ChainConstants
    element: tuple[int, int, int]  # bytes of an element of the first operand, the second, and the result

    @property
    def acc_bytes(self) -> int:
        """Of an accumulator."""
        return 4 * self.element[0]


def lower_matmul(low: Lowering, layer: Layer) -> None:
    """Emit the instructions of a product of two activations.

    Raises:
        DoesNotFit: not even the smallest blocks fit in the free SRAM.
    """
    product = layer.operation
    assert isinstance(product, MatMul)
    tiled = [not low.stays(name) for name in (*layer.inputs, layer.output)]
    first, second, result = (low.kind(name).bytes for name in (*layer.inputs, layer.output))
    element = first, second, result
    staged = product.inner > 1 and _strides(low, layer.inputs[0], product.left)[1][1] != first
    budget = (
        max((b - a for a, b in low.sram.gaps()), default=0)
        - 2048 * max(element)
        - 8 * min(product.columns, MOST_COUNT)
    )
    sizes = plan_product(product, low.target, budget, (tiled[0] + staged, tiled[1], tiled[2]), element)
    parameters = np.concatenate(
        [
            np.zeros(sizes.columns, np.int32),
            np.full(sizes.columns, product.multiplier, np.float32).view(np.int32),
        ]
    )
    job = Job(layer, product, sizes, *load_chain(low, layer, parameters), element)
    groups = [
        list(blocks)
        for _, blocks in itertools.groupby(_blocks(product, sizes), lambda b: _shared(low, job, b))
    ]
    size = _tile_bytes(low.target, sizes.inner, sizes.columns) * second
    slots = [low.weights(size)[0] for _ in groups[:2]]
    for address in slots:
        low.keep_for_layer(address)
    acc, following = (0, -1), _weights(low, job, groups[0][0], slots[0])
    for number, blocks in enumerate(groups, 1):
        tiles = following
        if number < len(groups):
            following = _weights(low, job, groups[number][0], slots[number % 2])
        for block in blocks:
            if block.inner[0] == 0:
                acc = low.accumulators(job.acc_bytes * _size(block.rows) * _size(block.columns))
            _multiply(low, job, block, tiles, acc)
            if block.inner[1] == product.inner:
                _drain(low, job, block, acc)
    low.end_layer()


def _tile_bytes(target: Target, inner: int, columns: int) -> int:
    """Weight tiles of a part of the second operand, of bytes."""
    k, lanes = target.mx_k_bytes, target.mx_channels
    return -(-columns // lanes) * -(-inner // k) * k * lanes


def plan_product(
    product: MatMul,
    target: Target,
    budget: int,
    tiles: tuple[int, int, int],
    element: tuple[int, int, int] = (1, 1, 1),
) -> Sizes:
    """The largest blocks for which ``budget`` bytes suffice.

    ``tiles`` are the buffers that a part of the first operand, one of the second and a block of the result take
    besides the weight tiles, ``element`` the bytes of an element of each. K is split last: weight tiles of a part
    serve one block only.

    Raises:
        DoesNotFit: no block is small enough.
    """
    k, lanes = target.mx_k_bytes, target.mx_channels
    half = target.accumulator_bytes // 2 // (4 * element[0])  # in numbers
    load = -(-k * lanes * element[1] // target.port_mx_weight_bytes_per_cycle)
    busy = target.mx_pixels * -(-load // (element[0] * element[1]))  # rows that hide a tile's loading
    widest = max(lanes, half // min(product.rows, busy) // lanes * lanes)
    need = 0
    for inner in _halves(min(-(-product.inner // k) * k, MOST_COUNT), k):
        for columns in _halves(min(-(-product.columns // lanes) * lanes, widest, MOST_COUNT), lanes):
            for rows in _halves(min(product.rows, half // min(columns, product.columns)), 1):
                need = (2 + tiles[1]) * aligned(columns * inner * element[1])
                # and two of the others, so that they can take turns
                need += 2 * tiles[0] * aligned(rows * inner * element[0])
                need += 2 * tiles[2] * aligned(rows * columns * element[2])
                if need <= budget:
                    rows = -(-product.rows // -(-product.rows // rows))
                    return Sizes(rows, min(columns, product.columns), min(inner, product.inner))
                if rows <= min(busy, product.rows):
                    break
    raise DoesNotFit(need)


def _halves(size: int, unit: int) -> Iterator[int]:
    """``size``, about half of it, and so on, in multiples of ``unit``."""
    while size > unit:
        yield size
        size = -(-size // (2 * unit)) * unit if size > 2 * unit else unit
    yield max(size, unit)


def _blocks(product: MatMul, sizes: Sizes) -> Iterator[Block]:
    """All blocks, in the order in which they are computed: those that share weight tiles one after the other."""
    dense = [
        (range(n) if axis >= 0 else range(1)) for n, axis in zip(product.batch, product.right, strict=False)
    ]
    broadcast = [
        (range(1) if axis >= 0 else range(n)) for n, axis in zip(product.batch, product.right, strict=False)
    ]
    for one, columns in itertools.product(itertools.product(*dense), _ranges(product.columns, sizes.columns)):
        for other, rows in itertools.product(
            itertools.product(*broadcast), _ranges(product.rows, sizes.rows)
        ):
            for inner in _ranges(product.inner, sizes.inner):
                yield Block(tuple(a + b for a, b in zip(one, other, strict=True)), rows, columns, inner)


def _ranges(size: int, step: int) -> list[Range]:
    return [(at, min(at + step, size)) for at in range(0, size, step)]


def _size(of: Range) -> int:
    return of[1] - of[0]


def _shared(low: Lowering, job: Job, block: Block) -> tuple[int, Range, Range]:
    """Blocks for which this is equal have the same weights."""
    at = _offset(block.batch, _strides(low, job.layer.inputs[1], job.product.right)[0])
    return at, block.columns, block.inner


# --- matrices in memory -------------------------------------------------------------------------------------


def _strides(low: Lowering, name: str, axes: Sequence[int]) -> tuple[tuple[int, ...], Strides]:
    """Byte strides of the batch's dimensions and of (row, column); 0 where the tensor is broadcast."""
    own = low.storage.spots[name].strides
    *batch, row, column = (own[axis] if axis >= 0 else 0 for axis in axes)
    return tuple(batch), (row, column)


def _offset(index: Sequence[int], strides: Sequence[int]) -> int:
    return sum(i * s for i, s in zip(index, strides, strict=True))


def _locate(
    low: Lowering, name: str, axes: Sequence[int], block: Block, rows: Range, columns: Range
) -> tuple[int, int, Strides]:
    """(address, symbol, strides) of a part of a matrix where the tensor lies."""
    home, (batch, strides) = low.home(name), _strides(low, name, axes)
    at = home.address + low.storage.spots[name].offset + _offset(block.batch, batch)
    return at + rows[0] * strides[0] + columns[0] * strides[1], home.symbol, strides


def _bring(low: Lowering, name: str, axes: Sequence[int], block: Block, rows: Range, columns: Range) -> Part:
    """A part of a matrix in place, or loaded into a tile, the dimension that is dense in memory innermost."""
    address, symbol, (down, across) = _locate(low, name, axes, block, rows, columns)
    if low.stays(name):
        return Part(address, (down, across), symbol)
    height, width, element = _size(rows), _size(columns), low.kind(name).bytes
    tile, tile_symbol = low.raw_tile(height * width * element)
    if down == element and height > 1:
        strides = (element, height * element)
        loops = [(height, down, strides[0]), (width, across, strides[1])]
    else:
        strides = (width * element, element)
        loops = [(width, across, strides[1]), (height, down, strides[0])]
    run, rest = merged(element, loops)
    low.dma("load", address, symbol, tile, tile_symbol, run, rest)
    return Part(tile, strides, tile_symbol, tile)


def _drop(low: Lowering, part: Part) -> None:
    if part.tile is not None:
        low.sram.release(part.tile)


def _weights(low: Lowering, job: Job, block: Block, address: int) -> tuple[int, int]:
    """Make the weight tiles of a block at an address, of the second operand's part: (address, symbol)."""
    k, lanes = low.target.mx_k_bytes, low.target.mx_channels
    depth, width, element = _size(block.inner), _size(block.columns), job.element[1]
    name, group = job.layer.inputs[1], -(-depth // k) * k * lanes * element
    part = _bring(low, name, job.product.right, block, block.inner, block.columns)
    size = _tile_bytes(low.target, depth, width) * element
    symbol = low.emitter.symbol(Memory.SRAM, "weights", address, size)
    if depth % k or width % lanes:
        low.emitter.emit(
            "fill", {"dst": symbol}, dst=address, run=size, value=low.quantization(name).zero_point & 255
        )
    (down, across), start = part.strides, part.address
    for groups, first, channels in ((width // lanes, 0, lanes), (1, width // lanes, width % lanes)):
        for quads, begin, each in ((depth // 4, 0, 4), (1, depth // 4, depth % 4)):
            if groups and channels and quads and each:
                steps = (group, 4 * lanes * element, 4 * element, element)
                copy_elements(
                    low, (groups, quads, channels, each),
                    (start + first * lanes * across + 4 * begin * down, (lanes * across, 4 * down, across, down), part.symbol),
                    (address + first * group + begin * steps[1], steps, symbol), element,
                )  # fmt: skip
    _drop(low, part)
    return address, symbol


# --- a block ------------------------------------------------------------------------------------------------


def _multiply(low: Lowering, job: Job, block: Block, tiles: tuple[int, int], acc: tuple[int, int]) -> None:
    """One ``conv``: the rows of the first operand are pixels, K its channels."""
    left, right = (low.quantization(name) for name in job.layer.inputs)
    rows, depth, columns = _size(block.rows), _size(block.inner), _size(block.columns)
    part = _bring(low, job.layer.inputs[0], job.product.left, block, block.rows, block.inner)
    part = _dense(low, part, rows, depth, job.element[0])
    low.emitter.emit(
        "conv", {"src": part.symbol, "weights": tiles[1], "acc": acc[1]},
        src=part.address, src_pixel=part.strides[0] if rows > 1 else depth * job.element[0], in_h=1, in_w=rows,
        kh=1, kw=1, out_h=1, out_w=rows, cin=depth, cout=columns, src_zero=left.zero_point, src_type=NUMBER[left.dtype],
        weights=tiles[0], weights_zero=right.zero_point, weights_type=NUMBER[right.dtype], acc=acc[0],
        acc_pixel=job.acc_bytes * columns, acc_bytes=job.acc_bytes, accumulate=int(block.inner[0] > 0),
    )  # fmt: skip
    _drop(low, part)


def _dense(low: Lowering, part: Part, rows: int, columns: int, element: int) -> Part:
    """The part with the elements of a row side by side; copied if they are not."""
    if part.strides[1] == element or columns == 1:
        return part
    tile, symbol = low.raw_tile(rows * columns * element)
    dense = Part(tile, (columns * element, element), symbol, tile)
    source = (part.address, part.strides, part.symbol)
    copy_elements(low, (rows, columns), source, (tile, dense.strides, symbol), element)
    _drop(low, part)
    return dense


def _drain(low: Lowering, job: Job, block: Block, acc: tuple[int, int]) -> None:
    """The ``map`` that requantises a block, applies tables and writes the result."""
    name, axes = job.layer.output, job.product.out
    rows, columns = _size(block.rows), _size(block.columns)
    address, symbol, (down, _) = _locate(low, name, axes, block, block.rows, block.columns)
    element = job.element[2]
    target = Part(address, (down, element), symbol)
    if not low.stays(name):
        tile, tile_symbol = low.raw_tile(rows * columns * element)
        target = Part(tile, (columns * element, element), tile_symbol, tile)
    fields, symbols = chain_fields(job.constants, None, None, (0, 0, 0))
    low.emitter.emit(
        "map", symbols | {"acc": acc[1], "parameters": job.constants.symbol, "dst": target.symbol},
        h=1, w=rows, c=columns, source=1, src=acc[0], src_row=job.acc_bytes * rows * columns,
        src_pixel=job.acc_bytes * columns, acc_bytes=job.acc_bytes,
        parameters=job.constants.address + 4 * (job.sizes.columns - columns),  # as many zeros, then multipliers
        mid_zero=job.product.mid[0], mid_type=NUMBER[job.product.mid[1]],
        dst=target.address, dst_pixel=target.strides[0], dst_row=rows * target.strides[0], **fields,
    )  # fmt: skip
    if target.tile is not None:
        run, loops = merged(columns * element, [(rows, columns * element, down)])
        low.dma("store", target.address, target.symbol, address, symbol, run, loops)
        _drop(low, target)
