"""Partitions: as few as the order allows, each with its reasons, and a part that runs by itself in onnxruntime."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.front import FrontOptions, build_network, check_nodes
from ommatid.compiler.layers import Network
from ommatid.runtime.compile import compile_model
from ommatid.runtime.session import InferenceSession
from tests import networks

X = [1, 4, 4, 4]


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return networks.helper.make_node(op, inputs.split(), [output], f"{op} {output}", **attributes)


def network(nodes: list[Any], outputs: str = "y", **constants: Any) -> Network:
    made = networks.model(nodes, {"x": X}, dict.fromkeys(outputs.split()), constants)
    return build_network(made, FrontOptions())


def placements(made: Network) -> list[str]:
    return ["cpu" if stage.cpu else "npu" for stage in made.stages]


def test_one_partition_where_the_npu_takes_all() -> None:
    assert placements(network([node("Relu", "x", "a"), node("MaxPool", "a", "y", kernel_shape=[2, 2])])) == [
        "npu"
    ]


def test_branches_share_their_cpu_partition() -> None:
    """Two branches, each NPU, CPU, NPU: three partitions, not five."""
    nodes = [node("Sigmoid", "x", "a"), node("Celu", "a", "b"), node("Tanh", "b", "c"),
             node("MaxPool", "x", "d", kernel_shape=[1, 1]), node("Celu", "d", "e"), node("Sigmoid", "e", "f"),
             node("Add", "c f", "y")]  # fmt: skip
    made = network(nodes)
    assert placements(made) == ["npu", "cpu", "npu"]
    cpu = made.stages[1].cpu
    assert cpu is not None and {"Celu b", "Celu e"} <= set(cpu.nodes)


def test_the_cpu_begins_where_that_saves_a_partition() -> None:
    nodes = [node("Tanh", "x", "a"), node("Celu", "x", "b"), node("Tanh", "b", "c"), node("Add", "a c", "y")]
    assert placements(network(nodes)) == ["cpu", "npu"]


def test_nodes_that_nobody_needs_are_left_out() -> None:
    nodes = [node("Relu", "x", "y"), node("Celu", "x", "unused")]
    assert placements(network(nodes)) == ["npu"]


def test_a_model_of_the_cpu_alone() -> None:
    made = network([node("Celu", "x", "a"), node("Celu", "a", "y")])
    assert placements(made) == ["cpu"] and not made.fed


@pytest.mark.parametrize("nodes, name, reason", [
    ([node("Celu", "x", "y")], "Celu y", "no rule for operator Celu"),
    ([node("Relu", "x", "a"), node("Celu", "a", "y")], "Celu y", "no rule for operator Celu"),
    ([node("Conv", "x x", "y")], "Conv y", "weights"),
    ([node("Celu", "x", "a"), node("Reshape", "a shape", "y")], "Celu a", "no rule for operator Celu"),
], ids=["input", "output", "weights", "mover"])  # fmt: skip
def test_reasons(nodes: list[Any], name: str, reason: str) -> None:
    made = network(nodes, shape=np.array([1, 64])) if "shape" in nodes[-1].input else network(nodes)
    (cpu,) = [stage.cpu for stage in made.stages if stage.cpu]
    assert len(cpu.nodes) == len(cpu.reasons)
    assert reason in dict(zip(cpu.nodes, cpu.reasons, strict=True))[name]


def test_check_says_why() -> None:
    verdicts = {v.name: v for v in check_nodes(networks.with_host_part(), FrontOptions())[0]}
    assert {name: v.placement for name, v in verdicts.items()} == {
        "first": "npu",
        "celu": "cpu",
        "second": "npu",
    }
    assert verdicts["celu"].rule == "no rule for operator Celu"
    assert verdicts["celu"].hint.startswith("cut the graph before it with --outputs ")


def test_a_partition_runs_by_itself() -> None:
    made = build_network(networks.with_host_part(), FrontOptions())
    (cpu,) = [stage.cpu for stage in made.stages if stage.cpu]
    model = onnx.load_from_string(cpu.model)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(cpu.model, providers=["CPUExecutionProvider"])
    assert tuple(i.name for i in session.get_inputs()) == cpu.inputs
    assert tuple(o.name for o in session.get_outputs()) == cpu.outputs
    given, result = made.tensors[cpu.inputs[0]], made.tensors[cpu.outputs[0]]
    codes = np.arange(np.prod(given.onnx_shape), dtype=np.uint8).reshape(given.onnx_shape)
    (found,) = session.run(None, {cpu.inputs[0]: codes})
    real = given.quantization.scale * (codes.astype(float) - given.quantization.zero_point)
    celu = np.maximum(real, 0) + np.minimum(0, np.expm1(np.minimum(real, 0)))
    steps = celu / result.quantization.scale + result.quantization.zero_point
    assert np.abs(found - np.clip(steps, 0, 255)).max() <= 0.51 and len(np.unique(found)) > 30


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[str, list[int]]], list[Any]]:
    """(operator, inputs) of each node, 0 being x; every node's result is summed or read."""
    shape = [
        (draw(st.sampled_from(["Tanh", "Sigmoid", "Celu"])), [draw(st.integers(0, k))])
        for k in range(draw(st.integers(1, 5)))
    ]
    read = {i for _, inputs in shape for i in inputs}
    ends = [k + 1 for k in range(len(shape)) if k + 1 not in read]
    nodes = [node(op, f"t{inputs[0]}" if inputs[0] else "x", f"t{k + 1}", **({"kernel_shape": [1, 1]} if op == "MaxPool" else {}))
             for k, (op, inputs) in enumerate(shape)]  # fmt: skip
    return shape, [*nodes, ends]


