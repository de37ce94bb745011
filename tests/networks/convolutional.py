"""Networks of convolutions that classify or detect."""

from __future__ import annotations

import numpy as np
import onnx

from tests.networks.exporter import Exporter


def yolo() -> onnx.ModelProto:
    """YOLOv8: C2f blocks of SiLU, SPPF, a pyramid with Resize, three heads, DFL by Softmax and boxes decoded."""
    g = Exporter(12, 11)
    classes, bins, image = 4, 8, 128

    def block(x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        return g.silu(g.conv(x, inputs, outputs, kernel, stride, gain=3.0))

    def c2f(x: str, inputs: int, outputs: int, residual: bool = True) -> str:
        half = outputs // 2
        parts = g.split(block(x, inputs, outputs), 1, half, half)
        inner = block(block(parts[-1], half, half, 3), half, half, 3)
        parts.append(g.op("Add", parts[-1], inner) if residual else inner)
        return block(g.op("Concat", *parts, axis=1), 3 * half, outputs)

    def sppf(x: str, channels: int) -> str:
        parts = [block(x, channels, channels // 2)]
        for _ in range(3):
            parts.append(g.max_pool(parts[-1], 5, 1, 2))
        return block(g.op("Concat", *parts, axis=1), 2 * channels, channels)

    def double(x: str) -> str:
        scales = g.constant([1, 1, 2, 2])
        return g.op(
            "Resize", x, g.constant(np.zeros(0)), scales, mode="nearest",
            coordinate_transformation_mode="asymmetric", cubic_coeff_a=-0.75, nearest_mode="floor",
        )  # fmt: skip

    x = block(block("images", 3, 8, 3, 2), 8, 16, 3, 2)
    small = c2f(block(c2f(x, 16, 16), 16, 16, 3, 2), 16, 16)
    middle = c2f(block(small, 16, 32, 3, 2), 32, 32)
    large = sppf(c2f(block(middle, 32, 32, 3, 2), 32, 32), 32)
    up = c2f(g.op("Concat", double(large), middle, axis=1), 64, 32, False)
    first = c2f(g.op("Concat", double(up), small, axis=1), 48, 16, False)
    second = c2f(g.op("Concat", block(first, 16, 16, 3, 2), up, axis=1), 48, 32, False)
    third = c2f(g.op("Concat", block(second, 32, 32, 3, 2), large, axis=1), 64, 32, False)
    heads = []
    for x, channels in ((first, 16), (second, 32), (third, 32)):
        boxes = g.conv(block(block(x, channels, 16, 3), 16, 16, 3), 16, 4 * bins)
        scores = g.conv(block(block(x, channels, 16, 3), 16, 16, 3), 16, classes)
        heads.append(g.view(g.op("Concat", boxes, scores, axis=1), g.size(x, 0), 4 * bins + classes, -1))
    boxes, scores = g.split(g.op("Concat", *heads, axis=2), 1, 4 * bins, classes)
    sides = [image // stride for stride in (8, 16, 32)]
    found = g.op("Concat", _decoded(g, boxes, bins, sides), g.op("Sigmoid", scores), axis=1)
    shape = (1, 4 + classes, sum(side**2 for side in sides))
    return g.model(("images", (1, 3, image, image)), ("output0", shape), found)


def _decoded(g: Exporter, boxes: str, bins: int, sides: list[int]) -> str:
    """Centres and sizes in pixels of the distances whose distributions the heads give."""
    total = sum(s * s for s in sides)
    x = g.transpose(g.reshape(boxes, 1, 4, bins, total), 0, 3, 1, 2)
    x = g.transpose(g.op("Softmax", x, axis=3), 0, 3, 2, 1)  # torch moves the axis to the end before opset 13
    expectation = g.weight(np.arange(bins).reshape(1, bins, 1, 1))
    x = g.op(
        "Conv", x, expectation, dilations=[1, 1], group=1, kernel_shape=[1, 1], pads=[0] * 4, strides=[1, 1]
    )
    x = g.reshape(x, 1, 4, total)
    near, far = g.cut(x, 1, 0, 2), g.cut(x, 1, 2, 4)
    grids = [np.stack(np.meshgrid(np.arange(s) + 0.5, np.arange(s) + 0.5)).reshape(2, -1) for s in sides]
    anchors = np.concatenate(grids, axis=1)[None]
    strides = np.concatenate([np.full(s * s, 8 * sides[0] / s) for s in sides])[None]
    top, bottom = g.op("Sub", g.constant(anchors), near), g.op("Add", g.constant(anchors), far)
    centre = g.op("Div", g.op("Add", top, bottom), g.constant(2.0))
    return g.op("Mul", g.op("Concat", centre, g.op("Sub", bottom, top), axis=1), g.constant(strides))


def convnext() -> onnx.ModelProto:
    """ConvNeXt: depthwise 7x7, LayerNorm over channels in both layouts, MatMul, GELU, layer scale."""
    g = Exporter(16, 12)
    x = g.layer_norm_2d(g.conv("x", 3, 16, 4, 4, pad=0, gain=1.0), 16)
    for stage, channels in enumerate((16, 32)):
        if stage:
            x = g.conv(g.layer_norm_2d(x, 16), 16, channels, 2, 2, pad=0, gain=1.0)
        for _ in range(2):
            y = g.transpose(g.conv(x, channels, channels, 7, groups=channels, gain=1.0), 0, 2, 3, 1)
            y = g.linear(g.layer_norm(y, channels), channels, 4 * channels)
            y = g.linear(g.gelu(y), 4 * channels, channels)
            y = g.op("Mul", g.normal(channels, deviation=0.2, mean=0.8), y)
            x = g.op("Add", x, g.transpose(y, 0, 3, 1, 2))
    x = g.layer_norm(g.mean(x, -2, -1, keepdims=0), 32)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), g.gemm(x, 32, 10))


def efficientnet() -> onnx.ModelProto:
    """EfficientNet of Keras by tf2onnx: NHWC at the border, ZeroPadding2D, BatchNormalization, swish, squeeze-excite."""
    g = Exporter(13, 13)

    def normalised(x: str, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> str:
        return g.batch_norm(g.conv(x, inputs, outputs, kernel, groups=groups, bias=False), outputs, 1e-3)

    def strided(x: str, inputs: int, outputs: int, kernel: int, groups: int = 1) -> str:
        near, far = (kernel - 1) // 2 - (kernel == 3), kernel // 2
        pads = g.ints(0, 0, near, near, 0, 0, far, far)
        x = g.op("Pad", x, pads, g.constant(0.0), mode="constant")
        x = g.conv(x, inputs, outputs, kernel, 2, groups=groups, bias=False, pad=0)
        return g.batch_norm(x, outputs, 1e-3)

    def excite(x: str, channels: int) -> str:
        pooled = g.reshape(g.squeeze(g.op("GlobalAveragePool", x), 2, 3), -1, 1, 1, channels)
        y = g.conv(g.transpose(pooled, 0, 3, 1, 2), channels, 4)
        return g.op("Mul", x, g.op("Sigmoid", g.conv(g.silu(y), 4, channels)))

    def inverted(x: str, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> str:
        wide = inputs * expand
        y = g.silu(normalised(x, inputs, wide)) if expand > 1 else x
        apart = strided if stride == 2 else normalised
        y = excite(g.silu(apart(y, wide, wide, kernel, groups=wide)), wide)
        y = normalised(y, wide, outputs)
        return g.op("Add", y, x) if stride == 1 and inputs == outputs else y

    x = g.op("Mul", "x", g.constant(1 / 255))  # Rescaling and Normalization
    x = g.op("Sub", x, g.constant(np.array([0.485, 0.456, 0.406]).reshape(1, 1, 1, 3)))
    x = g.op("Div", x, g.constant(np.array([0.229, 0.224, 0.225]).reshape(1, 1, 1, 3)))
    x = g.silu(strided(g.transpose(x, 0, 3, 1, 2), 3, 8, 3))
    x = inverted(x, 8, 8, 3, 1, 1)
    x = inverted(inverted(x, 8, 16, 3, 2, 4), 16, 16, 3, 1, 4)
    x = inverted(inverted(x, 16, 24, 5, 2, 4), 24, 24, 5, 1, 4)
    x = g.silu(normalised(x, 24, 64))
    x = g.squeeze(g.op("GlobalAveragePool", x), 2, 3)
    x = g.op("Add", g.op("MatMul", x, g.normal(64, 10, deviation=0.4)), g.normal(10, deviation=0.1))
    return g.model(("x", (1, 64, 64, 3)), ("probabilities", (1, 10)), g.op("Softmax", x, axis=-1))


def repvgg() -> onnx.ModelProto:
    """RepVGG as it is trained: 3x3, 1x1 and identity, each with its normalisation, are added."""
    g = Exporter(9, 14)

    def block(x: str, inputs: int, outputs: int, stride: int) -> str:
        big = g.batch_norm(g.conv(x, inputs, outputs, 3, stride, bias=False, gain=1.0), outputs)
        small = g.batch_norm(g.conv(x, inputs, outputs, 1, stride, bias=False, gain=1.0), outputs)
        both = g.op("Add", big, small)
        if stride == 1 and inputs == outputs:
            both = g.op("Add", both, g.batch_norm(x, inputs))
        return g.relu(both)

    x = block("x", 3, 8, 2)
    for inputs, outputs in ((8, 16), (16, 32)):
        x = block(block(x, inputs, outputs, 2), outputs, outputs, 1)
    x = g.op("GlobalAveragePool", x)
    x = g.gemm(g.view(x, g.size(x, 0), -1), 32, 10)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), x)


def ghostnet() -> onnx.ModelProto:
    """GhostNet: half of the channels are cheap depthwise functions of the others; squeeze-excite by hard sigmoid."""
    g = Exporter(10, 15)

    def normalised(
        x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        return g.batch_norm(g.conv(x, inputs, outputs, kernel, stride, groups=groups, bias=False), outputs)

    def ghost(x: str, inputs: int, outputs: int, active: bool = True) -> str:
        half = -(-outputs // 2)
        first = normalised(x, inputs, half)
        first = g.relu(first) if active else first
        cheap = normalised(first, half, half, 3, groups=half)
        cheap = g.relu(cheap) if active else cheap
        return g.cut(g.op("Concat", first, cheap, axis=1), 1, 0, outputs)

    def excite(x: str, channels: int) -> str:
        y = g.relu(g.conv(g.op("GlobalAveragePool", x), channels, 4))
        return g.op("Mul", x, g.hard_sigmoid(g.conv(y, 4, channels)))

    def bottleneck(x: str, inputs: int, wide: int, outputs: int, stride: int, excited: bool) -> str:
        y = ghost(x, inputs, wide)
        y = normalised(y, wide, wide, 3, 2, groups=wide) if stride == 2 else y
        y = ghost(excite(y, wide) if excited else y, wide, outputs, False)
        if stride == 1 and inputs == outputs:
            return g.op("Add", y, x)
        short = normalised(x, inputs, inputs, 3, stride, groups=inputs)
        return g.op("Add", y, normalised(short, inputs, outputs))

    x = g.relu(normalised("x", 3, 8, 3, 2))
    x = bottleneck(x, 8, 16, 8, 1, False)
    x = bottleneck(x, 8, 24, 15, 2, True)
    x = bottleneck(x, 15, 36, 15, 1, True)
    x = g.relu(normalised(x, 15, 48))
    x = g.relu(g.conv(g.op("GlobalAveragePool", x), 48, 32))
    x = g.gemm(g.view(x, g.size(x, 0), -1), 32, 10)
    return g.model(("x", (1, 3, 64, 64)), ("logits", (1, 10)), x)
