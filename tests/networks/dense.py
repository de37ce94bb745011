"""Networks whose output is an image: segmentation, super-resolution, keypoints."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tests.networks.exporter import Exporter


def unet() -> onnx.ModelProto:
    """U-Net: two convolutions a level, ConvTranspose, and skips padded to the size of what they meet."""
    g = Exporter(11, 1)

    def double(x: str, inputs: int, outputs: int) -> str:
        return g.relu(g.conv(g.relu(g.conv(x, inputs, outputs, 3)), outputs, outputs, 3))

    levels = [double("x", 3, 8)]
    for inputs, outputs in ((8, 16), (16, 32), (32, 32)):
        levels.append(double(g.max_pool(levels[-1], 2, 2), inputs, outputs))
    x = levels.pop()
    for inputs, outputs in ((32, 32), (32, 16), (16, 8)):
        skip = levels.pop()
        up = _pad_like(g, g.conv_transpose(x, inputs, outputs, 2, 2), skip)
        x = double(g.op("Concat", skip, up, axis=1), 2 * outputs, outputs)
    return g.model(("x", (1, 3, 100, 76)), ("logits", (1, 2, 100, 76)), g.conv(x, 8, 2))


def _pad_like(g: Exporter, x: str, other: str) -> str:
    """``F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])`` with computed sizes, as torch.onnx writes it."""
    amounts = []
    for axis in (3, 2):
        difference = g.op("Sub", g.size(other, axis), g.size(x, axis))
        half = g.op("Div", difference, g.constant(2, np.int64))
        amounts += [half, g.op("Sub", difference, half)]
    given = g.op("Concat", *(g.unsqueeze(a, 0) for a in amounts), axis=0)
    rest = g.op(
        "ConstantOfShape", g.ints(4), value=onnx.helper.make_tensor("value", TensorProto.INT64, [1], [0])
    )
    pairs = g.reshape(g.op("Concat", given, rest, axis=0), -1, 2)
    turned = g.op("Slice", pairs, g.ints(-1), g.ints(-(2**63) + 1), g.ints(0), g.ints(-1))
    flat = g.reshape(g.transpose(turned, 1, 0), -1)
    return g.op("Pad", x, g.op("Cast", flat, to=TensorProto.INT64), g.constant(0.0), mode="constant")


def aspp() -> onnx.ModelProto:
    """Dilated segmentation (DeepLab): a backbone of dilated blocks, ASPP, Resize to the image's size, ArgMax."""
    g = Exporter(11, 2)
    x = g.relu(g.conv("x", 3, 8, 3, stride=2))
    x = g.max_pool(x, 3, 2, 1)
    for channels, stride, dilation in ((8, 1, 1), (16, 2, 1), (16, 1, 2), (16, 1, 4)):
        inputs = 8 if stride == 2 or dilation == channels == 8 else channels
        short = g.conv(x, inputs, channels, stride=stride, gain=1.0) if inputs != channels else x
        y = g.relu(g.conv(x, inputs, channels, 3, stride=stride, dilation=dilation))
        y = g.conv(y, channels, channels, 3, dilation=dilation, gain=1.0)
        x = g.relu(g.op("Add", y, short))
    branches = [g.relu(g.conv(x, 16, 8))]
    branches += [g.relu(g.conv(x, 16, 8, 3, dilation=d)) for d in (2, 3, 5)]
    pooled = g.relu(g.conv(g.op("GlobalAveragePool", x), 16, 8))
    branches.append(_resize_like(g, pooled, x))
    x = g.relu(g.conv(g.op("Concat", *branches, axis=1), 40, 16))
    logits = _resize_like(g, g.conv(g.relu(g.conv(x, 16, 16, 3)), 16, 5, gain=1.0), "x")
    classes = g.op("ArgMax", logits, axis=1, keepdims=0)
    return g.model(("x", (1, 3, 96, 96)), ("classes", (1, 96, 96)), classes, TensorProto.INT64)