def fewest(shape: list[tuple[str, list[int]]]) -> int:
    """The fewest runs of one kind over all orders of the nodes, by trying them all."""
    best = len(shape)
    for order in permutations(range(len(shape))):
        place = {k + 1: at for at, k in enumerate(order)}
        if all(i == 0 or place[i] < place[k + 1] for k, (_, inputs) in enumerate(shape) for i in inputs):
            kinds = [shape[k][0] == "Celu" for k in order]
            best = min(best, 1 + sum(a != b for a, b in pairwise(kinds)))
    return best


@settings(deadline=None, max_examples=15)
@given(graphs())
def test_as_few_partitions_as_the_order_allows(graph: tuple[list[tuple[str, list[int]]], list[Any]]) -> None:
    shape, (*nodes, ends) = graph
    made = network(nodes, " ".join(f"t{end}" for end in ends))
    assert len(made.stages) == fewest(shape)


def test_the_host_computes_a_real_value_that_a_layer_rounds() -> None:
    """A QDQ model reads what Relu gives both rounded and not: the NPU has only the codes of it."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,4,6] x) => (float[1,4,6] y, float[1,4,6] z) '
        "<float s = {0.02}, uint8 o = {128}, int64 axis = {2}> "
        "{ q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o) r = Relu(d) z = CumSum(r, axis) "
        "rq = QuantizeLinear(r, s, o) y = DequantizeLinear(rq, s, o) }"
    )
    x = np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)
    session = InferenceSession(model)
    assert "npu" in [p.placement for p in session.program.partitions]
    theirs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for ours, expected in zip(session.run(None, {"x": x}), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("computed", [False, True])
def test_an_output_that_is_constant_needs_no_host(computed: bool) -> None:
    """``cpu=False`` refuses nodes that compute on the host, and there are none."""
    nodes = [node("Identity", "k", "c")]
    nodes += [node("Relu", "x", "y")] if computed else []
    outputs = {"c": [2, 3]} | ({"y": [1, 3, 8, 8]} if computed else {})
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = networks.model(nodes, {"x": [1, 3, 8, 8]}, outputs, {"k": values})
    program = compile_model(made, cpu=False, method="minmax")
    results = InferenceSession(program).run(["c"], {"x": np.ones((1, 3, 8, 8), np.float32)})
    assert np.array_equal(results[0], values)
