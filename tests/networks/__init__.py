"""Small ONNX models for tests of the upper parts, built by keyword."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def model(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, Array] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of float inputs and outputs (name: shape)."""

    def infos(table: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in table.items()]

    weights = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The model at the version that onnxruntime takes."""
    proto = ir.to_proto(model)
    proto.ir_version = min(proto.ir_version, 10)
    return proto


def convolution(batch: Any = 1, size: int = 8) -> onnx.ModelProto:
    """x [batch, 3, size, size] -> Conv 3x3 -> Relu -> Conv 1x1 -> y [batch, 5, size, size]."""
    generator = np.random.default_rng(1)
    constants = {
        "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "b": generator.standard_normal(8).astype(np.float32),
        "v": generator.standard_normal((5, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "second"),
    ]
    made = model(nodes, {"x": [batch, 3, size, size]}, {"y": [batch, 5, size, size]}, constants)
    helper.set_model_props(made, {"alphabet": "abc\ndef"})
    return made


def with_host_part() -> onnx.ModelProto:
    """As ``convolution``, with an operator between the convolutions that the NPU does not have."""
    made = convolution()
    made.graph.node[1].CopyFrom(helper.make_node("Celu", ["c"], ["r"], "celu"))
    return made


def inputs(seed: int = 0, batch: int = 1, size: int = 8) -> dict[str, Array]:
    """Feeds for ``convolution``."""
    generator = np.random.default_rng(seed)
    return {"x": generator.standard_normal((batch, 3, size, size)).astype(np.float32)}


def resizable() -> onnx.ModelProto:
    """x [n, 3, h, w] -> Conv 3x3 stride 2 -> Relu -> Conv 3x3 -> y [n, 5, h/2, w/2], all of these dynamic."""
    generator = np.random.default_rng(1)
    constants = {
        "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": generator.standard_normal((5, 8, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    return model(nodes, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 5, "g", "u"]}, constants)


def reader() -> onnx.ModelProto:
    """x [1, 1, 8, w] -> Conv stride 2, stride 4 by 2 -> a sequence -> MatMul -> y [1, w/4, 7], as readers of text are."""
    generator = np.random.default_rng(2)
    constants = {
        "w": generator.standard_normal((8, 1, 3, 3)).astype(np.float32),
        "v": generator.standard_normal((16, 8, 4, 3)).astype(np.float32),
        "m": generator.standard_normal((16, 7)).astype(np.float32),
        "axis": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["d"], "second", pads=[0, 1, 0, 1], strides=[4, 2]),
        helper.make_node("Squeeze", ["d", "axis"], ["s"], "squeeze"),
        helper.make_node("Transpose", ["s"], ["t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "m"], ["y"], "project"),
    ]
    return model(nodes, {"x": [1, 1, 8, "w"]}, {"y": [1, "t", 7]}, constants)
