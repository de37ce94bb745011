"""Graphs as exporters write them: constants are nodes, sizes are computed, layers are spelled out.

Layers are in the spelling of torch.onnx, tf2onnx or paddle2onnx at the graph's opset. Weights are seeded, with a
variance that keeps that of the activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


class Exporter:
    """A graph in the making. Methods take and give names of values; each adds the nodes of one layer."""

    def __init__(self, opset: int, seed: int) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        name = f"/{kind}_{len(self.nodes)}"
        outputs = [f"{name}_output_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def ints(self, *values: int) -> str:
        """A Constant node of a vector of int64."""
        return self.constant(values, np.int64)

    def weight(self, array: Array) -> str:
        """A float32 initialiser."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def normal(self, *shape: int, deviation: float = 1.0, mean: float = 0.0) -> str:
        """An initialiser of normally distributed numbers."""
        return self.weight(mean + deviation * self.rng.standard_normal(shape))

    def model(
        self,
        x: tuple[str, Sequence[int]],
        y: tuple[str, Sequence[int]],
        value: str,
        dtype: int = TensorProto.FLOAT,
    ) -> onnx.ModelProto:
        """The model of an input and an output (name and shape of each); ``value`` becomes the output."""
        last = next(node for node in self.nodes if value in node.output)
        last.output[list(last.output).index(value)] = y[0]
        graph = helper.make_graph(
            self.nodes, "main", [helper.make_tensor_value_info(x[0], TensorProto.FLOAT, x[1])],
            [helper.make_tensor_value_info(y[0], dtype, y[1])], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=min(10, max(4, self.opset - 9)))

    # --- sizes ------------------------------------------------------------------------------------------------

    def size(self, x: str, axis: int) -> str:
        """``x.size(axis)`` in torch.onnx: Shape, Constant, Gather."""
        return self.op("Gather", self.op("Shape", x), self.constant(axis, np.int64), axis=0)

    def _along(self, kind: str, since: int, x: str, axes: tuple[int, ...], **attributes: Any) -> str:
        """An operator whose axes are an input from opset ``since`` on, an attribute before."""
        if self.opset >= since:
            return self.op(kind, x, self.ints(*axes), **attributes)
        return self.op(kind, x, axes=list(axes), **attributes)

    def unsqueeze(self, x: str, *axes: int) -> str:
        """Unsqueeze."""
        return self._along("Unsqueeze", 13, x, axes)

    def squeeze(self, x: str, *axes: int) -> str:
        """Squeeze."""
        return self._along("Squeeze", 13, x, axes)

    def view(self, x: str, *sizes: int | str) -> str:
        """``x.view(sizes)`` in torch.onnx: computed sizes are unsqueezed and concatenated with constants."""
        parts = [self.unsqueeze(s, 0) if isinstance(s, str) else self.ints(s) for s in sizes]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def reshape(self, x: str, *sizes: int) -> str:
        """Reshape to constant sizes."""
        return self.op("Reshape", x, self.ints(*sizes))

    def transpose(self, x: str, *perm: int) -> str:
        """Transpose."""
        return self.op("Transpose", x, perm=list(perm))

    def mean(self, x: str, *axes: int, keepdims: int = 1) -> str:
        """ReduceMean."""
        return self._along("ReduceMean", 18, x, axes, keepdims=keepdims)

    def split(self, x: str, axis: int, *sizes: int) -> list[str]:
        """Split, its sizes an attribute before opset 13."""
        if self.opset >= 13:
            return self.ops("Split", len(sizes), x, self.ints(*sizes), axis=axis)
        return self.ops("Split", len(sizes), x, axis=axis, split=list(sizes))

    def cut(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """Slice along one axis, its bounds attributes before opset 10."""
        if self.opset < 10:
            return self.op("Slice", x, axes=[axis], starts=[start], ends=[end])
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    # --- layers -----------------------------------------------------------------------------------------------

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1,
        dilation: int = 1, groups: int = 1, bias: bool = True, pad: int | None = None, gain: float = 2.0,
    ) -> str:  # fmt: skip
        """Conv with all attributes, as torch.onnx writes them; padded to keep the size unless ``pad`` is given."""
        fan_in = inputs // groups * kernel * kernel
        weights = self.normal(outputs, inputs // groups, kernel, kernel, deviation=math.sqrt(gain / fan_in))
        pad = dilation * (kernel - 1) // 2 if pad is None else pad
        return self.op(
            "Conv", x, weights, *([self.normal(outputs, deviation=0.1)] if bias else []), dilations=[dilation] * 2,
            group=groups, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def conv_transpose(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int, pad: int = 0
    ) -> str:
        """ConvTranspose."""
        deviation = math.sqrt(2 * stride**2 / (inputs * kernel**2))
        weights = self.normal(inputs, outputs, kernel, kernel, deviation=deviation)
        return self.op(
            "ConvTranspose", x, weights, self.normal(outputs, deviation=0.1), dilations=[1, 1], group=1,
            kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def batch_norm(self, x: str, channels: int, epsilon: float = 1e-5) -> str:
        """BatchNormalization of a trained network: scales around one, means and shifts around zero."""
        parts = [
            self.normal(channels, deviation=0.1, mean=1.0),
            self.normal(channels, deviation=0.1),
            self.normal(channels, deviation=0.1),
            self.weight(self.rng.uniform(0.7, 1.4, channels)),
        ]
        return self.op("BatchNormalization", x, *parts, epsilon=epsilon, momentum=0.9)

    def linear(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        """``nn.Linear`` of more than two dimensions: MatMul, then Add with the bias first."""
        product = self.op("MatMul", x, self.normal(inputs, outputs, deviation=math.sqrt(1 / inputs)))
        return self.op("Add", self.normal(outputs, deviation=0.1), product) if bias else product

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        """``nn.Linear`` of two dimensions."""
        weights = self.normal(outputs, inputs, deviation=math.sqrt(1 / inputs))
        return self.op("Gemm", x, weights, self.normal(outputs, deviation=0.1), alpha=1.0, beta=1.0, transB=1)

    def layer_norm(self, x: str, channels: int) -> str:
        """``nn.LayerNorm`` over the last axis: an operator from opset 17 on, nine nodes before."""
        scale, shift = self.normal(channels, deviation=0.2, mean=1.0), self.normal(channels, deviation=0.1)
        if self.opset >= 17:
            return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)
        centred = self.op("Sub", x, self.mean(x, -1))
        variance = self.mean(self.op("Pow", centred, self.constant(2.0)), -1)
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(1e-5)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, deviation), scale), shift)

    def layer_norm_2d(self, x: str, channels: int) -> str:
        """ConvNeXt's own LayerNorm over the channels of an image, ``weight[:, None, None] * x + bias[:, None, None]``."""
        scale, shift = self.normal(channels, deviation=0.2, mean=1.0), self.normal(channels, deviation=0.1)
        centred = self.op("Sub", x, self.mean(x, 1))
        variance = self.mean(self.op("Pow", centred, self.constant(2.0)), 1)
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(1e-6)))
        normal = self.op("Div", centred, deviation)
        spread = [self.unsqueeze(self.unsqueeze(v, 1), 2) for v in (scale, shift)]
        return self.op("Add", self.op("Mul", spread[0], normal), spread[1])

    def relu(self, x: str) -> str:
        """Relu."""
        return self.op("Relu", x)

    def silu(self, x: str) -> str:
        """``nn.SiLU``: Sigmoid and Mul."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def gelu(self, x: str) -> str:
        """``nn.GELU``: an operator from opset 20 on, five nodes before."""
        if self.opset >= 20:
            return self.op("Gelu", x, approximate="none")
        erf = self.op("Erf", self.op("Div", x, self.constant(math.sqrt(2))))
        product = self.op("Mul", x, self.op("Add", erf, self.constant(1.0)))
        return self.op("Mul", product, self.constant(0.5))

    def relu6(self, x: str) -> str:
        """Clip from 0 to 6, its limits attributes before opset 11."""
        if self.opset < 11:
            return self.op("Clip", x, min=0.0, max=6.0)
        return self.op("Clip", x, self.constant(0.0), self.constant(6.0))

    def hard_sigmoid(self, x: str) -> str:
        """``relu6(x + 3) / 6``."""
        return self.op("Div", self.relu6(self.op("Add", x, self.constant(3.0))), self.constant(6.0))

    def hard_swish(self, x: str) -> str:
        """``x * relu6(x + 3) / 6`` as paddle2onnx spells it."""
        clipped = self.relu6(self.op("Add", x, self.constant(3.0)))
        return self.op("Div", self.op("Mul", x, clipped), self.constant(6.0))

    def max_pool(self, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        """MaxPool."""
        return self.op("MaxPool", x, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2)
