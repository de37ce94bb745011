"""Options of onnxruntime sessions: sums of the largest products are what they are, with or without VNNI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ommatid.compiler.exact_session import exact_options

CHANNELS = 64


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_large_products_do_not_saturate(kind: type, tmp_path: Path) -> None:
    """All codes are the greatest: what is summed in pairs would not fit into 16 bits. They are multiplied as codes."""
    total = CHANNELS * 255 * 127
    scale = np.float32(total / 200)
    constants = {
        "one": np.float32(1), "zero": kind(np.iinfo(kind).min), "scale": scale,
        "codes": np.full((8, CHANNELS, 1, 1), 127, np.int8), "ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["codes", "ones", "zeros"], ["weights"], axis=0),
        helper.make_node("Conv", ["real", "weights"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "scale", "zero"], ["sums_q"]),
        helper.make_node("DequantizeLinear", ["sums_q", "scale", "zero"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 5, 5])
        for name, channels in (("x", CHANNELS), ("y", 8))
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "large", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = exact_options(model)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert "QLinearConv" in {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    (found,) = session.run(None, {"x": np.full((1, CHANNELS, 5, 5), 255, np.float32)})
    np.testing.assert_array_equal(found, np.full((1, 8, 5, 5), 200 * scale))
