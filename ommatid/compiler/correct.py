"""What quantisation does to single convolutions, measured: where equalised channels help, and what shifts outputs.

Rounded weights shift a convolution's outputs by their error times the mean of what they read; the bias takes that
back: bias correction (Nagel et al. 2019, section 4.2), with means of activations that were observed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.attributes import ints
from ommatid.compiler.equalize import (
    Pair,
    group,
    numbers,
    read_by,
    rounded_weights,
    set_constant,
    weights_of,
)
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.observe import Observed
from ommatid.compiler.ranges import fake_quantized

Array = np.ndarray[Any, Any]

#: So many positions of a convolution's output along each axis judge whether equalised channels help it.
WINDOW = 8


def window(x: Array, conv: ir.Node) -> Array:
    """As much of the middle of what a convolution reads (N, C, ...) as is judged by."""
    reaches = [
        WINDOW + (size - 1) * dilation
        for size, dilation in zip(
            weights_of(conv).shape[2:], ints(conv, "dilations", [1] * (x.ndim - 2)), strict=True
        )
    ]
    begins = [max(size - reach, 0) // 2 for size, reach in zip(x.shape[2:], reaches, strict=True)]
    return x[:, :, *(slice(b, b + reach) for b, reach in zip(begins, reaches, strict=True))]


def helps(pair: Pair, gain: Array, seen: Observed, x: Array) -> bool:
    """Whether gains bring the second convolution of ``x``, rounded, nearer to what it computes in float."""
    convolve, weights = convolution(pair.second), weights_of(pair.second)
    exact, noise = convolve(x, weights), []
    for by in (np.ones_like(gain), gain):
        by = by.astype(np.float32)
        divided = x / by.reshape(1, -1, *[1] * (x.ndim - 2))
        low, high = (seen.channel_low / by).min(), (seen.channel_high / by).max()
        read = weights * read_by(by, pair.second)
        error = convolve(fake_quantized(divided, float(low), float(high)), rounded_weights(read)) - exact
        noise.append(float(np.square(error, dtype=np.float64).sum()))
    return noise[1] < noise[0]


def shift(conv: ir.Node, seen: Observed) -> Array:
    """By output channel, the mean of what rounding its weights adds to a convolution (float64).

    Padding at the edges counts as if it had the channel's mean.
    """
    weights = weights_of(conv)
    error = (rounded_weights(weights) - weights).reshape(*weights.shape[:2], -1).sum(axis=2, dtype=np.float64)
    by_group = error.reshape(group(conv), -1, error.shape[1]) * seen.channel_mean.reshape(group(conv), 1, -1)
    return np.asarray(by_group.sum(axis=2).reshape(-1))


def correct_bias(model: ir.Model, conv: ir.Node, by_channel: Array) -> None:
    """Take a shift back in a convolution's bias."""
    has = len(conv.inputs) > 2 and conv.inputs[2] is not None
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    set_constant(model, conv, 2, (numbers(conv.inputs[2]) if has else 0) - by_channel)


def convolution(node: ir.Node) -> Callable[[Array, Array], Array]:
    """The node's convolution without bias, as a function of input and weights, in onnxruntime."""
    import onnxruntime

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(["x", "w"])
    proto.output.append("y")
    graph = helper.make_graph(
        [proto], "one", [helper.make_tensor_value_info(name, kind, None) for name in "xw"],
        [helper.make_tensor_value_info("y", kind, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), exact_options(model), providers=["CPUExecutionProvider"]
    )
    return lambda x, w: session.run(None, {"x": x.astype(np.float32), "w": w.astype(np.float32)})[0]
