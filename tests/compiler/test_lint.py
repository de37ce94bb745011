"""The lint: silent on healthy networks; finds what is planted in networks picked by seed, and names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ommatid.compiler.front import FrontOptions, check_nodes
from ommatid.compiler.lint import Finding
from ommatid.compiler.recipe import Recipe, TensorRecipe
from tests import networks
from tests.networks import helper

Array = np.ndarray[Any, Any]
SEEDS = (1, 2, 3)


def network(seed: int) -> onnx.ModelProto:
    """A detector in small: a trunk of convolutions, a branch of boxes and one of scores, joined by Concat.

    Widths, depth and weights are by seed; weights have He's variance, boxes reach tens, scores 0 to 1 times a gain.
    """
    generator = np.random.default_rng(seed)
    channels, nodes, constants = 3, [], {}
    value = "x"
    for i in range(int(generator.integers(2, 5))):
        width = int(generator.integers(6, 20))
        constants[f"w{i}"] = generator.standard_normal((width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        constants[f"b{i}"] = 0.05 * generator.standard_normal(width)
        nodes += [
            helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"),
        ]
        value, channels = f"r{i}", width
    for name, width in (("boxes", 4), ("scores", 5)):
        constants[f"w_{name}"] = generator.standard_normal((width, channels, 1, 1)) / np.sqrt(channels)
        nodes.append(helper.make_node("Conv", [value, f"w_{name}"], [name], f"conv_{name}"))
    nodes += [
        helper.make_node("Sigmoid", ["scores"], ["likely"], "likely"),
        helper.make_node("Concat", ["boxes", "likely"], ["joined"], "join", axis=1),
        helper.make_node("GlobalAveragePool", ["joined"], ["y"], "mean"),
    ]
    made = {name: array.astype(np.float32) for name, array in constants.items()}
    return networks.model(nodes, {"x": [1, 3, 16, 16]}, {"y": None}, made)


def changed(model: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    """The model with one constant changed in place by a function."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return copy
    raise KeyError(name)


def found(model: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[Finding, ...]:
    samples = [networks.inputs(seed, size=16) for seed in range(4)]
    return check_nodes(model, FrontOptions(calibration=samples, recipe=recipe))[1]


def only(findings: tuple[Finding, ...], rule: str, node: str) -> dict[str, float]:
    """The figures of the only finding, which is this."""
    assert [(f.rule, f.node) for f in findings] == [(rule, node)]
    assert findings[0].remedy and all(np.isfinite(v) for v in findings[0].figures.values())
    return findings[0].figures


@pytest.mark.parametrize("seed", SEEDS)
def test_silent_on_a_healthy_network(seed: int) -> None:
    assert found(network(seed)) == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_branch_that_dies_in_a_concat(seed: int) -> None:
    def enlarge(weights: Array) -> None:
        weights *= 200

    figures = only(found(changed(network(seed), "w_boxes", enlarge)), "dying-branch", "join")
    assert 0 <= figures["branch_low"] < figures["branch_high"] <= 1
    assert figures["shared_step"] > 0.3 and figures["shared_high"] > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_a_saturating_tensor(seed: int) -> None:
    recipe = Recipe(tensors={"boxes": TensorRecipe("minmax", -0.2, 0.2)})
    figures = only(found(network(seed), recipe), "saturating", "conv_boxes")
    assert 0.1 < figures["clamped_share"] < 1 and figures["range_high"] == 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_channels(seed: int) -> None:
    """Of no weights, and of a bias that keeps a Relu shut."""

    def clear(weights: Array) -> None:
        weights[2] = 0

    figures = only(found(changed(network(seed), "w1", clear)), "dead-channels", "conv1")
    assert figures["channels"] == 1 and figures["first"] == 2

    def shut(bias: Array) -> None:
        bias[4] = -1000

    figures = only(found(changed(network(seed), "b1", shut)), "dead-channels", "conv1")
    assert figures["channels"] == 1 and figures["first"] == 4


def test_a_channel_that_only_these_samples_keep_shut_is_not_dead() -> None:
    def lower(by: float) -> Any:
        def change(bias: Array) -> None:
            bias[4] -= by

        return change

    rules = [[f.rule for f in found(changed(network(1), "b1", lower(by)))] for by in (0, 5, 1000)]
    assert rules == [[], [], ["dead-channels"]]


def test_what_a_reader_flattens_may_be_clamped() -> None:
    recipe = Recipe(tensors={"scores": TensorRecipe("minmax", -6.0, 6.0)})

    def enlarge(weights: Array) -> None:
        weights *= 20

    model = changed(network(1), "w_scores", enlarge)
    assert found(model, recipe) == ()
    model.graph.node[-3].op_type = "Identity"  # in place of the sigmoid
    assert "saturating" in {f.rule for f in found(model, recipe)}


def two_convolutions(weights: Array) -> onnx.ModelProto:
    """The second with these weights, over 40 channels."""
    before = np.random.default_rng(0).standard_normal((40, 3, 1, 1)).astype(np.float32)
    constants = {"v": before, "w": weights}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"], "first"),
        helper.make_node("Sigmoid", ["c"], ["s"], "between"),  # over which nothing can be equalised
        helper.make_node("Conv", ["s", "w"], ["y"], "second"),
    ]
    return networks.model(nodes, {"x": [1, 3, 16, 16]}, {"y": None}, constants)


@pytest.mark.parametrize("seed", SEEDS)
def test_outlier_weights(seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((6, 40, 3, 3)).astype(np.float32) / 20
    weights[3, 7, 1, 1] = 60 * weights[3].std()
    figures = only(found(two_convolutions(weights)), "outlier-weights", "second")
    assert figures["channels"] == 1 and figures["worst_channel"] == 3 and figures["largest_over_rms"] > 15


def test_outliers_that_cost_nothing() -> None:
    """The other weights lie on codes, or are as good as none."""
    weights = np.random.default_rng(0).integers(-2, 3, (6, 40, 3, 3)).astype(np.float32)
    weights[:, 7, 1, 1] = 127
    weights[3, :7] = weights[3, 8:] = 0.01
    assert found(two_convolutions(weights)) == ()


def test_an_output_concat_keeps_its_branches_apart() -> None:
    """Where nothing but outputs reads it, the host joins the branches, each with its own scale."""
    from ommatid.compiler.pipeline import compile_model
    from ommatid.profiler.compare import against_float
    from ommatid.runtime.session import InferenceSession

    def enlarge(weights: Array) -> None:
        weights *= 2000

    model = changed(network(1), "w_boxes", enlarge)
    del model.graph.node[-1], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("joined", onnx.TensorProto.FLOAT, None))
    samples = [networks.inputs(seed, size=16) for seed in range(4)]
    program = compile_model(model, calibration=samples)
    assert program.info["findings"] == []
    assert [(p.placement, p.nodes) for p in program.partitions if p.placement == "cpu"] == [
        ("cpu", ("join",))
    ]
    scores = InferenceSession(program).run(None, samples[0])[0][:, 4:]
    assert len(np.unique(scores)) > 50
    assert {"joined", "likely"} <= {r.name for r in against_float(program, model, samples[:1])}
    joined = compile_model(model, calibration=samples, cpu=False)
    assert [f["rule"] for f in joined.info["findings"]] == ["dying-branch"]
    assert len(np.unique(InferenceSession(joined).run(None, samples[0])[0][:, 4:])) <= 3
