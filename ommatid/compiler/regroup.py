"""Layers around maps that the SRAM cannot hold, put so that cascades can hold these by rows.

What makes such a map stands right before the first layer that reads it, and a layer that makes little of one right
behind what makes it. A gate (global mean, two small layers, multiply) reads its map twice, the second time when all
of it has been made: where that is cheaper than writing the map out and reading it back, it is made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ommatid.compiler.bounds import passes, peak_macs_per_cycle
from ommatid.compiler.cascade import BY_ROWS
from ommatid.compiler.layers import Binary, Layer, Mean, Network, Stage
from ommatid.compiler.storage import operands
from ommatid.isa.program import Tensor
from ommatid.isa.target import Target

#: A map above this part of the SRAM is large: beside it there is no room for the next one.
LARGE_SHARE = 1 / 2
#: Ends the names of a layer that is made again and of what it makes.
AGAIN = "@again"


def regroup(network: Network, target: Target) -> Network:
    """The network with its layers in another order, some of them twice; itself if nothing changes."""
    size = {name: math.prod(t.shape) * t.quantization.kind.bytes for name, t in network.tensors.items()}
    large = {layer.output for layer in network.layers if size[layer.output] > target.sram_bytes * LARGE_SHARE}
    if not large:
        return network
    tensors = dict(network.tensors)
    stages = tuple(
        stage
        if stage.cpu
        else Stage(
            tuple(_reordered(_with_twins(stage.layers, large - network.kept, tensors, size, target), large))
        )
        for stage in network.stages
    )
    return network if stages == network.stages else replace(network, stages=stages, tensors=tensors)


def _with_twins(
    layers: Sequence[Layer], large: set[str], tensors: dict[str, Tensor], size: Mapping[str, int], target: Target
) -> list[Layer]:  # fmt: skip
    """The layers, and before those that wait for a mean of a large map and read it again, its maker's twin."""
    result, readers = list(layers), _readers(layers)
    for maker in layers:
        means = {layer.output for layer in readers[maker.output] if isinstance(layer.operation, Mean)}
        if maker.output not in large or not means or not _is_cheap(maker, tensors, size, target):
            continue
        behind = _behind(layers, means)
        late = [layer for layer in readers[maker.output] if layer.output in behind]
        if not late:
            continue
        twin = replace(maker, name=maker.name + AGAIN, output=maker.output + AGAIN, macs=0)
        tensors[twin.output] = replace(tensors[maker.output], name=twin.output)
        result = [_renamed(layer, maker.output, twin.output) if layer in late else layer for layer in result]
        result.insert(min(i for i, layer in enumerate(result) if twin.output in operands(layer)), twin)
    return result


def _readers(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """By each layer's output the layers that read it, in order."""
    readers: dict[str, list[Layer]] = {layer.output: [] for layer in layers}
    for layer in layers:
        for name in readers.keys() & set(operands(layer)):
            readers[name].append(layer)
    return readers


def _behind(layers: Sequence[Layer], names: Iterable[str]) -> set[str]:
    """What is computed from these tensors."""
    behind = set(names)
    for layer in layers:
        if behind & set(operands(layer)):
            behind.add(layer.output)
    return behind - set(names)


def _is_cheap(layer: Layer, tensors: Mapping[str, Tensor], size: Mapping[str, int], target: Target) -> bool:
    """Making a layer's output twice takes fewer cycles than writing it and reading it back, less the same for its
    inputs."""
    if type(layer.operation) not in BY_ROWS:
        return False
    moved = 2 * (size[layer.output] - sum(size[name] for name in operands(layer)))
    array = layer.macs * passes(layer, tensors) / peak_macs_per_cycle(layer, target)
    vector = size[layer.output] / (target.vx_elements_per_cycle * target.cores)
    return moved / target.dram_bytes_per_cycle > max(array, vector)


def _renamed(layer: Layer, old: str, new: str) -> Layer:
    """The layer reading another tensor."""
    return replace(
        layer,
        inputs=tuple(new if name == old else name for name in layer.inputs),
        steps=tuple(
            replace(step, other=new) if isinstance(step, Binary) and step.other == old else step
            for step in layer.steps
        ),
    )


def _reordered(layers: Sequence[Layer], large: set[str]) -> list[Layer]:
    """Large maps are made late, and what makes them small follows at once."""
    large = large | {name + AGAIN for name in large}
    order, readers = list(layers), _readers(layers)
    maker = {layer.output: layer for layer in layers}
    for layer in reversed(layers):
        if layer.output in large:
            at = order.index(layer)
            first = min(map(order.index, readers[layer.output]), default=at + 1)
            order.insert(first - 1, order.pop(at))
    for layer in list(order):
        means = [isinstance(other.operation, Mean) for other in readers[layer.output]]
        if (means and all(means)) or (layer.output not in large and large & set(operands(layer))):
            at = order.index(layer)
            makers = [order.index(maker[name]) for name in operands(layer) if name in maker]
            order.insert(max(makers, default=at - 1) + 1, order.pop(at))
    return order
