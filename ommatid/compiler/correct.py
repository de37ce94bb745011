"""What quantisation does to single convolutions, measured: where equalised channels help, and what shifts outputs.

Rounded weights shift a convolution's outputs by their error times the mean of what they read; the bias takes that
back: bias correction (Nagel et al. 2019, section 4.2), with means of activations that were observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.equalize import (
    Pair,
    gains,
    group,
    numbers,
    read_by,
    rounded_weights,
    set_constant,
)
from ommatid.compiler.observe import Observed, runner
from ommatid.compiler.ranges import fake_quantized

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


def helpful_gains(
    model: ir.Model, found: Sequence[Pair], observed: Mapping[str, Observed], samples: Iterable[Feeds],
    judged: bool = True,
) -> dict[str, Array]:  # fmt: skip
    """Gains of those pairs whose second convolution has a smaller error with them (of all if not ``judged``), by its
    name."""
    wanted = [(pair, gains(pair, observed[pair.read])) for pair in found]
    wanted = [(pair, gain) for pair, gain in wanted if (gain < 1).any()]
    run = runner(proto_of(model), [pair.read for pair, _ in wanted])
    noise = np.zeros((len(wanted), 2))  # before and after
    convolve = [convolution(pair.second) for pair, _ in wanted]
    for feeds in samples:
        tensors = run(feeds)
        for i, (pair, gain) in enumerate(wanted):
            seen, x, w = observed[pair.read], tensors[pair.read], numbers(pair.second.inputs[1])
            by_channel = gain.astype(np.float32).reshape(1, -1, *[1] * (x.ndim - 2))
            for way, (a, b) in enumerate(((x, w), (x / by_channel, w * read_by(gain, pair.second)))):
                low, high = seen.channel_low / gain**way, seen.channel_high / gain**way
                rounded = fake_quantized(a, float(low.min()), float(high.max()))
                error = convolve[i](rounded, rounded_weights(b)) - convolve[i](a, b)
                noise[i, way] += float((error.astype(np.float64) ** 2).sum())
    return {
        pair.second.name or "": gain
        for (pair, gain), (before, after) in zip(wanted, noise, strict=True)
        if after < before or not judged
    }


def shift(conv: ir.Node, seen: Observed) -> Array:
    """By output channel, the mean of what rounding its weights adds to a convolution (float64).

    Padding at the edges counts as if it had the channel's mean.
    """
    weights = numbers(conv.inputs[1])
    error = (rounded_weights(weights) - weights).reshape(*weights.shape[:2], -1).sum(axis=2)
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x, w: session.run(None, {"x": x.astype(np.float32), "w": w.astype(np.float32)})[0]


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The model in the form and at the version that onnxruntime takes."""
    proto = ir.to_proto(model)
    proto.ir_version = min(proto.ir_version, 10)
    return proto
