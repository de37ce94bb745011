"""Weights are rounded as onnxruntime's quantiser does it alone: the same QDQ model, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from ommatid.compiler import qdq
from ommatid.compiler.model import import_model
from ommatid.compiler.qdq import to_qdq
from ommatid.compiler.ranges import Choice
from ommatid.compiler.recipe import Recipe
from tests import networks
from tests.networks import helper

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def with_extremes(weights: Array) -> Array:
    """One channel of zeros, one of numbers that float32 hardly holds, one with ties."""
    weights[0] = 0
    weights[1] *= np.float32(1e-38)
    weights[2] = np.resize(np.arange(-127, 128) / 2, weights[2].shape)
    return weights


NETWORKS: dict[str, tuple[list[Any], dict[str, Array], list[int]]] = {
    "conv": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "n")],
        {"w": with_extremes(normal(8, 3, 3, 3)), "b": normal(8)}, [1, 3, 6, 6],
    ),
    "without bias": ([helper.make_node("Conv", ["x", "w"], ["y"], "n")], {"w": normal(8, 3, 1, 1)}, [1, 3, 6, 6]),
    "large": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "n")],
        {"w": with_extremes(normal(4200, 3, 3, 3)), "b": normal(4200)}, [1, 3, 6, 6],
    ),
    "large, bias does not fit": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "n")],
        {"w": normal(4200, 3, 3, 3) * 1e-6, "b": normal(4200) * 1e6}, [1, 3, 6, 6],
    ),
    "depthwise": ([helper.make_node("Conv", ["x", "w"], ["y"], "n", group=3)], {"w": normal(3, 1, 3, 3)}, [1, 3, 6, 6]),
    "bias does not fit": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "n")],
        {"w": normal(8, 3, 3, 3) * 1e-6, "b": normal(8) * 1e6}, [1, 3, 6, 6],
    ),
    "transposed": (
        [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "n", strides=[2, 2])],
        {"w": normal(3, 5, 2, 2), "b": normal(5)}, [1, 3, 6, 6],
    ),
    "gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n")], {"w": normal(3, 5), "b": normal(5)}, [2, 3]),
    "gemm, transposed": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n", transB=1)], {"w": normal(5, 3), "b": normal(5)}, [2, 3],
    ),
    "matmul": ([helper.make_node("MatMul", ["x", "w"], ["y"], "n")], {"w": normal(3, 5)}, [2, 3]),
    "matmul of several": ([helper.make_node("MatMul", ["x", "w"], ["y"], "n")], {"w": normal(4, 3, 5)}, [4, 2, 3]),
    "one weight, two readers": (
        [helper.make_node("Conv", ["x", "w"], ["c"], "n"), helper.make_node("Conv", ["c", "w"], ["y"], "m")],
        {"w": normal(3, 3, 1, 1)}, [1, 3, 6, 6],
    ),
}  # fmt: skip


def parts(model: ir.Model) -> tuple[dict[str, Any], list[Any]]:
    """Constants by name, and nodes in an order of their own."""
    graph = ir.to_proto(model).graph
    constants = {t.name: (t.dims, numpy_helper.to_array(t).tobytes()) for t in graph.initializer}
    nodes = [
        (n.name, n.op_type, n.domain, list(n.input), list(n.output), sorted(a.SerializeToString() for a in n.attribute))
        for n in graph.node
    ]  # fmt: skip
    return constants, sorted(nodes)


@pytest.mark.parametrize("activations", ["uint8", "int16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_the_quantisers_own(
    name: str, activations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, constants, shape = NETWORKS[name]
    model = import_model(networks.model(nodes, {"x": shape}, {"y": None}, constants))
    choices = {value: Choice(-1.0, 2.5, "minmax", 0) for value in ("x", "c", "y")}
    seen: list[int] = []

    def looked_at(*args: Any) -> Any:
        made = qdq_round_weights(*args)
        seen.append(len(made))
        return made

    qdq_round_weights = qdq.round_weights
    monkeypatch.setattr(qdq, "round_weights", looked_at)
    ours = to_qdq(model, choices, Recipe(activations)).model()
    monkeypatch.setattr(qdq, "round_weights", lambda *_: [])
    assert parts(ours) == parts(to_qdq(model, choices, Recipe(activations)).model())
    assert seen == [0 if "two readers" in name or "does not fit" in name else 1]
