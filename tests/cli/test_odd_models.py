"""Odd but valid models compile, and run as onnxruntime runs their quantised form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.pipeline import compile_model
from ommatid.runtime.session import InferenceSession
from tests import networks

SHAPE = [1, 4, 4, 4]


def concat_chain() -> onnx.ModelProto:
    """300 Concats, each adding one channel to the last."""
    nodes = [
        helper.make_node(
            "Concat", [f"c{i}" if i else "x", "z"], [f"c{i + 1}" if i < 299 else "y"], f"cat{i}", axis=1
        )
        for i in range(300)
    ]
    return networks.model(nodes, {"x": SHAPE, "z": [1, 1, 4, 4]}, {"y": [1, 304, 4, 4]})


def duplicate_names() -> onnx.ModelProto:
    """Every node has the same name, or none."""
    made = networks.convolution()
    for node, name in zip(made.graph.node, ("same", "same", ""), strict=True):
        node.name = name
    return made


def unused_input() -> onnx.ModelProto:
    """One input that no node reads."""
    made = networks.convolution()
    made.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2, 2]))
    return made


def scalars() -> onnx.ModelProto:
    """A scalar constant, a scalar input and a scalar output."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["d"], "double"),
        helper.make_node("Add", ["d", "s"], ["y"], "shift"),
        helper.make_node("Mul", ["s", "two"], ["t"], "scalar"),
    ]
    return networks.model(
        nodes, {"x": SHAPE, "s": []}, {"y": SHAPE, "t": []}, {"two": np.array(2, np.float32)}
    )


def other_domain() -> onnx.ModelProto:
    """An operator of onnxruntime's own domain: on the host."""
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["g"], "gelu", domain="com.microsoft"),
        helper.make_node("Relu", ["g"], ["y"], "relu"),
    ]
    return networks.model(nodes, {"x": SHAPE}, {"y": SHAPE})


def feeds(model: onnx.ModelProto, seed: int) -> dict[str, Any]:
    """Random inputs of the model's shapes."""
    generator = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "make",
    [concat_chain, duplicate_names, unused_input, scalars, other_domain],
)
def test_odd_models(make: Any, tmp_path: Path) -> None:
    model = make()
    onnx.checker.check_model(model)
    qdq = tmp_path / "qdq.onnx"
    program = compile_model(model, calibration=[feeds(model, s) for s in range(3)], save_qdq=str(qdq))
    if make is other_domain:
        assert any("com.microsoft" in reason for p in program.partitions for reason in p.reasons)
    given = feeds(model, 9)
    ours = InferenceSession(program).run(None, given)
    options = exact_options(onnx.load(qdq))
    reference = onnxruntime.InferenceSession(str(qdq), options, providers=["CPUExecutionProvider"])
    theirs = reference.run(None, {i.name: given[i.name] for i in reference.get_inputs()})
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1.01 / 255 * max(np.ptp(b), 4.0)
