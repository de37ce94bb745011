"""Networks over tokens: ViT, Swin, MLP-Mixer."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tests.networks.exporter import Exporter


def mlp(g: Exporter, x: str, channels: int, wide: int) -> str:
    """Two linear layers with GELU between."""
    return g.linear(g.gelu(g.linear(x, channels, wide)), wide, channels)


def vit() -> onnx.ModelProto:
    """ViT by torch.onnx at opset 17: class token, positions, scaled_dot_product_attention spelled out."""
    g = Exporter(17, 21)
    channels, heads = 32, 2
    x = g.conv("x", 3, channels, 8, 8, pad=0, gain=1.0)
    x = g.transpose(g.view(x, g.size(x, 0), channels, -1), 0, 2, 1)
    token = _class_token(g, x, channels)
    x = g.op("Add", g.op("Concat", token, x, axis=1), g.normal(1, 65, channels, deviation=0.5))
    for _ in range(2):
        x = g.op("Add", x, _attention(g, g.layer_norm(x, channels), channels, heads))
        x = g.op("Add", x, mlp(g, g.layer_norm(x, channels), channels, 2 * channels))
    first = g.op("Gather", g.layer_norm(x, channels), g.constant(0, np.int64), axis=1)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), g.gemm(first, channels, 10))


def _class_token(g: Exporter, x: str, channels: int) -> str:
    """``token.expand(x.size(0), -1, -1)``: Where and Equal choose between the sizes and those of the token."""
    sizes = g.op("Concat", g.unsqueeze(g.size(x, 0), 0), g.ints(-1), g.ints(-1), axis=0)
    ones = g.op(
        "ConstantOfShape", g.ints(3), value=onnx.helper.make_tensor("value", TensorProto.INT64, [1], [1])
    )
    unknown = g.op("Equal", sizes, g.op("Mul", ones, g.constant(-1, np.int64)))
    return g.op("Expand", g.normal(1, 1, channels), g.op("Where", unknown, ones, sizes))


def _attention(g: Exporter, x: str, channels: int, heads: int) -> str:
    each = channels // heads
    qkv = g.linear(x, channels, 3 * channels)
    qkv = g.transpose(g.view(qkv, g.size(x, 0), g.size(x, 1), 3, heads, each), 2, 0, 3, 1, 4)
    q, k, v = (g.op("Gather", qkv, g.constant(i, np.int64), axis=0) for i in range(3))
    last = g.cut(g.op("Shape", q), 0, -1, 2**63 - 1)
    root = g.op("Sqrt", g.op("Cast", last, to=TensorProto.FLOAT))
    scale = g.op("Sqrt", g.op("Div", g.constant([1.0]), root))
    scores = g.op("MatMul", g.op("Mul", q, scale), g.op("Mul", g.transpose(k, 0, 1, 3, 2), scale))
    mixed = g.transpose(g.op("MatMul", g.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    return g.linear(g.view(mixed, g.size(x, 0), g.size(x, 1), channels), channels, channels)


def swin() -> onnx.ModelProto:
    """Swin: windows, shifted by Slice and Concat, relative position bias, a mask, patch merging; opset 14."""
    g = Exporter(14, 22)
    x = g.conv("x", 3, 16, 4, 4, pad=0, gain=1.0)
    x = g.layer_norm(g.transpose(g.view(x, g.size(x, 0), 16, -1), 0, 2, 1), 16)
    for side, channels, heads in ((16, 16, 2), (8, 32, 4)):
        if channels == 32:
            x = _merge(g, x, side, channels)
        for shift in (0, 2):
            x = _block(g, x, side, channels, heads, shift)
    x = g.mean(g.layer_norm(x, 32), 1, keepdims=0)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), g.gemm(x, 32, 10))


def _block(g: Exporter, x: str, side: int, channels: int, heads: int, shift: int) -> str:
    y = g.view(g.layer_norm(x, channels), g.size(x, 0), side, side, channels)
    y = _roll(g, _roll(g, y, 1, shift), 2, shift) if shift else y
    count = side // 4
    y = g.transpose(g.reshape(y, -1, count, 4, count, 4, channels), 0, 1, 3, 2, 4, 5)
    y = _window_attention(g, g.reshape(y, -1, 16, channels), side, channels, heads, shift)
    y = g.transpose(g.reshape(y, -1, count, count, 4, 4, channels), 0, 1, 3, 2, 4, 5)
    y = g.reshape(y, -1, side, side, channels)
    y = _roll(g, _roll(g, y, 1, -shift), 2, -shift) if shift else y
    x = g.op("Add", x, g.view(y, g.size(x, 0), side * side, channels))
    return g.op("Add", x, mlp(g, g.layer_norm(x, channels), channels, 2 * channels))


def _roll(g: Exporter, x: str, axis: int, shift: int) -> str:
    """``torch.roll(x, -shift, axis)``: the two parts change places."""
    parts = g.cut(x, axis, shift, 2**63 - 1), g.cut(x, axis, 0, shift)
    return g.op("Concat", *parts, axis=axis)


def _window_attention(g: Exporter, x: str, side: int, channels: int, heads: int, shift: int) -> str:
    each, windows = channels // heads, (side // 4) ** 2
    qkv = g.linear(x, channels, 3 * channels)
    qkv = g.transpose(g.view(qkv, g.size(x, 0), g.size(x, 1), 3, heads, each), 2, 0, 3, 1, 4)
    q, k, v = (g.op("Gather", qkv, g.constant(i, np.int64), axis=0) for i in range(3))
    scores = g.op("MatMul", g.op("Mul", q, g.constant(each**-0.5)), g.transpose(k, 0, 1, 3, 2))
    scores = g.op("Add", scores, _position_bias(g, heads))
    if shift:
        mask = g.unsqueeze(g.unsqueeze(g.constant(_mask(side, shift)), 1), 0)
        scores = g.op("Add", g.reshape(scores, 1, windows, heads, 16, 16), mask)
        scores = g.reshape(scores, -1, heads, 16, 16)
    mixed = g.transpose(g.op("MatMul", g.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    return g.linear(g.view(mixed, g.size(x, 0), g.size(x, 1), channels), channels, channels)


def _position_bias(g: Exporter, heads: int) -> str:
    """Rows of a table of the distances between two tokens of a window."""
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij")).reshape(2, -1)
    distance = places[:, :, None] - places[:, None, :] + 3
    rows = g.constant((7 * distance[0] + distance[1]).reshape(-1), np.int64)
    bias = g.reshape(g.op("Gather", g.normal(49, heads, deviation=0.5), rows), 16, 16, -1)
    return g.unsqueeze(g.transpose(bias, 2, 0, 1), 0)


def _mask(side: int, shift: int) -> np.ndarray:
    """-100 between tokens that the shift brought together from different ends, [windows, 16, 16]."""
    ends = (slice(0, -4), slice(-4, -shift), slice(-shift, None))
    region = np.zeros((side, side))
    for i, rows in enumerate(ends):
        for j, columns in enumerate(ends):
            region[rows, columns] = 3 * i + j
    count = side // 4
    region = region.reshape(count, 4, count, 4).transpose(0, 2, 1, 3).reshape(-1, 16)
    return np.where(region[:, None, :] == region[:, :, None], 0.0, -100.0)


def _merge(g: Exporter, x: str, side: int, channels: int) -> str:
    """Patch merging: four neighbours become the channels of one token."""
    x = g.view(x, g.size(x, 0), 2 * side, 2 * side, channels // 2)
    corners = [g.cut(g.cut(x, 1, i, 2**63 - 1, 2), 2, j, 2**63 - 1, 2) for j in (0, 1) for i in (0, 1)]
    x = g.reshape(g.op("Concat", *corners, axis=-1), 1, -1, 2 * channels)
    return g.linear(g.layer_norm(x, 2 * channels), 2 * channels, channels, bias=False)


def mixer() -> onnx.ModelProto:
    """MLP-Mixer as torch.export writes it at opset 21: LayerNormalization and Gelu are operators."""
    g = Exporter(21, 23)
    x = g.transpose(g.reshape(g.conv("x", 3, 32, 8, 8, pad=0, gain=1.0), 1, 32, 64), 0, 2, 1)
    for _ in range(2):
        y = g.transpose(g.layer_norm(x, 32), 0, 2, 1)
        x = g.op("Add", x, g.transpose(mlp(g, y, 64, 32), 0, 2, 1))
        x = g.op("Add", x, mlp(g, g.layer_norm(x, 32), 32, 64))
    x = g.mean(g.layer_norm(x, 32), 1, keepdims=0)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), g.gemm(x, 32, 10))
