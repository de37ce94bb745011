"""The two yardsticks of a compile (design, section 5). Part of the ruler: see section 9 before changing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ommatid.compiler.layers import Conv, Layer, MatMul
from ommatid.isa.program import Tensor
from ommatid.isa.target import Target


def is_depthwise(layer: Layer) -> bool:
    """A convolution with one input channel and one output channel a group, more than one group."""
    conv = layer.operation
    return (
        isinstance(conv, Conv)
        and conv.groups > 1
        and conv.groups == conv.weights.shape[0]
        and conv.weights.shape[3] == 1
    )


def passes(layer: Layer, tensors: Mapping[str, Tensor]) -> int:
    """Passes of 8 by 8 bits of a layer with MACs: 16-bit activations run at half rate, two such at a quarter."""
    read = layer.inputs[:2] if isinstance(layer.operation, MatMul) else layer.inputs[:1]
    return math.prod(tensors[name].quantization.kind.bytes for name in read)


def peak_macs_per_cycle(layer: Layer, target: Target) -> int:
    """8-bit multiply-accumulates a cycle of the whole chip for that kind of layer."""
    one = target.depthwise_macs_per_cycle if is_depthwise(layer) else target.macs_per_cycle
    return one * target.cores


def layer_roofline_cycles(
    layer: Layer, tensors: Mapping[str, Tensor], compulsory_bytes: int, target: Target
) -> float:
    """A layer's term of ``roofline_cycles``: 0 for a layer without MACs."""
    if not layer.macs:
        return 0.0
    macs = layer.macs * passes(layer, tensors)
    return max(macs / peak_macs_per_cycle(layer, target), compulsory_bytes / target.dram_bytes_per_cycle)


def lower_bound_cycles(
    layers: Sequence[Layer], tensors: Mapping[str, Tensor], compulsory_bytes: int, target: Target
) -> float:
    """Cycles that nothing beats: all MACs at the dense peak, or all compulsory bytes at full bandwidth."""
    macs = math.fsum(layer.macs * passes(layer, tensors) for layer in layers if layer.macs)
    dense_peak = target.macs_per_cycle * target.cores
    return max(macs / dense_peak, compulsory_bytes / target.dram_bytes_per_cycle)
