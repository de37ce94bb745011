"""A batch's large maps image by image: what makes and reads them is done for one image after the other.

Cores then share the rows of one image, whose maps fit in their SRAM together, where those of the batch would not. The
layers after them, which have many weights, see the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ommatid.compiler.cascade import BY_ROWS
from ommatid.compiler.layers import Binary, Concat, Layer, Network, Slice, Stage
from ommatid.compiler.storage import operands
from ommatid.isa.program import Tensor
from ommatid.isa.target import Target

#: A map of which each core would hold more than this part of its SRAM is large: two of them do not fit.
LARGE_SHARE = 0.25


def image_by_image(network: Network, target: Target) -> Network:
    """The network with the layers up to the last that touches a large map repeated for each image of the batch."""
    tensors = dict(network.tensors)
    stages = tuple(
        stage if stage.cpu else _divided(network, stage, target, tensors) for stage in network.stages
    )
    return replace(network, stages=stages, tensors=tensors)


def _divided(network: Network, stage: Stage, target: Target, tensors: dict[str, Tensor]) -> Stage:
    shapes = [network.tensors[layer.output].shape for layer in stage.layers]
    n = max((shape[0] for shape in shapes if len(shape) == 4), default=1)
    count = _last_large(network, stage, target, n) + 1
    if n == 1 or not count:
        return stage
    first, rest = stage.layers[:count], stage.layers[count:]
    batched = {
        name for layer in first for name in (*operands(layer), layer.output) if tensors[name].shape[0] == n
    }
    made = {layer.output for layer in first} & batched
    copies = [layer for layer in first if layer.output not in made]
    for image in range(n):
        for name in sorted(batched - made):
            if f"{name}@{image}" not in tensors:  # else an earlier stage has it
                copies.append(_slice(tensors, name, image))
        copies += [_copy(tensors, layer, batched, image) for layer in first if layer.output in made]
    behind = [layer for each in network.stages for layer in (rest if each is stage else each.layers)]
    later = {name for layer in behind for name in operands(layer)} | network.kept
    for name in sorted(made & later):
        parts = tuple(_of_image(tensors, name, image) for image in range(n))
        copies.append(Layer(f"{name}@batch", "Concat", (), Concat(0, (None,) * n), parts, name))
    return Stage((*copies, *rest))


def _last_large(network: Network, stage: Stage, target: Target, n: int) -> int:
    """The number of the last layer of those that can be repeated which touches a large map; -1: none does."""
    last = -1
    for number, layer in enumerate(stage.layers):
        touched = [network.tensors[name] for name in (*operands(layer), layer.output)]
        if type(layer.operation) not in BY_ROWS or any(
            len(t.shape) != 4 or t.shape[0] not in (1, n) for t in touched
        ):
            break
        sizes = [math.prod(t.shape) * t.quantization.kind.bytes for t in touched]
        if touched[-1].shape[0] == n and max(sizes) > target.sram_bytes * target.cores * LARGE_SHARE:
            last = number
    return last


def _of_image(tensors: dict[str, Tensor], name: str, image: int) -> str:
    """The part of a tensor that is one image's."""
    new, whole = f"{name}@{image}", tensors[name]
    tensors[new] = replace(
        whole, name=new, shape=(1, *whole.shape[1:]), onnx_shape=(1, *whole.onnx_shape[1:])
    )
    return new


def _slice(tensors: dict[str, Tensor], name: str, image: int) -> Layer:
    part = _of_image(tensors, name, image)
    return Layer(f"{part}@slice", "Slice", (), Slice((image, 0, 0, 0), (1, 1, 1, 1)), (name,), part)


def _copy(tensors: dict[str, Tensor], layer: Layer, batched: set[str], image: int) -> Layer:
    """A layer for one image."""

    def renamed(name: str) -> str:
        return _of_image(tensors, name, image) if name in batched else name

    steps = tuple(
        replace(step, other=renamed(step.other)) if isinstance(step, Binary) else step for step in layer.steps
    )
    n = tensors[layer.output].shape[0]
    return replace(
        layer, name=f"{layer.name}@{image}", inputs=tuple(map(renamed, layer.inputs)), output=renamed(layer.output),
        steps=steps, macs=layer.macs // n,
    )  # fmt: skip
