"""The order of layers in which less has to lie in SRAM at a time."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ommatid.compiler.layers import Layer, Network, Stage
from ommatid.compiler.storage import operands
from ommatid.isa.target import Target

#: The part of a core's SRAM that a layer must free to be made earlier.
LEAST_FREED = 0.25


def what_frees_first(network: Network, target: Target) -> Network:
    """The network with each layer that makes much less than it is the last to read as soon as it can be made.

    At the end of a residual block that halves a map, say, the shortcut then reads the map before the next layer makes
    its own.
    """
    size = {name: math.prod(t.shape) * t.quantization.kind.bytes for name, t in network.tensors.items()}
    for name in network.fed | network.kept | network.constants.keys():
        size[name] = 0  # lies in DRAM anyway
    stages = tuple(replace(stage, layers=_ordered(stage, size, network, target)) for stage in network.stages)
    return replace(network, stages=stages)


def _ordered(stage: Stage, size: Mapping[str, int], network: Network, target: Target) -> tuple[Layer, ...]:
    least = target.sram_bytes * LEAST_FREED
    readers = Counter(name for layer in network.layers for name in set(operands(layer)))
    made = {layer.output for layer in stage.layers}
    missing = [made & set(operands(layer)) for layer in stage.layers]
    waiting: dict[str, list[int]] = {name: [] for name in made}
    for i, names in enumerate(missing):
        for name in names:
            waiting[name].append(i)
    ready = [i for i, names in enumerate(missing) if not names]
    ordered: list[Layer] = []

    def freed(i: int) -> float:
        """Bytes; 0: not enough to matter."""
        layer = stage.layers[i]
        read = sum(size[name] for name in set(operands(layer)) if readers[name] == 1)
        return read - size[layer.output] if read - size[layer.output] > least else 0

    while ready:
        best = max(ready, key=freed)  # the first of those that free as much
        ready.remove(best)
        layer = stage.layers[best]
        readers.subtract(set(operands(layer)))
        ordered.append(layer)
        for i in waiting[layer.output]:
            missing[i].discard(layer.output)
            if not missing[i]:
                bisect.insort(ready, i)
    return tuple(ordered)
