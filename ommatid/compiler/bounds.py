"""The two yardsticks of a compile (design, section 5). Part of the ruler: see section 9 before changing it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ommatid.compiler.layers import Conv, Layer
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


def peak_macs_per_cycle(layer: Layer, target: Target) -> int:
    """Multiply-accumulates a cycle of the whole chip for that kind of layer."""
    one = target.depthwise_macs_per_cycle if is_depthwise(layer) else target.macs_per_cycle
    return one * target.cores


def layer_roofline_cycles(layer: Layer, compulsory_bytes: int, target: Target) -> float:
    """A layer's term of ``roofline_cycles``: 0 for a layer without MACs."""
    if not layer.macs:
        return 0.0
    return max(
        layer.macs / peak_macs_per_cycle(layer, target), compulsory_bytes / target.dram_bytes_per_cycle
    )


def lower_bound_cycles(layers: Sequence[Layer], compulsory_bytes: int, target: Target) -> float:
    """Cycles that nothing beats: all MACs at the dense peak, or all compulsory bytes at full bandwidth."""
    macs = math.fsum(layer.macs for layer in layers)
    dense_peak = target.macs_per_cycle * target.cores
    return max(macs / dense_peak, compulsory_bytes / target.dram_bytes_per_cycle)
