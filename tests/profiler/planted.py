"""Networks that one thing limits: the DRAM, the SRAM, the array."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests import networks


def _convolutions(shapes: list[tuple[int, int]], size: int, channels: int) -> onnx.ModelProto:
    """Convolutions (output channels, kernel) one after the other."""
    rng = np.random.default_rng(0)
    nodes, constants, value, c = [], {}, "x", channels
    for i, (wide, k) in enumerate(shapes):
        weights = rng.standard_normal((wide, c, k, k)) * np.sqrt(2 / (c * k * k))
        constants[f"w{i}"] = weights.astype(np.float32)
        result = "y" if i == len(shapes) - 1 else f"c{i}"
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [result], f"conv{i}", pads=[k // 2] * 4))
        value, c = result, wide
    return networks.model(nodes, {"x": [1, channels, size, size]}, {"y": [1, c, size, size]}, constants)


def _gates(count: int, size: int, channels: int) -> onnx.ModelProto:
    """Convolutions, each multiplied by its own average: all of a map is needed before its first element is."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], {}, "x"
    for i in range(count):
        constants[f"w{i}"] = rng.standard_normal((channels, channels, 1, 1)).astype(np.float32) / 3
        result = "y" if i == count - 1 else f"g{i}"
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], f"conv{i}"),
            helper.make_node("GlobalAveragePool", [f"c{i}"], [f"a{i}"], f"average{i}"),
            helper.make_node("Mul", [f"c{i}", f"a{i}"], [result], f"gate{i}"),
        ]
        value = result
    shape = {"y": [1, channels, size, size]}
    return networks.model(nodes, {"x": [1, channels, size, size]}, shape, constants)


#: Bound: the network, its chip, and the doubled part that helps.
PLANTED = {
    "dram": (_convolutions([(512, 3), (512, 3), (256, 1)], 4, 256), "ommatid-1k", "DRAM bandwidth"),
    "sram": (_gates(3, 180, 32), "ommatid-1k", "SRAM"),
    "mx": (_convolutions([(64, 3), (64, 3), (64, 3)], 28, 64), "ommatid-1k", "array"),
}
