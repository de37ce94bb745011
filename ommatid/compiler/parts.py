"""How cores share the work: each makes a part of a layer's output, and holds of tensors in SRAM what its parts touch.

A layer is divided by images, by rows, or by output channels, whichever a closed formula finds cheapest; what is not
made by rows is left to one core. All else follows from the parts: a core holds those rows of a tensor that its parts
read or write, and who writes rows that another core holds, sends them there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ommatid.compiler.blocks import phases_of, weight_unit
from ommatid.compiler.bounds import is_depthwise
from ommatid.compiler.layers import Binary, Conv, Layer, Mean, Network, Pool, Resize, nhwc
from ommatid.compiler.storage import Storage, operands
from ommatid.isa.target import Target

#: From the first to before the last.
Range = tuple[int, int]
#: A tensor above this part of the SRAM is not likely to lie whole in that of each core.
WHOLE_SHARE = 0.4


@dataclass(frozen=True)
class Part:
    """What a core makes of a layer: images, rows and channels of its output."""

    images: Range
    rows: Range
    channels: Range

    @property
    def pixel_rows(self) -> int:
        """Rows of all images; 0: the core has nothing to do."""
        return _length(self.images) * _length(self.rows) if _length(self.channels) else 0


Parts = tuple[Part, ...]


def by_channels(parts: Parts | None) -> bool:
    """Whether cores make different channels, and so each all images and rows of its own."""
    return len({part.channels for part in parts or ()}) > 1


def _length(of: Range) -> int:
    return of[1] - of[0]


def _ranges(size: int, parts: int, unit: int = 1) -> list[Range]:
    """``size`` in ``parts`` ranges, as even as multiples of ``unit`` allow, the longer ones first."""
    units = -(-size // unit)
    edges = [min(-(-units * i // parts) * unit, size) for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def divide(
    network: Network,
    storage: Storage,
    target: Target,
    by_rows: Collection[type],
    alone: frozenset[int],
    weight: float,
    resident: frozenset[str] | None = None,
) -> dict[int, Parts]:
    """By number of a layer the part of each core; layers left out, and those of ``alone``, are made by core 0.

    ``by_rows`` are the operations that can be made by rows; ``weight`` is the part of the cycles of sending a tensor
    around that is not hidden behind the array; ``resident`` are the buffers that lie in SRAM (None: the small ones).
    """
    if target.cores == 1:
        return {}
    return {
        i: _parts(network, target, layer, weight, _lies_in_sram(network, storage, target, layer, resident))
        for i, layer in enumerate(network.layers)
        if type(layer.operation) in by_rows and i not in alone and layer.name not in storage.free_layers
    }


def _lies_in_sram(
    network: Network, storage: Storage, target: Target, layer: Layer, resident: frozenset[str] | None
) -> bool:
    """Whether all that a layer touches lies whole in the SRAM of each core, if cores divide it by channels."""
    names = (*operands(layer), layer.output)
    if resident is not None:
        return all(storage.spots[name].buffer in resident for name in names)
    return all(math.prod(network.tensors[name].shape) <= target.sram_bytes * WHOLE_SHARE for name in names)


def _parts(network: Network, target: Target, layer: Layer, weight: float, inside: bool) -> Parts:
    n, h, _, c = nhwc(network.tensors[layer.output].shape)
    conv = layer.operation
    if isinstance(conv, Mean):  # made by rows of its input
        h = nhwc(network.tensors[layer.input_name].shape)[1]
    grain = conv.upsample[0] if isinstance(conv, Conv) else 1
    everything: Range = (0, n)
    if n >= target.cores:
        ways = [tuple(Part(images, (0, h), (0, c)) for images in _ranges(n, target.cores))]
    else:
        ways = [tuple(Part(everything, rows, (0, c)) for rows in _ranges(h, target.cores, grain))]
    channels = _ranges(c, target.cores, target.mx_channels)
    apart = tuple(Part(everything, (0, h), some) for some in channels)
    if isinstance(conv, Mean) and n < target.cores:
        return apart
    if isinstance(conv, Conv) and conv.groups == 1:
        return min(*ways, apart, key=lambda way: _price(network, target, layer, way, weight, inside))
    return ways[0]


def _price(
    network: Network, target: Target, layer: Layer, parts: Parts, weight: float, inside: bool
) -> float:
    """About the cycles that a convolution takes in these parts."""
    conv = layer.operation
    assert isinstance(conv, Conv)
    w, c = nhwc(network.tensors[layer.output].shape)[2:]
    unit_bytes, steps, _ = weight_unit(conv, phases_of(conv), is_depthwise(layer), False, target)
    lanes, port = target.mx_channels, target.port_load_bytes_per_cycle
    weights = -(-c // lanes) * unit_bytes
    load = -(-target.mx_k_bytes * lanes // target.port_mx_weight_bytes_per_cycle)
    up = conv.upsample[0] * conv.upsample[1]
    busy = max(
        -(-_length(part.channels) // lanes)
        * steps
        * max(-(-part.pixel_rows * w // up // target.mx_pixels), load)
        for part in parts
    )
    bandwidth = target.dram_bytes_per_cycle
    if _length(parts[0].channels) == c:
        return max(busy, weights / port, weights / bandwidth)
    read, written = (
        int(np.prod(network.tensors[name].shape)) * network.tensors[name].quantization.kind.bytes
        for name in (layer.input_name, layer.output)
    )
    around = (read + written) * (1 - 1 / target.cores) / port
    times = 1
    if not inside:  # from DRAM to all, image by image
        around += read / port
        times = parts[0].images[1] if weights / target.cores > target.sram_bytes * WHOLE_SHARE else 1
    return max(busy, times * weights / target.cores / port, times * weights / bandwidth) + weight * around


# --- what parts read, and what cores hold ------------------------------------------------------------------


def rows_read(network: Network, layer: Layer) -> Callable[[int, int], dict[str, Range]]:
    """For tensors that a layer reads by rows, the rows under output rows ``first`` to before ``first + rows``, which are
    the arguments."""
    main = layer.input_name
    heights = {name: nhwc(network.tensors[name].shape)[1] for name in operands(layer)}
    under = rows_under(layer, heights[main])
    twice = any(main == step.other for step in layer.steps if isinstance(step, Binary))

    def read(first: int, rows: int) -> dict[str, Range]:
        spans = {name: (first, first + rows) if height > 1 else (0, 1) for name, height in heights.items()}
        low, high = under(first, rows)
        spans[main] = (min(low, spans[main][0]), max(high, spans[main][1])) if twice else (low, high)
        return spans

    return read


def rows_under(layer: Layer, height: int) -> Callable[[int, int], Range]:
    """The rows of the main input, at least one, under output rows ``first`` to before ``first + rows``, which are the
    arguments."""
    operation = layer.operation
    if isinstance(operation, Resize):
        table = operation.rows[:, :2]

        def resized(first: int, rows: int) -> Range:
            part = table[first : first + rows]
            return int(part.min()), int(part.max()) + 1

        return resized
    if not isinstance(operation, Conv | Pool):
        return lambda first, rows: (first, first + rows) if height > 1 else (0, 1)
    up, window = 1, operation.window
    phases = [(window.pads[0], window.kernel[0])]
    if isinstance(operation, Conv):
        up = operation.upsample[0]
        phases = [(p.pad_top, p.weights.shape[1]) for p in phases_of(operation)]
    stride, dilation = window.strides[0], window.dilations[0]
    above = max(pad for pad, _ in phases)
    below = max((kernel - 1) * dilation + 1 - pad for pad, kernel in phases)

    def under(first: int, rows: int) -> Range:
        begin, after = first // up, first // up - (-rows // up)
        low = min(max(begin * stride - above, 0), height - 1)
        return low, max(min((after - 1) * stride + below, height), low + 1)

    return under


def image_strides(network: Network, storage: Storage, name: str) -> tuple[int, int, int]:
    """Byte strides of (n, h, w) of a tensor in its buffer; those of single rows and pixels as if dense."""
    tensor, own = network.tensors[name], storage.spots[name].strides
    element = tensor.quantization.kind.bytes
    padded = (0,) * (2 - len(tensor.shape)) + own if len(tensor.shape) < 2 else own[-4:]
    full = (padded[0], *(0,) * (4 - len(padded)), *padded[1:])
    _, h, w, c = nhwc(tensor.shape)
    pixel = full[2] if w > 1 else c * element
    return full[0], full[1] if h > 1 else w * pixel, pixel


def held(
    network: Network, storage: Storage, parts: Mapping[int, Parts], cores: int
) -> dict[str, tuple[Range, ...]]:
    """By buffer the bytes that each core holds of it where it lies in SRAM: those that its parts touch."""
    whole = _without_rows(network, storage)
    spans: dict[str, list[list[int]]] = {}
    for index, layer in enumerate(network.layers):
        if layer.name in storage.free_layers:
            continue
        n, h, _, c = nhwc(network.tensors[layer.output].shape)
        mine = parts.get(index)
        for core, part in enumerate(mine or [Part((0, n), (0, h), (0, c))]):
            if not part.pixel_rows:
                continue
            reads = rows_read(network, layer)(part.rows[0], _length(part.rows)) if mine else {}
            for name in (*operands(layer), layer.output):
                buffer = storage.spots[name].buffer
                span = (0, storage.buffer_bytes[buffer])
                if mine and buffer not in whole:
                    rows = reads.get(name, (min(part.rows[0], h - 1), min(part.rows[1], h)))
                    images = part.images if nhwc(network.tensors[name].shape)[0] > 1 else (0, 1)
                    image, row, _ = image_strides(network, storage, name)
                    begin = storage.spots[name].offset // row * row
                    span = (
                        begin + images[0] * image + rows[0] * row,
                        min(begin + (images[1] - 1) * image + rows[1] * row, span[1]),
                    )
                spans.setdefault(buffer, [[] for _ in range(cores)])[core] += span
    return {
        buffer: tuple((min(edges), max(edges)) if edges else (0, 0) for edges in of_cores)
        for buffer, of_cores in spans.items()
    }


def _without_rows(network: Network, storage: Storage) -> set[str]:
    """Buffers whose tensors do not all have rows of the same bytes, and images of the same bytes if they have several."""
    steps: dict[tuple[str, str], set[int]] = {}
    for name, spot in storage.spots.items():
        image, row, _ = image_strides(network, storage, name)
        steps.setdefault((spot.buffer, "row"), set()).add(row)
        if nhwc(network.tensors[name].shape)[0] > 1:
            steps.setdefault((spot.buffer, "image"), set()).add(image)
    return {buffer for (buffer, _), found in steps.items() if len(found) > 1}


def held_bytes(spans: Sequence[Range]) -> int:
    """The SRAM that each core sets aside for a buffer."""
    return max(_length(span) for span in spans)
