"""Canonicalisation: onnxruntime computes the same floats before and after, and a rewrite fires where it may."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import import_model
from tests import networks

Array = np.ndarray[Any, Any]
X = [1, 4, 6, 6]


def constants() -> dict[str, Array]:
    """Weights, biases and parameters of four channels, by name."""
    rng = np.random.default_rng(0)
    table = {name: rng.standard_normal(shape) for name, shape in {
        "w": (4, 4, 3, 3), "wt": (4, 4, 2, 2), "dw": (4, 1, 3, 3), "b": (4,), "gamma": (4,), "beta": (4,), "mean": (4,),
        "channel": (1, 4, 1, 1), "channel3": (4, 1, 1), "row": (1, 1, 6, 1), "last": (6,), "gamma2": (4,),
    }.items()}  # fmt: skip
    table |= {name: rng.uniform(0.5, 2, (4,)) for name in ("variance", "variance2")}
    numbers = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "half": 0.5, "four": 4.0}
    return {name: np.asarray(v, np.float32) for name, v in (table | numbers).items()}


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(
        op, [i if i != "-" else "" for i in inputs.split()], [output], f"{op} {output}", **attributes
    )


def bn(source: str, output: str, **attributes: Any) -> Any:
    return node("BatchNormalization", f"{source} gamma beta mean variance", output, **attributes)


def run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def canonical(
    nodes: list[Any],
    inputs: dict[str, list[int]] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> list[str]:
    """The operators after canonicalisation, in order; the floats of all outputs are compared."""
    shapes = inputs or {"x": X}
    used = {name for n in nodes for name in n.input}
    table = {name: array for name, array in constants().items() if name in used}
    made = networks.model(nodes, shapes, dict.fromkeys(outputs), table, opset)
    rng = np.random.default_rng(1)
    feeds = {name: (2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    model = canonicalize(import_model(made))
    proto = ir.to_proto(model)
    assert [o.name for o in proto.graph.output] == list(outputs)
    for ours, theirs in zip(run(proto, feeds), run(made, feeds), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    names = [n.name for n in model.graph]
    assert len(set(names)) == len(names) and all(names)
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("before", [
    node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
    node("Conv", "x w b", "c", strides=[2, 2]),
    node("Conv", "x dw b", "c", group=4),
    node("ConvTranspose", "x wt", "c", strides=[2, 2]),
    node("ConvTranspose", "x wt b", "c"),
], ids=["padded", "bias", "depthwise", "transposed", "transposed bias"])  # fmt: skip
@pytest.mark.parametrize("after", [
    [bn("c", "y")],
    [bn("c", "y", epsilon=0.1)],
    [node("Mul", "c channel", "y")],
    [node("Add", "channel3 c", "y")],
    [node("Mul", "half c", "y")],
    [node("Add", "c three", "y")],
    [bn("c", "n"), node("Mul", "n channel", "m"), node("Add", "m channel", "y")],
], ids=["bn", "epsilon", "mul", "add", "scalar mul", "scalar add", "chain"])  # fmt: skip
def test_an_affine_function_goes_into_the_convolution(before: Any, after: list[Any]) -> None:
    assert canonical([before, *after]) == [before.op_type]


def test_normalisations_become_one() -> None:
    assert canonical([bn("x", "n"), bn("n", "m"), node("Mul", "m channel", "y")]) == ["BatchNormalization"]


@pytest.mark.parametrize("after, left", [
    ([node("Mul", "c row", "y")], ["Conv", "Mul"]),
    ([node("Add", "c last", "y")], ["Conv", "Add"]),
    ([node("Mul", "c gate", "y")], ["Conv", "Mul"]),
    ([bn("c", "y"), node("Relu", "c", "z")], ["Conv", "BatchNormalization", "Relu"]),
    ([node("Relu", "c", "r"), bn("r", "y")], ["Conv", "Relu", "BatchNormalization"]),
], ids=["by row", "by column", "not constant", "read twice", "not linear"])  # fmt: skip
def test_what_stays_behind_a_convolution(after: list[Any], left: list[str]) -> None:
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), *after]
    names = {name for n in nodes for name in n.input}
    shapes = {"x": X} | ({"gate": [1, 4, 1, 1]} if "gate" in names else {})
    assert canonical(nodes, shapes, ("y", "z") if "Relu" in left[2:] else ("y",)) == left


def test_an_output_of_the_network_stays() -> None:
    nodes = [node("Conv", "x w", "c"), bn("c", "y")]
    assert canonical(nodes, outputs=("c", "y")) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("after", [bn("c", "y"), node("Mul", "c channel", "y")])
def test_a_computed_bias_stays(after: Any) -> None:
    nodes = [node("Conv", "x w bias", "c"), after]
    assert canonical(nodes, {"x": X, "bias": [4]}) == ["Conv", after.op_type]


@pytest.mark.parametrize(
    "group, weights, left", [(1, "w", ["Conv"]), (4, "dw", ["BatchNormalization", "Conv"])]
)
@pytest.mark.parametrize("bias", ["", " b"])
def test_a_normalisation_before_a_convolution(group: int, weights: str, left: list[str], bias: str) -> None:
    assert canonical([bn("x", "n"), node("Conv", f"n {weights}{bias}", "y", group=group)]) == left


@pytest.mark.parametrize(
    "attributes", [{"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 0, 1]}, {"auto_pad": "SAME_UPPER"}]
)
def test_not_before_a_padded_convolution(attributes: dict[str, Any]) -> None:
    """Padding is zero after the normalisation, not before it."""
    assert canonical([bn("x", "n"), node("Conv", "n w", "y", **attributes)]) == ["BatchNormalization", "Conv"]


def test_not_before_a_computed_bias_or_other_readers() -> None:
    assert (
        canonical([bn("x", "n"), node("Conv", "n w bias", "y")], {"x": X, "bias": [4]})[0]
        == "BatchNormalization"
    )
    both = canonical([bn("x", "n"), node("Conv", "n w", "y"), node("Relu", "n", "z")], outputs=("y", "z"))
    assert Counter(both) == Counter(["BatchNormalization", "Conv", "Relu"])


@pytest.mark.parametrize("last", [("Div", "p six"), ("Mul", "p sixth"), ("Mul", "sixth p")])
@pytest.mark.parametrize("product", ["x k", "k x"])
def test_hard_swish(last: tuple[str, str], product: str) -> None:
    nodes = [
        node("Add", "x three", "s"),
        node("Clip", "s zero six", "k"),
        node("Mul", product, "p"),
        node(*last, "y"),
    ]
    assert canonical(nodes) == ["HardSwish"]


@pytest.mark.parametrize("change", [
    {0: node("Add", "x four", "s")}, {1: node("Clip", "s zero four", "k")}, {1: node("Clip", "s - six", "k")},
    {2: node("Mul", "s k", "p")}, {3: node("Div", "p four", "y")},
])  # fmt: skip
def test_not_quite_hard_swish(change: dict[int, Any]) -> None:
    nodes = [
        node("Add", "x three", "s"),
        node("Clip", "s zero six", "k"),
        node("Mul", "x k", "p"),
        node("Div", "p six", "y"),
    ]
    for at, other in change.items():
        nodes[at] = other
    assert canonical(nodes) == ["Add", "Clip", "Mul", "Mul"]


def test_hard_swish_behind_a_convolution() -> None:
    """The shift by three belongs to h-swish, not to the bias."""
    nodes = [node("Conv", "x w", "c"), node("Add", "c three", "s"), node("Clip", "s zero six", "k"),
             node("Mul", "c k", "p"), node("Div", "p six", "y")]  # fmt: skip
    assert canonical(nodes) == ["Conv", "HardSwish"]


def test_a_gated_residual_is_one_product() -> None:
    for product, total in (("x gate", "x p"), ("gate x", "p x")):
        nodes = [node("Mul", product, "p"), node("Add", total, "y")]
        assert canonical(nodes, {"x": X, "gate": [1, 4, 1, 1]}) == ["Add", "Mul"]
        assert canonical(nodes, {"x": X, "gate": X}) == ["Mul", "Add"]
    assert canonical([node("Mul", "x x", "p"), node("Add", "x p", "y")]) == ["Mul", "Add"]


def test_sum_is_a_chain_of_adds() -> None:
    shapes = {"x": X, "z": [1, 4, 1, 1], "u": X}
    assert canonical([node("Sum", "x z u", "y")], shapes) == ["Add", "Add"]
    assert canonical([node("Sum", "x z", "y")], {"x": X, "z": [6]}) == ["Add"]
    assert canonical([node("Sum", "x", "y")]) == ["Identity"]


@pytest.mark.parametrize("attributes, op", [
    ({}, "GlobalAveragePool"),
    ({"strides": [3, 2], "ceil_mode": 1}, "GlobalAveragePool"),
    ({"auto_pad": "VALID"}, "GlobalAveragePool"),
    ({"auto_pad": "SAME_UPPER"}, "AveragePool"),
    ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, "AveragePool"),
    ({"pads": [0, 0, 1, 0]}, "AveragePool"),
    ({"kernel_shape": [6, 5]}, "AveragePool"),
])  # fmt: skip
def test_average_over_the_image(attributes: dict[str, Any], op: str) -> None:
    assert canonical([node("AveragePool", "x", "y", **({"kernel_shape": [6, 6]} | attributes))]) == [op]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 16])
def test_old_models_are_raised(opset: int) -> None:
    clip = node("Clip", "r zero six", "k") if opset >= 11 else node("Clip", "r", "k", min=0.0, max=6.0)
    nodes = [node("Conv", "x w", "c"), bn("c", "n"), node("Relu", "n", "r"), clip,
             node("MaxPool", "k", "m", kernel_shape=[2, 2]), node("Flatten", "m", "y")]  # fmt: skip
    assert canonical(nodes, opset=opset) == ["Conv", "Relu", "Clip", "MaxPool", "Flatten"]


def test_large_weights_and_metadata_come_through_the_converter() -> None:
    made = networks.model(
        [node("Conv", "x big", "y")], {"x": X}, {"y": None},
        {"big": np.random.default_rng(0).standard_normal((64, 4, 3, 3)).astype(np.float32)}, 9,
    )  # fmt: skip
    helper.set_model_props(made, {"alphabet": "abc"})
    model = canonicalize(import_model(made))
    assert model.graph.opset_imports[""] == 17 and model.metadata_props == {"alphabet": "abc"}
    assert [v.name for v in model.graph.inputs] == ["x"]
    feeds = networks.inputs(size=6) | {"x": np.ones(X, np.float32)}
    np.testing.assert_allclose(run(ir.to_proto(model), feeds)[0], run(made, feeds)[0], rtol=1e-4, atol=1e-4)


def test_an_attribute_that_the_operator_does_not_have_is_an_error() -> None:
    made = networks.model(
        [node("Upsample", "x", "y", scales=[1.0, 1.0, 2.0, 2.0])], {"x": X}, {"y": None}, opset=7
    )
    made.graph.node[0].attribute[0].name = "scale"
    with pytest.raises(CompileError, match="Unrecognized attribute: scale"):
        canonicalize(import_model(made))


def test_operators_of_other_domains_stay_as_they_are() -> None:
    """Whatever their name says."""
    model = networks.model([node("Sum", "x x", "y", domain="custom")], {"x": X}, {"y": X})
    model.opset_import.append(helper.make_opsetid("custom", 1))
    assert [n.op_type for n in canonicalize(import_model(model)).graph] == ["Sum"]
    model.graph.node[0].domain = ""
    assert [n.op_type for n in canonicalize(import_model(model)).graph] == ["Add"]
