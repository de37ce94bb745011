"""Equalisation and bias correction: the float network stays the same, and the rounded one comes nearer to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ommatid.compiler.correct import convolution, correct_bias, helps, shift, window
from ommatid.compiler.equalize import equalize, gains, numbers, pairs, rounded_weights
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.form import form_of
from ommatid.compiler.front import FrontOptions
from ommatid.compiler.model import import_model
from ommatid.compiler.observe import observe
from ommatid.compiler.plan import make_plan
from ommatid.compiler.qdq import activations, to_qdq
from ommatid.compiler.ranges import Choice
from ommatid.compiler.recipe import Recipe
from ommatid.compiler.search import adjusted
from tests import networks
from tests.networks import helper, proto_of

Array = np.ndarray[Any, Any]
SAMPLES = [networks.inputs(seed, size=16) for seed in range(4)]


def uneven(
    depthwise: bool = False, between: str = "Relu", weights: dict[str, Array] | None = None
) -> ir.Model:
    """Two convolutions with channels between them whose ranges are apart by a factor of up to a thousand."""
    generator = np.random.default_rng(5)
    spread = np.geomspace(1, 1000, 8).reshape(-1, 1, 1, 1)
    constants = {
        "w": generator.standard_normal((8, 3, 3, 3)) * spread,
        "b": generator.standard_normal(8) * spread.reshape(-1),
        "v": generator.standard_normal((8, 1, 3, 3) if depthwise else (5, 8, 1, 1))
        / (spread if depthwise else spread.reshape(1, -1, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["c"], ["r"], "between"),
        helper.make_node("Conv", ["r", "v"], ["y"], "second", group=8 if depthwise else 1),
    ]
    made = {name: array.astype(np.float32) for name, array in (weights or constants).items()}
    return import_model(networks.model(nodes, {"x": [1, 3, 16, 16]}, {"y": None}, made))


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), exact_options(model), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds)[0], np.float64)


def sqnr_db(model: ir.Model, exact: onnx.ModelProto) -> float:
    """Of the model quantised by least and greatest values."""
    seen = observe(form_of(model), activations(model), SAMPLES)
    ranges = {n: Choice(o.histogram.low, o.histogram.high, "minmax", 0) for n, o in seen.items()}
    quantised = proto_of(to_qdq(model, ranges, Recipe()).model())
    signal = noise = 0.0
    for feeds in SAMPLES:
        real = run(exact, feeds)
        signal, noise = signal + (real**2).sum(), noise + ((run(quantised, feeds) - real) ** 2).sum()
    return 10 * float(np.log10(signal / noise))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("between", ["Relu", "LeakyRelu"])
def test_channels_get_ranges_alike(depthwise: bool, between: str) -> None:
    model = uneven(depthwise, between)
    exact = proto_of(model)
    before = sqnr_db(model, exact)
    (pair,) = pairs(model)
    assert (pair.first.name, pair.second.name) == ("first", "second")
    assert [value.name for value in pair.between] == ["c", "r"]
    seen = observe(form_of(model), ["c", "r"], SAMPLES)["r"]
    equalize(model, pair, gains(pair, seen))
    for feeds in SAMPLES:
        np.testing.assert_allclose(run(proto_of(model), feeds), run(exact, feeds), rtol=1e-3, atol=1e-3)
    after = observe(form_of(model), [pair.read], SAMPLES)["r__equalized"].channel_high
    assert after.max() / after.min() < 0.05 * seen.channel_high.max() / seen.channel_high.min()
    assert sqnr_db(model, exact) > before + 10


def helped(model: ir.Model) -> bool:
    """Whether the only pair's gains help, judged by windows of all samples."""
    (pair,) = pairs(model)
    seen = observe(form_of(model), ["r"], SAMPLES)["r"]
    windows = [window(run(_up_to_r(model), feeds).astype(np.float32), pair.second) for feeds in SAMPLES]
    return helps(pair, gains(pair, seen), seen, np.concatenate(windows))


