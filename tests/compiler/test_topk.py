"""ArgMax, ArgMin and TopK: onnxruntime's values and indices on the same quantised inputs, equal ones included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program
from ommatid.isa.target import load_target
from ommatid.isa.verifier import verify
from ommatid.runtime.session import InferenceSession
from tests import networks

Array = np.ndarray[Any, Any]
TINY = dataclasses.replace(load_target("ommatid-256"), name="tiny", sram_kib=32, accumulator_kib=4)
SHAPES = st.sampled_from(
    [(1, 5, 9, 7), (2, 3, 4, 5), (1, 300, 4), (3, 17), (40,), (1, 21, 64, 64), (2, 2, 3, 2, 7)]
)


def compiled(
    nodes: list[Any], shape: tuple[int, ...], outputs: dict[str, int], folder: Path, constants: Any = None,
    target: Any = "ommatid-1k", activations: str = "uint8",
) -> tuple[Program, list[Array], list[Array]]:  # fmt: skip
    """The program of nodes that read x, its outputs and those of onnxruntime on the quantised model."""
    model = networks.model(nodes, {"x": shape}, {}, constants)
    for name, kind in outputs.items():
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = np.rint(x * 8) / 8  # many equal numbers
    path = folder / "qdq.onnx"
    program = compile_model(
        model, target, calibration=[{"x": x}], save_qdq=str(path), activations=activations
    )
    assert verify(program) == []
    theirs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return program, InferenceSession(program).run(None, {"x": x}), theirs


def same(ours: list[Array], theirs: list[Array]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
        for a, b in zip(ours, theirs, strict=True)
    )


def chip(data: Any, shape: tuple[int, ...], axis: int) -> Any:
    """A chip on which the input must be cut, if its channels need no transposition, which would not fit."""
    fits = np.prod(shape) < 8000 or axis % len(shape) == 1
    return data.draw(st.sampled_from(["ommatid-1k", TINY] if fits else ["ommatid-1k"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return Path(tmp_path_factory.mktemp("topk"))


random = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@random
@given(SHAPES, st.data(), st.sampled_from(["ArgMax", "ArgMin"]), st.integers(0, 1), st.integers(0, 1))
def test_arg(folder: Path, shape: Any, data: Any, kind: str, keepdims: int, last: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    node = helper.make_node(kind, ["x"], ["y"], "arg", axis=axis, keepdims=keepdims, select_last_index=last)
    target, activations = chip(data, shape, axis), data.draw(st.sampled_from(["uint8", "int8"]))
    program, ours, theirs = compiled(
        [node], shape, {"y": TensorProto.INT64}, folder, None, target, activations
    )
    assert [p.placement for p in program.partitions] == ["npu"] and same(ours, theirs)


@random
@given(SHAPES, st.data(), st.integers(0, 1), st.sampled_from(["v", "i", "vi"]))
def test_top_k(folder: Path, shape: Any, data: Any, largest: int, outputs: str) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    k = data.draw(st.integers(1, shape[axis]))
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], "top", axis=axis, largest=largest)
    kinds = {"v": TensorProto.FLOAT, "i": TensorProto.INT64}
    target, activations = chip(data, shape, axis), data.draw(st.sampled_from(["uint8", "int8"]))
    program, ours, theirs = compiled(
        [node],
        shape,
        {name: kinds[name] for name in outputs},
        folder,
        {"k": np.array([k])},
        target,
        activations,
    )
    assert [p.placement for p in program.partitions] == ["npu"] and same(ours, theirs)


def test_indices_are_reshaped_and_turned(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("TopK", ["r", "k"], ["v", "i"], "top", axis=1),
        helper.make_node("Transpose", ["i"], ["t"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["i", "shape"], ["f"], "flat"),
        helper.make_node("Cast", ["f"], ["c"], "cast", to=TensorProto.INT32),
        helper.make_node("Sigmoid", ["v"], ["s"], "sigmoid"),
    ]
    constants = {"k": np.array([4]), "shape": np.array([1, -1])}
    outputs = {"t": TensorProto.INT64, "c": TensorProto.INT32, "s": TensorProto.FLOAT}
    program, ours, theirs = compiled(nodes, (1, 9, 5, 6), outputs, tmp_path, constants)
    assert [p.placement for p in program.partitions] == ["npu"]
    assert same(ours[:2], theirs[:2])
    assert np.abs(ours[2] - theirs[2]).max() <= 1.01 / 256


@pytest.mark.parametrize("reader, reason", [
    (helper.make_node("Mul", ["i", "i"], ["y"], "square"), "its indices are computed with, by Mul 'square'"),
    (helper.make_node("Cast", ["i"], ["y"], "cast", to=TensorProto.INT64), None),
    (helper.make_node("Gather", ["w", "i"], ["y"], "rows"), "its indices are computed with, by Gather 'rows'"),
])  # fmt: skip
def test_indices_that_are_computed_with_come_from_the_host(
    tmp_path: Path, reader: Any, reason: str | None
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("ArgMax", ["r"], ["i"], "arg", axis=1),
        reader,
    ]
    kind = TensorProto.FLOAT if reader.op_type == "Gather" else TensorProto.INT64
    constants = {"w": np.arange(10, dtype=np.float32)[:, None]} if reader.op_type == "Gather" else None
    program, ours, theirs = compiled(nodes, (1, 9, 5, 6), {"y": kind}, tmp_path, constants)
    reasons = "".join(r for p in program.partitions for r in p.reasons)
    assert (reason in reasons if reason else reasons == "") and same(ours, theirs)
