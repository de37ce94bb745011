"""Import: every form of a model becomes the same graph, and onnxruntime computes the same before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import OLDEST_OPSET, fixed_shape, import_model, name_nodes, read_proto
from tests import networks

Array = np.ndarray[Any, Any]
X = [1, 4, 6, 6]


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(
        op, [i if i != "-" else "" for i in inputs.split()], output.split(), f"{op} {output}", **attributes
    )


def run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def random_feeds(shapes: dict[str, list[int]]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def imported(
    nodes: list[Any], constants: dict[str, Any] | None = None, inputs: dict[str, list[int]] | None = None,
    outputs: tuple[str, ...] = ("y",), opset: int = 17,
) -> list[str]:  # fmt: skip
    """The operators after import; all outputs are compared with those of the model as it was."""
    shapes = inputs or {"x": X}
    table = {name: np.asarray(array) for name, array in (constants or {}).items()}
    made = networks.model(nodes, shapes, dict.fromkeys(outputs), table, opset)
    model = import_model(made)
    same(ir.to_proto(model), made, random_feeds(shapes))
    return [n.op_type for n in model.graph]


def same(ours: onnx.ModelProto, theirs: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    for a, b in zip(run(ours, feeds), run(theirs, feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# --- forms of a model ------------------------------------------------------------------------------------------


def test_path_bytes_and_proto_are_one(tmp_path: Path) -> None:
    made = networks.convolution()
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    data = made.SerializeToString()
    forms = (path, str(path), data, bytearray(data), memoryview(data), made)
    texts = {ir.to_proto(import_model(form)).SerializeToString(deterministic=True) for form in forms}
    assert len(texts) == 1
    assert made.SerializeToString() == data  # the user's own is not changed
    assert read_proto(path)[1] == str(path) and read_proto(data)[1] == "model"


def test_weights_in_files_of_their_own(tmp_path: Path) -> None:
    made = networks.convolution()
    path = tmp_path / "m.onnx"
    onnx.save_model(
        networks.convolution(), path, save_as_external_data=True, location="m.bin", size_threshold=0
    )
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data
    same(ir.to_proto(import_model(path)), made, networks.inputs())
    (tmp_path / "m.bin").unlink()
    with pytest.raises(CompileError, match=r"m\.onnx: external data cannot be read") as caught:
        import_model(path)
    assert "beside the model" in caught.value.hint


def test_weights_that_were_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(
        networks.convolution(), path, save_as_external_data=True, location="m.bin", size_threshold=0
    )
    proto = onnx.load(path, load_external_data=False)
    for source in (proto, proto.SerializeToString()):
        with pytest.raises(CompileError, match=r"model: the data of 'w' lies in another file, 'm\.bin'"):
            import_model(source)


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, 23))
def test_every_opset_from_seven(opset: int) -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("MaxPool", "r", "y", kernel_shape=[2, 2])]
    assert imported(nodes, {"w": np.ones((2, 4, 3, 3), np.float32)}, opset=opset) == [
        "Conv",
        "Relu",
        "MaxPool",
    ]


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, onnx.defs.onnx_opset_version() + 1])
def test_opsets_that_are_not_known(opset: int) -> None:
    made = networks.convolution()
    made.opset_import[0].version = opset
    with pytest.raises(CompileError, match=f"model: opset {opset} is not supported"):
        import_model(made)


def test_the_long_name_of_the_default_domain() -> None:
    made = networks.convolution()
    made.opset_import[0].domain = "ai.onnx"
    model = import_model(made)
    assert model.graph.opset_imports[""] == 17


def test_local_functions_are_inlined() -> None:
    made = networks.model(
        [helper.make_node("Twice", ["x"], ["y"], "twice", domain="mine")], {"x": X}, {"y": X}
    )
    body = [node("Add", "a a", "b"), node("Relu", "b", "c")]
    made.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    )
    made.opset_import.append(helper.make_opsetid("mine", 1))
    model = import_model(made)
    assert [n.op_type for n in model.graph] == ["Add", "Relu"]
    same(ir.to_proto(model), made, random_feeds({"x": X}))


def test_initialisers_may_be_inputs_too() -> None:
    made = networks.convolution()
    made.ir_version = 3
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    assert [v.name for v in import_model(made).graph.inputs] == ["x"]


# --- folding ---------------------------------------------------------------------------------------------------


def test_weights_that_are_computed() -> None:
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        node("ConstantOfShape", "shape", "w0", value=fill),
        node("Mul", "w0 scale", "w"),
        node("Constant", "", "b", value=numpy_helper.from_array(np.arange(2, dtype=np.float32))),
        node("Conv", "x w b", "y"),
    ]
    constants = {"shape": np.array([2, 4, 3, 3]), "scale": np.linspace(0, 1, 3, dtype=np.float32)}
    assert imported(nodes, constants) == ["Conv"]


def test_shape_arithmetic() -> None:
    """The Shape, Gather, Concat and Reshape of PyTorch's view(x.size(0), -1)."""
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s first", "n", axis=0), node("Unsqueeze", "n axes", "u"),
        node("Concat", "u rest", "t", axis=0), node("Reshape", "x t", "y"),
    ]  # fmt: skip
    constants = {"first": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    assert imported(nodes, constants) == ["Reshape"]


def test_part_of_a_shape() -> None:
    nodes = [node("Shape", "x", "s", start=-2, end=4), node("Cast", "s", "f", to=TensorProto.FLOAT),
             node("Reshape", "f one", "r"), node("Mul", "x r", "y")]  # fmt: skip
    assert imported(nodes, {"one": np.array([2, 1])}, {"x": [1, 4, 2, 1]}, opset=15) == ["Mul"]


def test_what_does_nothing_is_dropped() -> None:
    nodes = [node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Relu", "d", "r"), node("Abs", "x", "unused"),
             node("Identity", "r", "y")]  # fmt: skip
    assert imported(nodes) == ["Relu", "Identity"]


def test_random_numbers_stay() -> None:
    nodes = [node("RandomNormal", "", "n", shape=[6], seed=1.0), node("Add", "x n", "y")]
    model = import_model(networks.model(nodes, {"x": X}, {"y": X}))
    assert [n.op_type for n in model.graph] == ["RandomNormal", "Add"]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("size, kernel, stride, pads", [
    (6, 1, 4, 0), (6, 2, 3, 0), (7, 2, 3, 1), (5, 1, 2, 0), (6, 3, 2, 1), (7, 3, 2, 0), (5, 2, 4, 1), (7, 1, 3, 0),
])  # fmt: skip
def test_windows_behind_the_image_do_not_count(
    op: str, size: int, kernel: int, stride: int, pads: int
) -> None:
    pool = node(op, "x", "y", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4, ceil_mode=1)
    shapes = {"x": [1, 2, size, size]}
    made = networks.model([pool], shapes, {"y": None}, opset=19)
    model = import_model(made)
    feeds = random_feeds(shapes)
    # PyTorch's and ONNX's rule: the last window begins inside the image or the padding before it
    count = -(-(size + 2 * pads - kernel) // stride) + 1
    count -= (count - 1) * stride >= size + pads
    assert fixed_shape(model.graph.outputs[0]) == (1, 2, count, count)
    (ours,) = run(ir.to_proto(model), feeds)
    windows = [range(i * stride - pads, i * stride - pads + kernel) for i in range(count)]
    combine = np.max if op == "MaxPool" else np.mean
    for a, rows in enumerate(windows):
        for b, columns in enumerate(windows):
            part = feeds["x"][:, :, [r for r in rows if 0 <= r < size]][
                ..., [c for c in columns if 0 <= c < size]
            ]
            np.testing.assert_allclose(ours[:, :, a, b], combine(part, axis=(2, 3)), rtol=1e-5)


def test_nodes_get_names_of_their_own() -> None:
    model = ir.from_proto(networks.convolution())
    for n, name in zip(model.graph, ("same", "same", None), strict=True):
        n.name = name
    name_nodes(model)
    assert [n.name for n in model.graph] == ["same", "same_1", "Conv_2"]


# --- cutting and shapes -------------------------------------------------------------------------------------------


def test_cut_by_inputs_and_outputs() -> None:
    made = networks.convolution()
    whole = import_model(made)
    assert [n.name for n in whole.graph] == ["first", "relu", "second"]
    cases = {("x", "r"): ["first", "relu"], ("c", "y"): ["relu", "second"], ("c", "r"): ["relu"]}
    for (begin, end), names in cases.items():
        model = import_model(made, inputs=[begin], outputs=[end])
        assert [n.name for n in model.graph] == names
        assert [v.name for v in model.graph.inputs] == [begin] and [v.name for v in model.graph.outputs] == [
            end
        ]
        assert (
            fixed_shape(model.graph.inputs[0]) is not None and fixed_shape(model.graph.outputs[0]) is not None
        )
        assert model.metadata_props == {"alphabet": "abc\ndef"}
        assert model.graph.opset_imports[""] == 17


def test_the_cut_parts_make_the_whole() -> None:
    made, feeds = networks.convolution(), networks.inputs()
    front, back = (ir.to_proto(import_model(made, **cut)) for cut in ({"outputs": ["c"]}, {"inputs": ["c"]}))
    (between,) = run(front, feeds)
    np.testing.assert_allclose(run(back, {"c": between})[0], run(made, feeds)[0], rtol=1e-5, atol=1e-5)


def test_cut_where_nothing_is() -> None:
    for cut in ({"inputs": ["none"]}, {"outputs": ["none"]}):
        with pytest.raises(CompileError, match="model: no tensor is called 'none'"):
            import_model(networks.convolution(), **cut)
    with pytest.raises(CompileError, match=r"model: c cannot be computed from r: .*: x") as caught:
        import_model(networks.convolution(), inputs=["r"], outputs=["c"])
    assert caught.value.hint == "name more tensors with --inputs"


def test_shapes_are_fixed_by_name() -> None:
    made = networks.convolution(batch="n")
    model = import_model(made, {"x": (2, 3, 8, 8)})
    assert fixed_shape(model.graph.outputs[0]) == (2, 5, 8, 8)
    made.graph.input[0].type.tensor_type.ClearField("shape")
    assert fixed_shape(import_model(made, {"x": (1, 3, 4, 4)}).graph.outputs[0]) == (1, 5, 4, 4)


@pytest.mark.parametrize("shapes, message", [
    ({}, r"input 'x' has the dynamic shape \[n,3,8,8\]"),
    ({"z": (1,)}, "--shape names 'z', which is not an input"),
    ({"x": (1, 3, 8)}, "--shape gives 'x' 3 dimensions; it has 4"),
    ({"x": (1, 4, 8, 8)}, r"--shape gives 'x' \[1, 4, 8, 8\], but the model fixes a dimension to 3"),
    ({"x": (0, 3, 8, 8)}, r"input 'x' has a dimension of size zero: \[0, 3, 8, 8\]"),
    ({"x": (-1, 3, 8, 8)}, r"input 'x' has the dynamic shape"),
])  # fmt: skip
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CompileError, match="model: " + message):
        import_model(networks.convolution(batch="n"), shapes)


# --- values ------------------------------------------------------------------------------------------------------


def test_weights_whose_sum_is_infinite_are_numbers() -> None:
    made = networks.convolution()
    bias = np.array([3e38, 3e38] + [0] * 6, np.float32)
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
    held = import_model(made).graph.initializers["b"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), bias)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    made = networks.convolution()
    bias = np.array([1, value] + [0] * 6, np.float32)
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
    with pytest.raises(CompileError, match="constant 'b' of node 'first' holds NaN or infinity"):
        import_model(made)


def test_limits_may_be_infinite() -> None:
    nodes = [
        node("Clip", "x low high", "c"),
        node("Pad", "c pads low", "p"),
        node("MaxPool", "p", "y", kernel_shape=[3, 3]),
    ]
    constants = {"low": np.float32(-np.inf), "high": np.float32(np.inf), "pads": np.array([0, 0, 1, 1] * 2)}
    assert imported(nodes, constants)[-1] == "MaxPool"
