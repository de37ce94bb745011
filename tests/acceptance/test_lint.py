"""The lint on three of the twelve networks, picked by seed: silent as they are; what is planted is found, and named."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.front import FrontOptions, find_plan
from ommatid.compiler.model import import_model
from ommatid.compiler.plan import Plan
from ommatid.compiler.recipe import Recipe, TensorRecipe
from tests.acceptance.test_equal_to_onnxruntime import grouped
from tests.acceptance.test_networks import feeds
from tests.networks.architectures import ARCHITECTURES

SEED = 7
PICKED = sorted(np.random.default_rng(SEED).choice(sorted(ARCHITECTURES), 3, replace=False).tolist())
TIMES = 1000.0


@functools.cache
def source(name: str) -> onnx.ModelProto:
    return ARCHITECTURES[name]()


def plan(name: str, model: onnx.ModelProto, **options: Any) -> Plan:
    made = find_plan(model, FrontOptions(calibration=feeds(source(name), 2), **options))
    assert made is not None
    return made


def picked(name: str, operators: tuple[str, ...], model: onnx.ModelProto) -> onnx.NodeProto:
    """A node of these operators."""
    nodes = [node for node in model.graph.node if node.op_type in operators]
    return nodes[int(np.random.default_rng([SEED, *name.encode()]).integers(len(nodes)))]


def assert_found(made: Plan, rule: str, node: str) -> dict[str, float]:
    """The figures of what is found, which is this alone."""
    assert [(f.rule, f.node) for f in made.findings] == [(rule, node)]
    print(f"{node}: {rule}, {made.findings[0].figures}: {made.findings[0].remedy}")
    assert made.findings[0].remedy and all(np.isfinite(v) for v in made.findings[0].figures.values())
    return made.findings[0].figures


@pytest.mark.parametrize("name", grouped(PICKED))
def test_silent_on_a_healthy_network(name: str) -> None:
    assert plan(name, source(name)).findings == ()


@pytest.mark.parametrize("name", grouped(PICKED))
def test_a_branch_that_dies_in_a_concat(name: str) -> None:
    """The branch is joined with itself a thousand times as large, and both are read so that the result is the same."""
    model = onnx.ModelProto.FromString(source(name).SerializeToString())
    conv = picked(name, ("Conv",), model)
    output, small = conv.output[0], "small"
    weights = next(i for i in model.graph.initializer if i.name == conv.input[1])
    same = np.eye(weights.dims[0], dtype=np.float32)[:, :, None, None]
    constants = {"times": np.float32(TIMES), "reading": np.concatenate([same / 2, same / 2 / TIMES], axis=1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    conv.output[0] = small
    place = list(model.graph.node).index(conv) + 1
    for node in reversed((
        helper.make_node("Mul", [small, "times"], ["large"], "enlarge"),
        helper.make_node("Concat", [small, "large"], ["joined"], "join", axis=1),
        helper.make_node("Conv", ["joined", "reading"], [output], "read"),
    )):  # fmt: skip
        model.graph.node.insert(place, node)
    figures = assert_found(plan(name, model, method="minmax"), "dying-branch", "join")
    assert figures["branch_low"] < figures["branch_high"] < 3 * figures["shared_step"]
    assert figures["shared_high"] > 100 * figures["branch_high"]


@pytest.mark.parametrize("name", grouped(PICKED))
def test_a_saturating_tensor(name: str) -> None:
    """Its range is a tenth of its values'."""
    node = picked(name, ("Conv", "Gemm", "MatMul"), ir.to_proto(canonicalize(import_model(source(name)))))
    choice = plan(name, source(name), method="minmax").choices[node.output[0]]
    small = TensorRecipe("minmax", choice.low / 10, choice.high / 10)
    made = plan(name, source(name), method="minmax", recipe=Recipe(tensors={node.output[0]: small}))
    figures = assert_found(made, "saturating", node.name)
    assert figures["range_high"] == choice.high / 10 and 0.02 < figures["clamped_share"] < 1


@pytest.mark.parametrize("name", grouped(PICKED))
def test_a_dead_channel(name: str) -> None:
    model = onnx.ModelProto.FromString(source(name).SerializeToString())
    conv = picked(name, ("Conv",), model)
    weights = next(i for i in model.graph.initializer if i.name == conv.input[1])
    array = numpy_helper.to_array(weights).copy()
    array[3] = 0
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    figures = assert_found(plan(name, model, method="minmax"), "dead-channels", conv.name)
    assert figures["channels"] == 1 and figures["first"] == 3
