"""Normalisations: cut where they do not fit whole, of several axes, with statistics, with a variance of 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import Program
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from ommatid.runtime.session import InferenceSession
from tests import networks
from tests.compiler.canonical import run


def model(shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    size = shape[attributes.get("axis", -1) :]
    constants = {name: rng.standard_normal(size).astype(np.float32) for name in "sb"}
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], "norm", **attributes)
    return networks.model([node], {"x": shape}, {"y": shape}, constants)


def program_of(made: onnx.ModelProto, x: np.ndarray[Any, Any], path: Path | None = None) -> Program:
    return compile_model(made, "ommatid-256", calibration=[{"x": x}], save_qdq=str(path) if path else None)


def test_tokens_are_cut_where_they_do_not_fit(tmp_path: Path) -> None:
    shape = (1, 3000, 256)  # 768,000 bytes; the chip has 393,216
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    program = program_of(model(shape), x, tmp_path / "qdq.onnx")
    assert verify(program) == []
    norms = view(program.instructions, "norm")[program.instructions["opcode"] == BY_MNEMONIC["norm"].opcode]
    assert len(norms) >= 8 and norms["w"].sum() == 3000 and set(norms["h"].tolist()) == {1}
    reports = layerwise(program, onnx.load(tmp_path / "qdq.onnx"), [{"x": x}])
    assert [r.max_steps <= 1 and r.evidence for r in reports] == [True]


def test_pixels_of_equal_channels_become_the_shift(tmp_path: Path) -> None:
    x = np.repeat(np.linspace(-1, 1, 50, dtype=np.float32)[:, None], 8, axis=1)
    program = program_of(model(x.shape, epsilon=0.0), x + np.arange(8, dtype=np.float32) / 100)
    assert (view(program.instructions, "norm")["epsilon"][program.instructions["opcode"] == 15] > 0).all()
    assert verify(program) == []


def test_more_than_four_dimensions(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 33)).astype(np.float32)
    program = program_of(model(x.shape), x, tmp_path / "qdq.onnx")
    assert [p.placement for p in program.partitions] == ["npu"] and verify(program) == []
    reports = layerwise(program, onnx.load(tmp_path / "qdq.onnx"), [{"x": x}])
    assert reports and all(r.max_steps <= 1 for r in reports)


def test_several_axes_and_statistics(tmp_path: Path) -> None:
    made = model((3, 4, 5), axis=1)
    made.graph.node[0].output.extend(["mean", "inverse"])
    for name in ("mean", "inverse"):
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, 1, 1)))
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    program = program_of(made, x, tmp_path / "qdq.onnx")
    assert [p.placement for p in program.partitions] == ["npu"] and verify(program) == []
    reports = layerwise(program, onnx.load(tmp_path / "qdq.onnx"), [{"x": x}])
    assert reports and all(r.max_steps <= 1 for r in reports)
    real = run(made, {"x": x})
    for ours, theirs in zip(InferenceSession(program).run(None, {"x": x}), real, strict=True):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()


def test_statistics_of_a_quantised_graph_are_refused(tmp_path: Path) -> None:
    """There every rounding must happen, and what is between is not ours to choose."""
    x = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
    program_of(model(x.shape), x, tmp_path / "qdq.onnx")
    quantised = onnx.load(tmp_path / "qdq.onnx")
    norm = next(node for node in quantised.graph.node if node.op_type == "LayerNormalization")
    norm.output.append("mean")
    quantised.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, (1, 5, 1)))
    program = compile_model(quantised, "ommatid-256")
    assert "only its first output is computed" in "".join(r for p in program.partitions for r in p.reasons)


def test_all_layers_of_tokens_are_cut_where_they_do_not_fit(tmp_path: Path) -> None:
    rng, shape = np.random.default_rng(0), (1, 2500, 192)  # 480,000 bytes; twice as many between the products
    constants = {
        "s": np.ones(192),
        "b": np.zeros(192),
        "w": rng.normal(0, 0.07, (192, 384)),
        "v": rng.normal(0, 0.05, (384, 192)),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "b"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["p"], "wide"),
        helper.make_node("Gelu", ["p"], ["g"], "gelu"),
        helper.make_node("MatMul", ["g", "v"], ["q"], "narrow"),
        helper.make_node("Add", ["q", "x"], ["a"], "add"),
        helper.make_node("Mul", ["a", "a"], ["y"], "mul"),
    ]
    weights = {name: value.astype(np.float32) for name, value in constants.items()}
    made = networks.model(nodes, {"x": shape}, {"y": shape}, weights, 20)
    x = rng.standard_normal(shape).astype(np.float32)
    program = program_of(made, x, tmp_path / "qdq.onnx")
    assert verify(program) == [] and [p.placement for p in program.partitions] == ["npu"]
    reports = layerwise(program, onnx.load(tmp_path / "qdq.onnx"), [{"x": x}])
    assert all(r.equal == 1 if r.exact else r.max_steps <= 1 for r in reports)
    assert [r.name[0] for r in reports if r.evidence] == ["n", "y"]  # of gelu too many are 0