def test_it_is_done_only_where_the_error_falls() -> None:
    assert helped(uneven())
    generator = np.random.default_rng(7)
    weights = {"w": generator.standard_normal((8, 3, 3, 3)), "b": generator.standard_normal(8),
               "v": generator.standard_normal((5, 8, 1, 1)) * np.geomspace(1, 8, 8).reshape(1, -1, 1, 1)}  # fmt: skip
    even = uneven(weights=weights)
    (pair,) = pairs(even)
    gain = gains(pair, observe(form_of(even), ["r"], SAMPLES)["r"])
    assert (gain < 1).any() and not helped(even)
    before = sqnr_db(even, proto_of(even))
    assert sqnr_db(adjusted(even, {"second": gain}, {}), proto_of(even)) < before


@pytest.mark.parametrize("dilation", [1, 9])
def test_a_window_is_the_middle_of_what_is_read(dilation: int) -> None:
    second = next(node for node in uneven(depthwise=True).graph if node.name == "second")
    second.attributes["dilations"] = ir.AttrInt64s("dilations", [dilation, dilation])
    image = np.arange(60 * 5).reshape(1, 1, 60, 5)
    begin = {1: 25, 9: 17}[dilation]  # 8 + 2 * dilation rows, all columns
    np.testing.assert_array_equal(window(image, second), image[:, :, begin : 60 - begin])


def test_what_is_no_pair() -> None:
    """A sigmoid does not scale; a tensor that is read twice, or is an output, has other readers."""
    assert pairs(uneven(between="Sigmoid")) == []
    made = proto_of(uneven())
    made.graph.output.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None))
    assert pairs(import_model(made)) == []
    made = proto_of(uneven())
    made.graph.node.append(helper.make_node("Relu", ["r"], ["z"], "other"))
    made.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    assert pairs(import_model(made)) == []


def test_dead_channels_keep_their_size() -> None:
    model = uneven()
    (pair,) = pairs(model)
    seen = observe(form_of(model), ["r"], SAMPLES)["r"]
    seen.channel_low[3] = seen.channel_high[3] = 0
    gain = gains(pair, seen)
    assert gain[3] == 1 and np.isfinite(gain).all() and (gain > 0).all() and gain.max() == 1


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_shift_is_taken_back(depthwise: bool) -> None:
    """What rounded weights add to every channel on the average, the bias then lacks."""
    model = uneven(depthwise)
    second = next(node for node in model.graph if node.name == "second")
    weights, apply = numbers(second.inputs[1]), convolution(second)
    seen = observe(form_of(model), ["r"], SAMPLES)["r"]
    read = [run(_up_to_r(model), feeds) for feeds in SAMPLES]
    errors = [apply(x, rounded_weights(weights)) - apply(x, weights) for x in read]
    expected = np.mean([e.mean(axis=(0, 2, 3)) for e in errors], axis=0)
    found = shift(second, seen)
    # near where 3x3 kernels leave out the edge, exact otherwise
    np.testing.assert_allclose(found, expected, atol=(0.1 if depthwise else 1e-5) * np.abs(expected).max())
    assert np.abs(expected).max() > 0
    correct_bias(model, second, found)
    np.testing.assert_allclose(numbers(second.inputs[2]), -found, rtol=1e-5)
    correct_bias(model, second, found)
    np.testing.assert_allclose(numbers(second.inputs[2]), -2 * found, rtol=1e-5)


def _up_to_r(model: ir.Model) -> onnx.ModelProto:
    made = proto_of(model)
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None))
    return made


def test_a_plan_keeps_what_helps() -> None:
    plan = make_plan(uneven(), FrontOptions(calibration=SAMPLES))
    assert plan.recipe.layers["second"].equalize is True
    assert plan.recipe.layers["first"].equalize is False
    given = make_plan(uneven(), FrontOptions(calibration=None))
    assert not any(layer.equalize or layer.correct_bias for layer in given.recipe.layers.values())
