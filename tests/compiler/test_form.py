"""A model as onnxruntime takes it: its large weights stand apart, and are the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.form import Form, form_of, unsigned
from ommatid.compiler.observe import runner
from ommatid.compiler.qdq import to_qdq
from ommatid.compiler.ranges import Choice
from ommatid.compiler.recipe import Recipe
from tests import networks
from tests.networks import Array, helper, proto_of

WEIGHTS: dict[str, Array] = {
    "w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32),
    "v": np.ones((2, 2), np.float32),
    "unread": np.ones((64, 64), np.float32),
}
X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


def products() -> ir.Model:
    """y [2, 64] = v (x w), of which w alone is large; a constant as large is read by nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "a"),
        helper.make_node("MatMul", ["v", "h"], ["y"], "b"),
    ]
    return ir.from_proto(networks.model(nodes, {"x": [2, 64]}, {"y": [2, 64]}, WEIGHTS))


def test_large_weights_that_are_read_stand_apart() -> None:
    """The model is afterwards as it was."""
    model = products()
    model.ir_version = 10
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    form = form_of(model)
    assert [*form.weights] == ["w"] and form.proto.ir_version == 10
    assert len(form.proto.SerializeToString()) < 1.1 * WEIGHTS["unread"].nbytes
    np.testing.assert_array_equal(form.weights["w"], WEIGHTS["w"])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert constants(form.model()) == constants(model)
    model.ir_version = 12
    assert form_of(model).proto.ir_version == 10
    form.put_back(["w"])
    assert not form.weights and form.proto.SerializeToString(deterministic=True) == before


def constants(model: ir.Model) -> dict[str, bytes]:
    return {
        name: value.const_value.tobytes()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def test_a_constant_that_is_added_stands_apart_if_it_is_large() -> None:
    form = form_of(products())
    form.add("large", np.ones((80, 80), np.int8))
    form.add("small", np.ones(4096, np.int8))
    assert [*form.weights] == ["w", "large"]
    held = {t.name: (t.data_type, [*t.dims], len(t.raw_data)) for t in form.proto.graph.initializer}
    assert held["large"] == (onnx.TensorProto.INT8, [80, 80], 0)
    assert held["small"] == (onnx.TensorProto.INT8, [4096], 4096)


def test_they_reach_a_session_in_memory() -> None:
    result = runner(form_of(products()), ["y"])({"x": X})["y"]
    np.testing.assert_allclose(result, WEIGHTS["v"] @ (X @ WEIGHTS["w"]), rtol=1e-4)
    model = products()
    turned = ir.tensor(np.asfortranarray(WEIGHTS["w"]), name="w")  # in memory by columns
    model.graph.initializers["w"].const_value = turned
    np.testing.assert_array_equal(runner(form_of(model), ["y"])({"x": X})["y"], result)
    next(iter(model.graph)).op_type = "Nothing"
    with pytest.raises(CompileError, match="cannot run the model"):
        runner(form_of(model), ["y"])


def rounded(activations: str, channels: int = 80) -> Form:
    """A QDQ model of x [1, 64, 5, 5] -> Conv of large weights -> y [1, channels, 5, 5]."""
    weights = {"w": np.random.default_rng(2).standard_normal((channels, 64, 1, 1)).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], "n")
    model = ir.from_proto(networks.model([node], {"x": [1, 64, 5, 5]}, {"y": [1, channels, 5, 5]}, weights))
    return to_qdq(model, {name: Choice(-3.0, 3.0, "minmax", 0) for name in "xy"}, Recipe(activations))


@pytest.mark.parametrize("channels", [80, 5000])
def test_unsigned_weights_are_the_same_numbers(channels: int) -> None:
    """Of so many channels the zero points are large, too."""
    form = rounded("uint8", channels)
    name, codes = next((n, w) for n, w in form.weights.items() if w.ndim == 4)
    made = unsigned(form)
    np.testing.assert_array_equal(made.weights[name] - np.int16(128), codes)
    assert codes.dtype == np.int8 and codes.min() < -100 and codes.max() > 100
    zeros = {t.name: t for t in made.proto.graph.initializer}
    (reader,) = [n for n in made.proto.graph.node if n.input[0] == name]
    np.testing.assert_array_equal(
        numpy_helper.to_array(zeros[reader.input[2]]), np.full(channels, 128, np.uint8)
    )
    x = np.random.default_rng(3).standard_normal((1, 64, 5, 5)).astype(np.float32)
    found = computed(form, x)
    assert len(np.unique(found)) > 50
    np.testing.assert_array_equal(computed(made, x), found)
    np.testing.assert_array_equal(runner(form, ["y"], optimize=True)({"x": x})["y"], found)


def computed(form: Form, x: Array) -> Array:
    proto = proto_of(form.model())
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), exact_options(proto), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def test_zero_points_move_with_the_codes() -> None:
    form = rounded("uint8")
    zero = next(t for t in form.proto.graph.initializer if t.name == "w_zero_point")
    zero.CopyFrom(numpy_helper.from_array(np.arange(-40, 40, dtype=np.int8), "w_zero_point"))
    x = np.random.default_rng(3).standard_normal((1, 64, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(computed(unsigned(form), x), computed(form, x))
    next(n for n in form.proto.graph.node if n.input[0] == "w_quantized").input.pop()
    form.proto.graph.initializer.remove(zero)
    assert unsigned(form).weights["w_quantized"].dtype == np.int8


def test_codes_that_are_shown_stay_as_they_are() -> None:
    form = rounded("uint8")
    output = networks.helper.make_tensor_value_info("w_quantized", onnx.TensorProto.INT8, [80, 64, 1, 1])
    form.proto.graph.output.append(output)
    assert unsigned(form).weights["w_quantized"].dtype == np.int8


def test_codes_that_a_graph_in_a_node_may_read_stay_as_they_are() -> None:
    form = rounded("uint8")
    inner = networks.helper.make_graph([], "inner", [], [])
    form.proto.graph.node.append(networks.helper.make_node("If", ["c"], ["z"], then_branch=inner))
    assert unsigned(form) is form


def test_codes_of_several_readers_stay_as_they_are() -> None:
    """Of two that read the same codes each has a zero point of its own."""
    form = rounded("uint8")
    name = next(n for n, w in form.weights.items() if w.ndim == 4)
    reader = next(n for n in form.proto.graph.node if n.input[0] == name)
    form.proto.graph.node.add().CopyFrom(reader)
    form.proto.graph.node[-1].output[0] = "again"
    made = unsigned(form)
    assert made.weights[name].dtype == np.int8
    assert [n.input[2] for n in made.proto.graph.node if n.input[0] == name] == [reader.input[2]] * 2


def test_with_activations_of_int8_weights_stay_as_they_are() -> None:
    form = rounded("int8")
    assert unsigned(form) is form
