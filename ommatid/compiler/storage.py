"""Where each tensor's bytes stand inside a buffer: views, slices and concatenations share one buffer.

A layer that only renames bytes costs nothing when its output can lie inside its input's buffer (View,
Slice) or its inputs inside its output's (Concat). The rest are real layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ommatid.compiler.layers import Binary, Concat, Layer, Network, Slice, TopK, View

#: Above this size a Concat is likely to lie in DRAM, where writing some of its channels at a time wastes bursts:
#: unless all of its inputs can be written in place, whole rows are put together in SRAM instead.
NARROW_STORE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Spot:
    """A tensor's bytes: ``offset`` in the buffer named ``buffer``, ``strides`` along its memory shape."""

    buffer: str
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """Spots by tensor, sizes of buffers in bytes, and names of the layers that cost nothing."""

    spots: Mapping[str, Spot]
    buffer_bytes: Mapping[str, int]
    free_layers: frozenset[str]

    @functools.cached_property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The tensors of each buffer."""
        members: dict[str, list[str]] = {}
        for name, spot in self.spots.items():
            members.setdefault(spot.buffer, []).append(name)
        return {buffer: tuple(names) for buffer, names in members.items()}


def dense_strides(shape: Sequence[int], element: int = 1) -> tuple[int, ...]:
    """Byte strides of a row-major tensor of elements of so many bytes."""
    strides = [element]
    for dim in reversed(shape[1:]):
        strides.append(strides[-1] * dim)
    return tuple(reversed(strides[: len(shape)]))


def operands(layer: Layer) -> list[str]:
    """All tensors that a layer reads."""
    return [*layer.inputs, *(step.other for step in layer.steps if isinstance(step, Binary))]


def plan_storage(network: Network) -> Storage:
    """Choose a spot for every tensor of the network.

    Concatenations are visited from the last to the first, so that a chain of them (a dense block) ends in
    one buffer; then views and slices follow the tensors that they rename.
    """
    shapes = {name: tensor.shape for name, tensor in network.tensors.items()}
    element = {name: tensor.quantization.kind.bytes for name, tensor in network.tensors.items()}
    layers = network.layers
    dense = _must_be_dense(layers)
    sliced = {layer.output for layer in layers if isinstance(layer.operation, Slice)}
    spots: dict[str, Spot] = {}
    sizes: dict[str, int] = {}
    free: set[str] = set()

    def own(name: str) -> Spot:
        if name not in spots:
            spots[name] = Spot(name, 0, dense_strides(shapes[name], element[name]))
            sizes[name] = math.prod(shapes[name]) * element[name]
        return spots[name]

    for layer in reversed(layers):
        if isinstance(layer.operation, Concat) and layer.output not in sliced:
            whole = own(layer.output)
            parts = _parts(layer, shapes, whole)
            contiguous = math.prod(shapes[layer.output][: layer.operation.axis]) == 1
            inside = [
                i
                for i, (name, _) in enumerate(parts)
                if name not in spots
                and name not in sliced
                and name not in network.constants
                and (contiguous or name not in dense)
                and layer.operation.tables[i] is None
                and layer.inputs.count(name) == 1
            ]
            if (
                len(inside) < len(parts)
                and not contiguous
                and sizes.get(layer.output, 0) > NARROW_STORE_BYTES
            ):
                continue
            for i in inside:
                spots[parts[i][0]] = Spot(whole.buffer, parts[i][1], whole.strides)
            if len(inside) == len(layer.inputs):
                free.add(layer.name)
    for layer in layers:
        source = layer.inputs[0]
        if isinstance(layer.operation, View) and layer.output not in spots:
            strides = dense_strides(shapes[layer.output], element[layer.output])
            spots[layer.output] = Spot(own(source).buffer, own(source).offset, strides)
            free.add(layer.name)
        elif isinstance(layer.operation, Slice) and layer.output not in spots and layer.output not in dense:
            spot, cut = own(source), layer.operation
            offset = spot.offset + sum(a * b for a, b in zip(cut.starts, spot.strides, strict=True))
            if cut.steps[-1] == 1:
                strides = tuple(a * b for a, b in zip(cut.steps, spot.strides, strict=True))
                spots[layer.output] = Spot(spot.buffer, offset, strides)
                free.add(layer.name)
        own(layer.output)
        for name in operands(layer):
            own(name)
    for name in network.tensors:
        own(name)
    return Storage(spots, sizes, frozenset(free))


def _parts(layer: Layer, shapes: Mapping[str, tuple[int, ...]], whole: Spot) -> list[tuple[str, int]]:
    """Each input of a Concat with its offset in the buffer."""
    assert isinstance(layer.operation, Concat)
    axis, at, parts = layer.operation.axis, 0, []
    for name in layer.inputs:
        parts.append((name, whole.offset + at * whole.strides[axis]))
        at += shapes[name][axis]
    return parts


def _must_be_dense(layers: Sequence[Layer]) -> set[str]:
    """Tensors whose bytes must stand without gaps: those that views rename, and of TopK."""
    views = [layer for layer in layers if isinstance(layer.operation, View | TopK)]
    return {name for layer in views for name in (layer.inputs[0], layer.output)}