def _resize_like(g: Exporter, x: str, other: str) -> str:
    """``F.interpolate(x, size=other.shape[-2:], mode="bilinear")`` of torch.onnx at opset 11."""
    target = g.cut(g.op("Shape", other), 0, 2, 4)
    kept = g.cut(g.op("Shape", x), 0, 0, 2)
    sizes = g.op("Concat", kept, g.op("Cast", target, to=TensorProto.INT64), axis=0)
    empty = [g.constant(np.zeros(0)), g.constant(np.zeros(0))]
    return g.op(
        "Resize", x, *empty, sizes, mode="linear", coordinate_transformation_mode="pytorch_half_pixel",
        cubic_coeff_a=-0.75, nearest_mode="floor",
    )  # fmt: skip


def super_resolution() -> onnx.ModelProto:
    """Residual blocks scaled by a number between a space-to-depth stem and two pixel shuffles (EDSR)."""
    g = Exporter(18, 3)
    x = g.reshape("x", 1, 3, 32, 2, 32, 2)  # F.pixel_unshuffle
    x = g.reshape(g.transpose(x, 0, 1, 3, 5, 2, 4), 1, 12, 32, 32)
    first = x = g.conv(x, 12, 16, 3)
    for _ in range(2):
        y = g.conv(g.relu(g.conv(x, 16, 16, 3)), 16, 16, 3)
        x = g.op("Add", g.op("Mul", y, g.constant(0.5)), x)
    x = g.op("Add", g.conv(x, 16, 16, 3, gain=1.0), first)
    x = g.op("DepthToSpace", g.conv(x, 16, 64, 3, gain=1.0), blocksize=2, mode="CRD")
    x = g.conv(g.relu(x), 16, 12, 3)
    x = g.view(x, g.size(x, 0), 3, 2, 2, g.size(x, 2), g.size(x, 3))
    x = g.transpose(x, 0, 1, 4, 2, 5, 3)
    x = g.reshape(x, 1, 3, 128, 128)
    x = g.op("Add", g.op("Mul", x, g.constant(0.25)), g.constant(0.5))
    return g.model(("x", (1, 3, 64, 64)), ("image", (1, 3, 128, 128)), x)


def keypoints() -> onnx.ModelProto:
    """Heatmaps of a person's joints: shuffle units with h-swish, then ConvTranspose of four (paddle2onnx)."""
    g = Exporter(13, 4)

    def normalised(
        x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        return g.batch_norm(g.conv(x, inputs, outputs, kernel, stride, groups=groups, bias=False), outputs)

    def unit(x: str, channels: int) -> str:
        """A ShuffleNet-v2 unit: half of the channels pass by."""
        half = channels // 2
        left, right = g.split(x, 1, half, half)
        right = g.hard_swish(normalised(right, half, half))
        right = normalised(right, half, half, 3, groups=half)
        right = g.hard_swish(normalised(right, half, half))
        return _shuffle(g, g.op("Concat", left, right, axis=1), channels)

    x = g.hard_swish(normalised("x", 3, 16, 3, 2))
    x = g.max_pool(x, 3, 2, 1)
    for channels in (16, 32):
        x = unit(unit(x, channels), channels)
        x = normalised(x, channels, channels, 3, 2, groups=channels)
        x = g.hard_swish(normalised(x, channels, 2 * channels))
    for inputs in (64, 16):
        x = g.relu(g.batch_norm(g.conv_transpose(x, inputs, 16, 4, 2, 1), 16))
    return g.model(("x", (1, 3, 128, 96)), ("heatmaps", (1, 17, 32, 24)), g.conv(x, 16, 17, gain=1.0))


def _shuffle(g: Exporter, x: str, channels: int) -> str:
    """Channel shuffle of two groups with computed sizes."""
    height, width = g.size(x, 2), g.size(x, 3)
    x = g.transpose(g.view(x, -1, 2, channels // 2, height, width), 0, 2, 1, 3, 4)
    return g.view(x, -1, channels, height, width)
