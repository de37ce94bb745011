"""The host's arithmetic is ONNX's, by onnxruntime's own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ommatid.isa.program import Quantization, Tensor
from ommatid.runtime.host import dequantize, quantize, to_memory, to_onnx


def onnxruntimes(op: str, values: np.ndarray[Any, Any], q: Quantization) -> Any:
    kinds = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
    ends = (
        (TensorProto.FLOAT, kinds[q.dtype]) if op == "QuantizeLinear" else (kinds[q.dtype], TensorProto.FLOAT)
    )
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "s", "z"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", ends[0], [None])],
        [helper.make_tensor_value_info("y", ends[1], [None])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [q.scale]),
            helper.make_tensor("z", kinds[q.dtype], [], [q.zero_point]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["int8", "uint8"]), st.floats(1e-6, 1e3), st.integers(0, 255), st.integers(0, 2**32 - 1)
)
def test_quantize_and_dequantize(dtype: str, scale: float, zero: int, seed: int) -> None:
    zero_point = zero if dtype == "uint8" else zero - 128
    q = Quantization(float(np.float32(scale)), zero_point, dtype)
    generator = np.random.default_rng(seed)
    ties = (generator.integers(-600, 600, 500) / 2 * np.float32(scale)).astype(np.float32)
    limits = np.array([np.nan, np.inf, -np.inf], np.float32)
    values = np.concatenate([ties, (generator.standard_normal(500) * 100 * scale).astype(np.float32), limits])
    codes = quantize(values, q)
    assert np.array_equal(codes, onnxruntimes("QuantizeLinear", values, q))
    assert np.array_equal(dequantize(codes, q), onnxruntimes("DequantizeLinear", codes, q))


@pytest.mark.parametrize(
    ("onnx_shape", "order"),
    [((2, 3, 4, 5), (0, 2, 3, 1)), ((2, 3), (0, 1)), ((2, 3, 4), (0, 2, 1)), ((), ())],
)
def test_layouts(onnx_shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    back = tuple(int(i) for i in np.argsort(order))
    memory_shape = tuple(onnx_shape[d] for d in order)
    tensor = Tensor("t", memory_shape, Quantization(1.0, 0, "uint8"), onnx_shape, back)
    array = np.arange(int(np.prod(onnx_shape)), dtype=np.uint8).reshape(onnx_shape)
    memory = to_memory(array, tensor)
    assert memory.shape == memory_shape and np.array_equal(memory, array.transpose(order))
    assert np.array_equal(to_onnx(memory, tensor), array)
