"""Fusion: element-wise layers join the pass of the vector engine that writes their input.

A ``map`` instruction has four steps; a layer that only replaces, adds or multiplies bytes costs nothing more
when it becomes a later step of the layer before it. Tables in a row are composed into one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ommatid.compiler import tables
from ommatid.compiler.chain import fits_chain
from ommatid.compiler.layers import (
    Binary,
    Concat,
    Conv,
    Layer,
    Map,
    MatMul,
    Mean,
    Network,
    Resize,
    Stage,
    Step,
    Table,
)
from ommatid.compiler.storage import operands
from ommatid.isa.program import Tensor

Array = np.ndarray[Any, Any]
#: Operations whose last instruction is a ``map``. That of a MatMul takes tables only.
FUSING = (Conv, MatMul, Map, Mean)


def fuse(network: Network) -> Network:
    """The network with element-wise layers and concat tables joined to their producers where they fit; itself if
    none does."""
    tensors = dict(network.tensors)
    readers = Counter(name for stage in network.stages for layer in stage.layers for name in operands(layer))
    alone = {name for name, count in readers.items() if count == 1} - network.kept - network.fed
    stages = tuple(
        stage if stage.cpu else Stage(_fuse_stage(list(stage.layers), alone, tensors))
        for stage in network.stages
    )
    return network if stages == network.stages else replace(network, stages=stages, tensors=tensors)


def _fuse_stage(layers: list[Layer], alone: set[str], tensors: dict[str, Tensor]) -> tuple[Layer, ...]:
    place = {layer.output: i for i, layer in enumerate(layers)}
    result: list[Layer | None] = [
        layer if (steps := compose(layer.steps)) == layer.steps else replace(layer, steps=steps)
        for layer in layers
    ]
    for i, layer in enumerate(layers):
        if isinstance(layer.operation, Concat):
            result[i] = _concat_tables(result, i, alone, place, tensors)
            continue
        joined = _join(result, i, alone, place, tensors)
        if joined is not None:
            at, merged = joined
            result[at], result[i] = None, merged
            place[merged.output] = i
    return tuple(layer for layer in result if layer is not None)


def _join(
    result: Sequence[Layer | None],
    i: int,
    alone: set[str],
    place: dict[str, int],
    tensors: Mapping[str, Tensor],
) -> tuple[int, Layer] | None:
    """The producer's place and the merged layer, if layer ``i`` can join one of its producers."""
    layer = result[i]
    if layer is None or not isinstance(layer.operation, Map) or layer.operation.affine is not None:
        return None
    for candidate, steps in _orders(layer):
        at = place.get(candidate, -1)
        producer = result[at] if at >= 0 else None
        if candidate not in alone or producer is None or not isinstance(producer.operation, FUSING):
            continue
        merged = compose((*producer.steps, *steps))
        if isinstance(producer.operation, MatMul) and any(isinstance(step, Binary) for step in merged):
            continue
        if fits_chain(merged) and tensors[candidate].shape == tensors[layer.output].shape:
            nodes = (*producer.nodes, *layer.nodes)
            return at, replace(producer, nodes=nodes, output=layer.output, steps=merged)
    return None


def _orders(layer: Layer) -> list[tuple[str, tuple[Step, ...]]]:
    """The main input with the layer's steps; where step one adds or multiplies, also the other way round."""
    orders = [(layer.input_name, layer.steps)]
    first = layer.steps[0] if layer.steps else None
    if isinstance(first, Binary) and first.other != layer.input_name:
        swapped = replace(
            first, other=layer.input_name, a=first.b, b=first.a,
            a_factor=first.b_factor if first.kind == "add" else first.a_factor,
            b_factor=first.a_factor if first.kind == "add" else first.b_factor,
        )  # fmt: skip
        orders.append((first.other, (swapped, *layer.steps[1:])))
    return orders


def compose(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with neighbouring tables made one, but for those that interpolate."""
    result: list[Step] = []
    for step in steps:
        last = result[-1] if result else None
        one = (
            tables.then(last.values, step.values)
            if isinstance(last, Table) and isinstance(step, Table)
            else None
        )
        if one is None:
            result.append(step)
        else:
            result[-1] = Table(one)
    return tuple(result)


def _concat_tables(
    result: list[Layer | None], i: int, alone: set[str], place: dict[str, int], tensors: dict[str, Tensor]
) -> Layer:
    """The Concat without the tables that its producers could take over; what these then write are new tensors."""
    layer = result[i]
    assert layer is not None and isinstance(layer.operation, Concat)
    tables, inputs = list(layer.operation.tables), list(layer.inputs)
    for k, (name, table) in enumerate(zip(layer.inputs, tables, strict=True)):
        if table is None:
            continue
        way = _way_of_table(result, name, table, alone, place, tensors)
        for depth, (at, producer) in enumerate(way):
            part = f"{layer.output}@{k}" + "@" * depth
            tensors[part] = replace(
                tensors[producer.output], name=part, quantization=tensors[layer.output].quantization
            )
            last = depth == len(way) - 1
            result[at] = replace(
                producer,
                inputs=producer.inputs if last else (part + "@",),
                steps=compose((*producer.steps, Table(table))) if last else (),
                output=part,
            )
        if way:
            inputs[k], tables[k] = f"{layer.output}@{k}", None
    if inputs == [*layer.inputs]:
        return layer
    return replace(layer, inputs=tuple(inputs), operation=replace(layer.operation, tables=tuple(tables)))


def _way_of_table(
    result: Sequence[Layer | None],
    name: str,
    table: Array,
    alone: set[str],
    place: Mapping[str, int],
    tensors: Mapping[str, Tensor],
) -> list[tuple[int, Layer]]:
    """The layers, with their places, that a table on a tensor passes up to one that can take it; none if there is no
    such. It passes what only repeats elements."""
    way: list[tuple[int, Layer]] = []
    while name in alone and (layer := result[place[name]] if name in place else None) is not None:
        way.append((place[name], layer))
        if isinstance(layer.operation, FUSING):
            return way if fits_chain(compose((*layer.steps, Table(table)))) else []
        same = tensors[layer.input_name].quantization == tensors[layer.output].quantization
        if not (isinstance(layer.operation, Resize) and layer.operation.taps == 1 and same):
            return []
        name = layer.input_name
    return []
