"""Options of onnxruntime sessions, under which a quantised model's numbers are those of the model on every machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ommatid.compiler.form import Form


def exact_options(model: onnx.ModelProto) -> Any:
    """New ``SessionOptions`` for a model, silent but for errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # activations of 16 bits by int8 weights would be rounded to 8 bits on the way
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # the two exclude each other: the second would turn int8 weights of int8 activations into uint8
    if _has_int8(model):  # else they would be computed in float32
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    else:  # sums of two products of uint8 by int8 would saturate at 16 bits on a CPU without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _has_int8(model: onnx.ModelProto) -> bool:
    """Whether there are activations of int8."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear" and len(n.input) > 2]
    return any(kinds.get(name) == onnx.TensorProto.INT8 for name in zeros)


def unsigned(form: Form) -> Form:
    """The same numbers with large weights of int8 as uint8, which onnxruntime makes of them, in ten times as long.

    Where activations have int8, all stays as it is.
    """
    if _has_int8(form.proto):
        return form
    proto, weights = onnx.ModelProto(), dict(form.weights)
    proto.CopyFrom(form.proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    uses = Counter(name for node in proto.graph.node for name in node.input)
    for node in proto.graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" and len(node.input) == 3 else ""
        codes = weights.get(name)
        if codes is None or codes.dtype != np.int8 or uses[name] > 1:
            continue
        zero = node.input[2]
        points = weights[zero] if zero in weights else numpy_helper.to_array(tensors[zero])
        weights[name] = codes.view(np.uint8) ^ 0x80
        tensors[name].data_type = onnx.TensorProto.UINT8
        node.input[2] = f"{name}__zero"
        proto.graph.initializer.append(numpy_helper.from_array(points.view(np.uint8) ^ 0x80, node.input[2]))
    return Form(proto, weights)
