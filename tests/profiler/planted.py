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


#: Bound: the network, its chip, and the doubled part that helps.
PLANTED = {
    "dram": (_convolutions([(512, 3), (512, 3), (256, 1)], 4, 256), "ommatid-1k", "DRAM bandwidth"),
    "sram": (_convolutions([(16, 1), (16, 1), (16, 1)], 150, 16), "ommatid-256", "SRAM"),
    "mx": (_convolutions([(64, 3), (64, 3), (64, 3)], 28, 64), "ommatid-1k", "array"),
}
