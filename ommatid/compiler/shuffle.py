"""Channel shuffles that move no byte: a depthwise convolution does not care about the order of its channels.

Between a shuffle and the next convolution stands a depthwise one (ShuffleNet's unit). It reads the channels as they were
before the shuffle, and writes them so that each group of the next convolution finds its own side by side: its ``runs``
say where. The next convolution's weights then have the order of what they read.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ommatid.compiler.bounds import is_depthwise
from ommatid.compiler.layers import Binary, Conv, Layer, Network, Stage, Transpose, View
from ommatid.compiler.storage import operands
from ommatid.isa.program import Tensor
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]
#: Ends the name of a tensor whose channels have another order than the model's.
SHUFFLED = "@shuffled"
#: All channels of the rows under a depthwise convolution's row are in SRAM at once: a row has at most this part of it.
ROW_SHARE = 1 / 32


def absorb_shuffles(network: Network, target: Target) -> Network:
    """The network without the shuffles of channels that convolutions take over."""
    tensors = dict(network.tensors)
    readers = Counter(name for layer in network.layers for name in operands(layer))
    alone = {name for name, count in readers.items() if count == 1} - network.kept
    stages = tuple(
        stage if stage.cpu else Stage(_absorbed(stage.layers, alone, tensors, target))
        for stage in network.stages
    )
    return (
        replace(network, stages=stages, tensors=tensors) if len(tensors) > len(network.tensors) else network
    )


def _absorbed(
    layers: Sequence[Layer], alone: Collection[str], tensors: dict[str, Tensor], target: Target
) -> tuple[Layer, ...]:
    made = {layer.output: layer for layer in layers}
    reader = {layer.input_name: layer for layer in layers if layer.input_name in alone}
    changed: dict[str, Layer | None] = {}
    for shuffle in layers:
        moved = [shuffle]
        while (
            (view := made.get(moved[0].input_name))
            and isinstance(view.operation, View)
            and view.output in alone
        ):
            moved.insert(0, view)
        while (view := reader.get(moved[-1].output)) and isinstance(view.operation, View):
            moved.append(view)
        source, depthwise = moved[0].input_name, reader.get(moved[-1].output)
        following = reader.get(depthwise.output) if depthwise else None
        image = tensors[source].shape
        perm = channel_shuffle(shuffle, tensors[shuffle.input_name].shape, image)
        if depthwise is None or following is None or perm is None or tensors[moved[-1].output].shape != image:
            continue
        conv, other = depthwise.operation, following.operation
        row = math.prod(image[2:]) * tensors[source].quantization.kind.bytes
        if (
            isinstance(conv, Conv)
            and isinstance(other, Conv)
            and is_depthwise(depthwise)
            and not is_depthwise(following)
            and not any(isinstance(step, Binary) for step in depthwise.steps)
            and row <= target.sram_bytes * ROW_SHARE
        ):
            conv, other = convolutions(conv, other, perm)
            output = depthwise.output + SHUFFLED
            tensors[output] = replace(tensors[depthwise.output], name=output)
            nodes = tuple(dict.fromkeys(node for layer in (*moved, depthwise) for node in layer.nodes))
            changed |= {layer.name: None for layer in moved}
            changed[depthwise.name] = replace(
                depthwise, operation=conv, inputs=(source,), output=output, nodes=nodes
            )
            changed[following.name] = replace(following, operation=other, inputs=(output,))
    after = (changed.get(layer.name, layer) for layer in layers)
    return tuple(layer for layer in after if layer is not None)


def channel_shuffle(layer: Layer, shape: Sequence[int], image: Sequence[int]) -> Array | None:
    """By channel that a Transpose of a tensor of this ``shape`` makes of those of an ``image`` (its memory shape) the
    one that it takes (int64); None if it is something else."""
    kept = tuple(range(len(shape) - 2))
    if not isinstance(layer.operation, Transpose) or layer.operation.perm != (
        *kept,
        len(kept) + 1,
        len(kept),
    ):
        return None
    if len(image) != 4 or shape[-2] * shape[-1] != image[-1]:
        return None
    return np.arange(image[-1]).reshape(shape[-2:]).T.ravel()


def convolutions(depthwise: Conv, following: Conv, perm: Array) -> tuple[Conv, Conv]:
    """A depthwise convolution of shuffled channels as one of those before the shuffle, and the one that reads it."""
    place = np.argsort(perm)  # of a channel before the shuffle, behind it
    groups = [np.sort(group) for group in perm.reshape(following.groups, -1)]
    order = np.concatenate(groups)
    within = place[order].reshape(following.groups, -1) % len(groups[0])
    filters = np.split(following.weights, following.groups)
    weights = [part[..., taken] for part, taken in zip(filters, within, strict=True)]
    first = replace(
        depthwise,
        weights=depthwise.weights[place],
        bias=depthwise.bias[place],
        multipliers=depthwise.multipliers[place],
        runs=runs_of(np.argsort(order)),
    )
    return first, replace(following, weights=np.ascontiguousarray(np.concatenate(weights)))


def runs_of(places: Array) -> tuple[tuple[int, int, int], ...]:
    """Ranges of channels whose ``places`` follow each other, each with that of its first; none if all are one."""
    edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    runs = tuple((low, high, int(places[low])) for low, high in itertools.pairwise(edges))
    return runs if len(runs) > 1 else ()
