"""What became of the user's nodes: none lost, none invented, each with what it is a part of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from ommatid.compiler.origins import Source, fates, stand_for
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import FATES, Program
from tests import networks
from tests.networks import attention, convolutional, dense


def given(model: onnx.ModelProto) -> list[str]:
    return sorted(node.name or node.output[0] for node in model.graph.node)


def fate(program: Program) -> dict[str, str]:
    return {node.name: node.fate for node in program.nodes}


@pytest.mark.parametrize(
    "made", [networks.convolution, networks.with_host_part, convolutional.yolo, attention.vit, dense.keypoints]
)  # fmt: skip
def test_no_node_is_lost_and_none_invented(made: object) -> None:
    model = made()  # type: ignore[operator]
    program = compile_model(model, method="minmax")
    assert sorted(node.name for node in program.nodes) == given(model)
    layers = {layer.name: set(layer.nodes) for layer in program.layers}
    host = {name for part in program.partitions if part.placement == "cpu" for name in part.nodes}
    for node in program.nodes:
        assert node.fate in FATES
        assert bool(node.layers) == (node.fate in ("executed", "fused")) and set(node.layers) <= layers.keys()
        if node.fate == "executed":
            assert all(node.name in layers[layer] for layer in node.layers)
    names = fate(program).keys()
    assert all(nodes and nodes <= names for nodes in layers.values()) and host <= names
    used = {n.name for n in program.nodes if n.op in ("Conv", "MatMul", "Gemm") and n.fate != "folded"}
    assert used == {n.name for n in program.nodes if n.op in ("Conv", "MatMul", "Gemm")}


def test_what_is_fused_folded_and_on_the_host() -> None:
    rng = np.random.default_rng(0)
    model = networks.model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="norm"),
            helper.make_node("Relu", ["n"], ["r"], name="relu"),
            helper.make_node("Identity", ["r"], ["i"], name="identity"),
            helper.make_node("Shape", ["i"], ["s"], name="shape"),
            helper.make_node("Sigmoid", ["i"], ["gate"], name="sigmoid"),
            helper.make_node("Mul", ["i", "gate"], ["silu"], name="gate"),
            helper.make_node("Celu", ["silu"], ["e"], name="celu"),
            helper.make_node("Reshape", ["e", "s"], ["y"], name="same"),
            helper.make_node("Neg", ["i"], ["nobody"], name="unread"),
        ],
        {"x": [1, 3, 8, 8]},
        {"y": [1, 4, 8, 8]},
        {
            "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
            **{name: (rng.random(4) + 0.5).astype(np.float32) for name in "gbmv"},
        },
    )
    program = compile_model(model)
    got = fate(program)
    assert got["conv"] == "executed" and got["norm"] == got["relu"] == "fused"
    assert got["shape"] == got["unread"] == "folded" and got["celu"] == "cpu"
    (layer,) = [layer for layer in program.layers if layer.name == "conv"]
    assert {"conv", "norm", "relu"} <= set(layer.nodes)


def test_regions_between_values_of_the_same_name() -> None:
    before = (
        Source("a", "Conv", ("x",), ("p",)),
        Source("b", "Add", ("p", "k"), ("q",)),
        Source("c", "Clip", ("q",), ("r",)),
        Source("d", "GroupNorm", ("r",), ("y",)),
    )
    after = (
        Source("a", "Conv", ("x",), ("r",)),
        Source("d__1", "Mul", ("r",), ("t",)),
        Source("d", "Add", ("t",), ("y",)),
    )
    stands = stand_for(before, after)
    assert stands["a"][0] == "a" and set(stands["a"]) == {"a", "b", "c"}
    assert stands["d__1"] == stands["d"] == ("d",)


def test_roundings_go_with_what_they_round() -> None:
    sources = (
        Source("q0", "QuantizeLinear", ("x",), ("xq",)),
        Source("d0", "DequantizeLinear", ("xq",), ("xd",)),
        Source("conv", "Conv", ("xd", "w"), ("c",)),
        Source("q1", "QuantizeLinear", ("c",), ("cq",)),
        Source("d1", "DequantizeLinear", ("cq",), ("y",)),
    )
    got = {node.name: (node.fate, node.layers) for node in fates(sources, [("conv", ("conv",))], [])}
    assert got["conv"] == ("executed", ("conv",))
    assert got["d0"] == got["q1"] == ("fused", ("conv",))
    assert got["q0"] == got["d1"] == ("cpu", ())
