"""Pooling made of plainer pooling: the same numbers, and on the NPU within a step of onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ommatid.compiler.pipeline import compile_model
from ommatid.profiler.compare import layerwise
from tests import networks
from tests.compiler.canonical import canonical, nodes_of, operators

VOLUME: dict[str, Any] = {"x": [2, 3, 7, 6, 5]}
IMAGE: dict[str, Any] = {"x": [1, 3, 7, 9]}
IN_TWO = "Reshape {0} Reshape {0} Reshape"


@pytest.mark.parametrize("text, shapes, result", [
    ("y = MaxPool <kernel_shape=[3, 2, 3]> (x)", VOLUME, IN_TWO.format("MaxPool")),
    ("y = MaxPool <kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[1, 1, 0, 0, 2, 1]> (x)", VOLUME, IN_TWO.format("MaxPool")),
    ("y = MaxPool <kernel_shape=[3, 3, 2], dilations=[2, 1, 3], strides=[2, 2, 1], ceil_mode=1> (x)", VOLUME,
     IN_TWO.format("MaxPool")),
    ("y = MaxPool <kernel_shape=[2, 3, 2], strides=[2, 2, 3], auto_pad=\"SAME_UPPER\"> (x)", VOLUME, IN_TWO.format("MaxPool")),
    ("y = MaxPool <kernel_shape=[2, 3, 2], strides=[2, 2, 3], auto_pad=\"SAME_LOWER\"> (x)", VOLUME, IN_TWO.format("MaxPool")),
    ("y = AveragePool <kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[1, 1, 0, 0, 2, 1]> (x)", VOLUME,
     IN_TWO.format("AveragePool")),
    ("y = AveragePool <kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 2, 1], count_include_pad=1> (x)", VOLUME,
     IN_TWO.format("AveragePool")),
    ("y = AveragePool <kernel_shape=[3, 3, 2], strides=[3, 2, 2], pads=[1, 1, 0, 0, 2, 1], count_include_pad=1, ceil_mode=1> (x)",
     VOLUME, "Pad " + IN_TWO.format("AveragePool")),
    ("y = AveragePool <kernel_shape=[3, 2], strides=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1, ceil_mode=1> (x)", IMAGE,
     "Pad AveragePool"),
    ("y = AveragePool <kernel_shape=[3, 2], strides=[3, 2], count_include_pad=1, ceil_mode=1> (x)", IMAGE, "AveragePool"),
    ("y = AveragePool <kernel_shape=[3, 2], strides=[3, 2], ceil_mode=1> (x)", IMAGE, "AveragePool"),
    ("y = MaxPool <kernel_shape=[3, 2], ceil_mode=1> (x)", IMAGE, "MaxPool"),
])  # fmt: skip
def test_pools(text: str, shapes: dict[str, Any], result: str) -> None:
    """``canonical`` asserts equal numbers."""
    assert operators(canonical(text, shapes)) == result.split()


def test_indices_that_are_read_keep_a_volume_whole() -> None:
    model = networks.model(nodes_of("y, z = MaxPool <kernel_shape=[2, 2, 2]> (x)"), VOLUME, {"y": None})
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT64, None))
    x = np.random.default_rng(0).standard_normal(VOLUME["x"]).astype(np.float32)
    program = compile_model(model, "ommatid-256", calibration=[{"x": x}])
    assert [p.placement for p in program.partitions] == ["cpu"]


@pytest.mark.parametrize("op, exact", [("MaxPool", True), ("AveragePool", False)])
def test_volumes_on_the_npu(op: str, exact: bool, tmp_path: Any) -> None:
    text = f"y = {op} <kernel_shape=[3, 2, 3], strides=[1, 2, 1], pads=[1, 0, 1, 1, 0, 1]> (x)"
    model = networks.model(nodes_of(text), VOLUME, {"y": None})
    x = np.random.default_rng(0).standard_normal(VOLUME["x"]).astype(np.float32)
    program = compile_model(
        model, "ommatid-256", calibration=[{"x": x}], cpu=False, save_qdq=str(tmp_path / "q")
    )
    reports = layerwise(program, onnx.load(tmp_path / "q"), [{"x": x}])
    assert reports and all(r.max_steps <= (0 if exact else 1) for r in reports)
