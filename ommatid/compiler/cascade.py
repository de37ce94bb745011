"""Cascades: runs of layers that are made stripe by stripe, so that what lies between them is never whole.

Here: which layers can be one, and which buffers are *inner*, those that its own layers make and read and of which only
some rows are in SRAM at a time. How it is emitted: ``lower_cascade.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ommatid.compiler.layers import Conv, Layer, Lrn, Map, Mean, Network, Norm, Pool, Resize, Softmax, nhwc
from ommatid.compiler.lower import Lowering
from ommatid.compiler.lower_conv import conv_rows
from ommatid.compiler.lower_vector import (
    lrn_rows,
    map_rows,
    mean_rows,
    norm_rows,
    pool_rows,
    resize_rows,
    softmax_rows,
)
from ommatid.compiler.memory import Lifetime
from ommatid.compiler.rows import Rows, Share
from ommatid.compiler.storage import Storage, operands
from ommatid.isa.target import Target

#: Operations that can be made by rows of their output; a mean, by those of its input.
BY_ROWS: dict[type, Callable[[Lowering, Layer, Share | None], Rows]] = {
    Conv: conv_rows,
    Map: map_rows,
    Mean: mean_rows,
    Pool: pool_rows,
    Resize: resize_rows,
    Softmax: softmax_rows,
    Lrn: lrn_rows,
    Norm: norm_rows,
}
#: Buffers below this part of the SRAM stay whole: then no row is copied.
WHOLE_SHARE = 1 / 16


@dataclass(frozen=True)
class Cascade:
    """Layers ``first`` to ``last`` (by number, both included), ``each`` rows of the last one (``height``) at a time.

    That may be a part of a row, where layers before the last have more of them.
    """

    first: int
    last: int
    each: float

    @property
    def layers(self) -> range:
        """Their numbers."""
        return range(self.first, self.last + 1)


def height(network: Network, layer: Layer) -> int:
    """Rows that a layer is made by: those of its output, a mean's those of its input."""
    name = layer.input_name if isinstance(layer.operation, Mean) else layer.output
    return nhwc(network.tensors[name].shape)[1]


def reloaded_bytes(network: Network, cascade: Cascade, target: Target) -> float:
    """About the DRAM bytes of weights that a cascade loads, if SRAM does not hold those of all its layers: then most are
    loaded for each stripe anew."""
    layers = network.layers[cascade.first : cascade.last + 1]
    weights = sum(layer.operation.weights.nbytes for layer in layers if isinstance(layer.operation, Conv))
    stripes = math.ceil(height(network, layers[-1]) / cascade.each)
    return weights * stripes if weights > target.sram_bytes else 0


def widened(lives: Mapping[str, Lifetime], groups: Collection[range]) -> dict[str, Lifetime]:
    """Lifetimes that begin and end with whole groups of layers, which are made together."""
    first = {i: group[0] for group in groups for i in group}
    last = {i: group[-1] for group in groups for i in group}
    return {
        name: Lifetime(first.get(life.first, life.first), last.get(life.last, life.last), life.uses)
        for name, life in lives.items()
    }


def inner_buffers(
    network: Network, storage: Storage, lives: Mapping[str, Lifetime], cascade: Cascade, target: Target
) -> frozenset[str]:
    """Buffers that the layers of a cascade make and read, and that are worth being made by rows; ``lives`` not widened.

    Some may be read later, too.
    """
    outside = {storage.spots[name].buffer for name in network.fed}
    layers = network.layers[cascade.first : cascade.last + 1]
    return frozenset(
        buffer
        for buffer, life in lives.items()
        if cascade.first <= life.first < cascade.last
        and (life.last <= cascade.last or _is_made_and_read(network, storage, cascade, buffer))
        and buffer not in outside
        and storage.buffer_bytes[buffer] > target.sram_bytes * WHOLE_SHARE
        and _in_rows(network, storage, storage.members[buffer])
        and not _feeds_itself(storage, layers, buffer)
    )


def _is_made_and_read(network: Network, storage: Storage, cascade: Cascade, buffer: str) -> bool:
    """Whether all that is written to a buffer is written in a cascade, and some of it read there."""
    busy = [(i, layer) for i, layer in enumerate(network.layers) if layer.name not in storage.free_layers]
    inside = range(cascade.first, cascade.last + 1)
    writers = [i for i, layer in busy if storage.spots[layer.output].buffer == buffer]
    readers = [
        i for i, layer in busy if any(storage.spots[name].buffer == buffer for name in operands(layer))
    ]
    return all(i in inside for i in writers) and any(i in inside for i in readers)


def _feeds_itself(storage: Storage, layers: Sequence[Layer], buffer: str) -> bool:
    """Whether a layer writes to the buffer what it computed from it: then its parts cannot be made together."""
    from_it: set[str] = {buffer}
    written = False
    for layer in layers:
        target = storage.spots[layer.output].buffer
        if written and any(storage.spots[name].buffer in from_it for name in operands(layer)):
            if target == buffer and layer.name not in storage.free_layers:
                return True
            from_it.add(target)
        written |= target == buffer
    return False


def is_cascadable(network: Network, storage: Storage, first: int, last: int) -> bool:
    """Whether layers ``first`` to ``last`` can be one cascade.

    They are of one stage, all can be made by rows, and the tensors of each buffer that they write have the same rows;
    none reads a mean, which is complete with the last row, by whatever name.
    """
    edges = itertools.accumulate(len(stage.layers) for stage in network.stages)
    if first < 0 or last >= len(network.layers) or any(first < edge <= last for edge in edges):
        return False
    part = [layer for layer in network.layers[first : last + 1] if layer.name not in storage.free_layers]
    if not part or any(type(layer.operation) not in BY_ROWS for layer in part):
        return False
    touched = {name for layer in part for name in (*operands(layer), layer.output)}
    means = {storage.spots[layer.output].buffer for layer in part if isinstance(layer.operation, Mean)}
    if any(storage.spots[name].buffer in means for layer in part for name in operands(layer)):
        return False
    written = {storage.spots[layer.output].buffer for layer in part if not isinstance(layer.operation, Mean)}
    groups = [[name for name in touched if storage.spots[name].buffer == buffer] for buffer in written]
    images = {network.tensors[layer.output].shape[0] for layer in part}
    return len(images) == 1 and all(_in_rows(network, storage, group) for group in groups)


def _in_rows(network: Network, storage: Storage, names: Sequence[str]) -> bool:
    """The tensors of a buffer are images of the same rows, side by side in each row."""
    shapes = [network.tensors[name].shape for name in names]
    if any(len(shape) != 4 or shape[1] < 2 for shape in shapes):
        return False
    spots = [storage.spots[name] for name in names]
    row = spots[0].strides[1]
    return (
        len({shape[:2] for shape in shapes}) == 1
        and len({spot.strides[:2] for spot in spots}) == 1
        and all(
            shape[2] * spot.strides[2] <= row and spot.offset < row
            for spot, shape in zip(spots, shapes, strict=True)
        )
    )
