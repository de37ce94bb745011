"""Options of onnxruntime sessions, under which a quantised model's numbers are those of the model on every machine."""

from __future__ import annotations

from typing import Any

import onnx


def exact_options(model: onnx.ModelProto) -> Any:
    """New ``SessionOptions`` for a model, silent but for errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # activations of 16 bits by int8 weights would be rounded to 8 bits on the way
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # the two exclude each other: the second would turn int8 weights of int8 activations into uint8
    if has_int8(model):  # else they would be computed in float32
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    else:  # sums of two products of uint8 by int8 would saturate at 16 bits on a CPU without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def has_int8(model: onnx.ModelProto) -> bool:
    """Whether there are activations of int8."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear" and len(n.input) > 2]
    return any(kinds.get(name) == onnx.TensorProto.INT8 for name in zeros)
