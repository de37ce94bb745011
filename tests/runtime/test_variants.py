"""Programs for several shapes: the same bits as a program for one, padding and cropping, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Port, Program, empty_program
from ommatid.isa.program_file import load, to_bytes
from ommatid.isa.target import load_target
from ommatid.runtime.session import InferenceSession
from ommatid.runtime.variants import RunError, plan
from tests import networks
from tests.isa.records import same

Array = np.ndarray[Any, Any]
SHAPES = [(1, 3, 16, 16), (1, 3, 16, 32), (1, 3, 32, 16)]
WIDTHS = [(1, 1, 8, 32), (1, 1, 8, 64)]


def values(*shape: int, seed: int = 0) -> Array:
    """Random numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program, and onnxruntime on the quantised model of each variant."""

    program: Program
    references: list[Any]


def made(model: onnx.ModelProto, shapes: list[tuple[int, ...]], folder: Path) -> Compiled:
    """Compile a model for several shapes."""
    program = compile_model(model, shapes={"x": shapes}, save_qdq=str(folder / "q.onnx"))
    options = exact_options(onnx.load(folder / "q.onnx"))
    files = [folder / name for name in ("q.onnx", *(f"q-{n}.onnx" for n in range(1, len(shapes))))]
    references = [onnxruntime.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in files]
    return Compiled(load(to_bytes(program)), references)


@pytest.fixture(scope="module")
def resizable(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A network of convolutions alone."""
    return made(networks.resizable(), SHAPES, tmp_path_factory.mktemp("resizable"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A network whose output is as long as its input is wide."""
    return made(networks.reader(), WIDTHS, tmp_path_factory.mktemp("reader"))


def scale(program: Program) -> float:
    """One step of the output."""
    tensor = program.outputs[0].tensor
    return next(p.tensor.quantization.scale for p in program.placed if p.tensor.name == tensor)


# --- exact shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shapes", [("resizable", SHAPES), ("reader", WIDTHS)])
def test_each_variant_is_the_same_as_onnxruntime(
    name: str, shapes: list[tuple[int, ...]], request: pytest.FixtureRequest
) -> None:
    both = request.getfixturevalue(name)
    session = InferenceSession(both.program)
    for number, shape in enumerate(shapes):
        feeds = {"x": values(*shape)}
        ours, theirs = session.run(None, feeds)[0], both.references[number].run(None, feeds)[0]
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < scale(both.program) / 2


def test_a_variant_is_the_program_of_one_shape_with_the_same_ranges(resizable: Compiled) -> None:
    assert len({scale(v) for v in resizable.program.variants}) == 1
    for variant, shape in zip(resizable.program.variants, SHAPES, strict=True):
        alone = compile_model(networks.resizable(), shapes={"x": shape}, calibrate_at={"x": SHAPES[1]})
        assert same(variant, alone)


def test_a_dimension_that_differs_is_none(resizable: Compiled, reader: Compiled) -> None:
    assert InferenceSession(resizable.program).get_inputs()[0].shape == [1, 3, None, None]
    assert InferenceSession(reader.program).get_outputs()[0].shape == [1, None, 7]
    assert InferenceSession(reader.program.variants[1]).get_inputs()[0].shape == [1, 1, 8, 64]


# --- padding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, variant", [
    ((1, 3, 10, 16), 0), ((1, 3, 16, 5), 0), ((1, 3, 12, 20), 1), ((1, 3, 17, 3), 2), ((1, 3, 11, 13), 0),
])  # fmt: skip
def test_padding_is_running_the_padded_input_and_cropping(
    resizable: Compiled, shape: tuple[int, ...], variant: int
) -> None:
    x = values(*shape)
    whole = np.zeros(SHAPES[variant], np.float32)
    whole[:, :, : shape[2], : shape[3]] = x
    session = InferenceSession(resizable.program)
    ours, cycles = session.run(None, {"x": x})[0], session.cycles
    rows, columns = -(-shape[2] // 2), -(-shape[3] // 2)
    assert np.array_equal(ours, session.run(None, {"x": whole})[0][:, :, :rows, :columns])
    assert cycles == session.cycles == InferenceSession(resizable.program.variants[variant]).cycles_per_run()
    theirs = resizable.references[variant].run(None, {"x": whole})[0][:, :, :rows, :columns]
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < scale(resizable.program) / 2


@pytest.mark.parametrize("width, length", [(64, 16), (61, 16), (60, 15), (33, 9), (31, 8), (1, 1)])
def test_a_reader_reads_as_far_as_its_input_goes(reader: Compiled, width: int, length: int) -> None:
    x = values(1, 1, 8, width)
    variant = 0 if width <= 32 else 1
    whole = np.zeros(WIDTHS[variant], np.float32)
    whole[..., :width] = x
    ours = InferenceSession(reader.program).run(None, {"x": x})[0]
    theirs = reader.references[variant].run(None, {"x": whole})[0][:, :length]
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < scale(reader.program) / 2


def test_a_batch_of_smaller_inputs_runs_in_padded_passes(resizable: Compiled) -> None:
    session = InferenceSession(resizable.program)
    x = values(3, 3, 9, 30)
    whole, cycles = session.run(None, {"x": x})[0], session.cycles
    parts = [session.run(None, {"x": x[i : i + 1]})[0] for i in range(3)]
    assert np.array_equal(whole, np.concatenate(parts)) and cycles == 3 * session.cycles


def test_a_quantised_input_is_padded_with_its_zero_point(tmp_path: Path) -> None:
    made(networks.resizable(), [SHAPES[0]], tmp_path)
    quantised = onnx.load(tmp_path / "q.onnx")
    first = next(n for n in quantised.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    zero = onnx.numpy_helper.to_array(
        next(i for i in quantised.graph.initializer if i.name == first.input[2])
    )
    assert zero > 0
    codes = onnx.helper.make_tensor_value_info(first.output[0], onnx.TensorProto.UINT8, ["n", 3, "h", "w"])
    quantised.graph.node.remove(first)
    quantised.graph.input[0].CopyFrom(codes)
    del quantised.graph.value_info[:]
    quantised.graph.output[0].type.tensor_type.ClearField("shape")
    name = codes.name
    session = InferenceSession(compile_model(quantised, shapes={name: SHAPES}))
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 20), np.uint8)
    whole = np.full(SHAPES[1], zero, np.uint8)
    whole[:, :, :12, :20] = x
    assert np.array_equal(session.run(None, {name: x})[0], session.run(None, {name: whole})[0][:, :, :6, :10])


def test_parts_on_the_host_and_several_inputs() -> None:
    """Celu(a) * b + d and its mean, Celu on the host; b has one shape for all variants."""
    nodes = [
        onnx.helper.make_node("Celu", ["a"], ["c"], "celu"),
        onnx.helper.make_node("Mul", ["c", "b"], ["m"], "mul"),
        onnx.helper.make_node("Add", ["m", "d"], ["y"], "add"),
        onnx.helper.make_node("ReduceMean", ["y"], ["z"], "mean", keepdims=0),
    ]
    inputs = {"a": [1, 3, "h", "w"], "b": [3, 1, 1], "d": [1, 3, "h", "w"]}
    model = networks.model(nodes, inputs, {"y": None, "z": None})
    shapes = {"a": [(1, 3, 4, 8), (1, 3, 8, 16)], "b": (3, 1, 1), "d": [(1, 3, 4, 8), (1, 3, 8, 16)]}
    program = compile_model(model, shapes=shapes)
    assert [[p.placement for p in v.partitions].count("cpu") > 0 for v in program.variants] == [True, True]
    session = InferenceSession(program)
    feeds = {"a": values(1, 3, 3, 7), "b": values(3, 1, 1, seed=1), "d": values(1, 3, 3, 7, seed=2)}
    with pytest.raises(RunError, match="follows dimension 2 of input 'a' or dimension 3 of input 'a'"):
        session.run(None, feeds)
    half = {"a": feeds["a"][:, :, :2, :4], "b": feeds["b"], "d": feeds["d"][:, :, :2, :4]}
    whole = {n: np.zeros((1, 3, 4, 8), np.float32) for n in "ad"} | {"b": feeds["b"]}
    for name in "ad":
        whole[name][:, :, :2, :4] = half[name]
    cropped, mean = session.run(None, half)
    y, z = session.run(None, whole)
    assert np.array_equal(cropped, y[:, :, :2, :4]) and cropped.flags.c_contiguous
    assert np.array_equal(mean, z) and isinstance(mean, np.ndarray) and mean.shape == ()
    with pytest.raises(RunError, match=r"input 'd' has shape"):
        session.run(None, half | {"d": values(1, 3, 9, 9)})


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, words", [
    ((1, 3, 20, 20), r"\[1, 3, 20, 20\]; \[1, 3, 16, 16\] or \[1, 3, 16, 32\] or \[1, 3, 32, 16\] is needed$"),
    ((1, 2, 16, 16), "needs? padding in dimension 1, in which no two variants differ"),
    ((3, 16, 16), r"\[3, 16, 16\]"), ((0, 3, 16, 16), r"\[0, 3, 16, 16\]"), ((1, 3, 0, 16), r"\[1, 3, 0, 16\]"),
])  # fmt: skip
def test_what_no_variant_fits(resizable: Compiled, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(RunError, match=words):
        InferenceSession(resizable.program).run(None, {"x": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("option", ["refuse", "compile"])
def test_without_padding_only_shapes_held_run(resizable: Compiled, option: str) -> None:
    session = InferenceSession(resizable.program, on_new_shape=option)
    assert session.run(None, {"x": values(2, *SHAPES[2][1:])})[0].shape == (2, 5, 16, 8)
    with pytest.raises(RunError, match=r"\[1, 3, 15, 16\]; \[1, 3, 16, 16\] or"):
        session.run(None, {"x": values(1, 3, 15, 16)})


def test_an_unknown_option(resizable: Compiled) -> None:
    with pytest.raises(RunError, match="'guess'"):
        InferenceSession(resizable.program, on_new_shape="guess")


def test_positions_that_lie_among_others_are_not_cropped() -> None:
    """Rows and columns merged: the size grows in proportion to the width, but padding ends each row."""
    made = networks.resizable()
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 5, -1]), "merged"))
    made.graph.node[-1].output[0] = "image"
    made.graph.node.append(onnx.helper.make_node("Reshape", ["image", "merged"], ["y"], "merge"))
    made.graph.output[0].type.tensor_type.ClearField("shape")
    session = InferenceSession(compile_model(made, shapes={"x": SHAPES[:2]}))
    assert session.run(None, {"x": values(*SHAPES[1])})[0].shape == (1, 5, 8 * 16)
    with pytest.raises(RunError, match="may hold padding anywhere: node 'merge' rearranges"):
        session.run(None, {"x": values(1, 3, 16, 20)})


# --- compiled on demand --------------------------------------------------------------------------------------


def test_on_demand_is_the_program_of_that_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "m.onnx"
    onnx.save(networks.resizable(), path)
    x = values(2, 3, 24, 24)
    for entries in (2, 2):  # the second session finds both in the cache
        session = InferenceSession(path, shapes={"x": SHAPES})
        ours = session.run(None, {"x": x})[0]
        assert len(list(cache_folder().glob("*.omm"))) == entries
    alone = compile_model(networks.resizable(), shapes={"x": x.shape}, calibrate_at={"x": SHAPES[1]})
    assert np.array_equal(ours, InferenceSession(alone).run(None, {"x": x})[0])
    # what was compiled on demand does not change what is padded
    small = values(1, 3, 12, 20)
    fresh = InferenceSession(path, shapes={"x": SHAPES}).run(None, {"x": small})[0]
    assert np.array_equal(session.run(None, {"x": small})[0], fresh)
    assert len(list(cache_folder().glob("*.omm"))) == 2
    session = InferenceSession(path, shapes={"x": SHAPES}, on_new_shape="compile")
    alone = compile_model(networks.resizable(), shapes={"x": small.shape}, calibrate_at={"x": SHAPES[1]})
    assert np.array_equal(
        session.run(None, {"x": small})[0], InferenceSession(alone).run(None, {"x": small})[0]
    )
    with pytest.raises(RunError, match=r"\[1, 4, 24, 24\].*fixes a dimension to 3"):
        session.run(None, {"x": values(1, 4, 24, 24)})
    with pytest.raises(RunError, match="is needed"):
        InferenceSession(path, shapes={"x": SHAPES}, on_new_shape="refuse").run(None, {"x": x})


# --- choosing, by shapes alone -------------------------------------------------------------------------------


def programs(*shapes: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]) -> list[Program]:
    """Programs of nothing but inputs and outputs."""

    def ports(table: dict[str, tuple[int, ...]]) -> tuple[Port, ...]:
        return tuple(Port(name, shape, "tensor(float)", None) for name, shape in table.items())

    nothing = empty_program(load_target("ommatid-256"))
    return [dataclasses.replace(nothing, inputs=ports(i), outputs=ports(o)) for i, o in shapes]


def chosen(
    held: list[Program], pad: bool = True, **feeds: tuple[int, ...]
) -> tuple[int, int, dict[str, Any]]:
    """The plan's variant, passes and outputs."""
    found = plan(held, feeds, pad)
    assert found is not None
    return found.variant, found.passes, found.outputs


def test_the_least_work_wins() -> None:
    held = programs(
        ({"x": (8, 4)}, {"y": (8, 2)}), ({"x": (1, 4)}, {"y": (1, 2)}), ({"x": (4, 4)}, {"y": (4, 2)})
    )
    for batch, wanted in ((1, (1, 1)), (3, (1, 3)), (4, (2, 1)), (8, (0, 1)), (16, (0, 2)), (12, (2, 3))):
        assert chosen(held, x=(batch, 4)) == (*wanted, {"y": (batch, 2)})
    assert plan(held, {"x": (1, 5)}, True) is None and plan(held, {"x": (4,)}, True) is None


def test_a_batch_that_is_a_part_of_an_output() -> None:
    held = programs(({"x": (2, 4)}, {"y": (6, 2)}))
    assert chosen(held, x=(3, 4)) == (0, 2, {"y": (9, 2)})
    for shape in ((), (3, 2)):
        with pytest.raises(RunError, match="has no batch"):
            plan(programs(({"x": (2, 4)}, {"y": shape})), {"x": (3, 4)}, True)
        assert chosen(programs(({"x": (2, 4)}, {"y": shape})), x=(2, 4)) == (0, 1, {"y": shape})


def test_several_inputs_have_one_batch() -> None:
    held = programs(({"a": (1, 4), "b": (2, 3)}, {"y": (2, 2)}))
    assert chosen(held, a=(3, 4), b=(6, 3)) == (0, 3, {"y": (6, 2)})
    assert plan(held, {"a": (3, 4), "b": (2, 3)}, True) is None
    with pytest.raises(RunError, match="has no batch"):
        plan(held, {"a": (3, 4), "b": (5, 3)}, True)


def square(*more: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]) -> list[Program]:
    """Two variants in which both dimensions grow together."""
    return programs(
        ({"x": (1, 8, 8)}, {"y": (1, 4, 4), "z": (1, 10)}),
        ({"x": (1, 16, 16)}, {"y": (1, 8, 8), "z": (1, 10)}),
        *more,
    )


def test_what_two_dimensions_explain_is_not_guessed() -> None:
    with pytest.raises(
        RunError, match="follows dimension 1 of input 'x' or dimension 2 of input 'x'"
    ) as caught:
        plan(square(), {"x": (1, 9, 12)}, True)
    assert "another variant" in caught.value.hint
    assert chosen(square(), x=(1, 11, 11)) == (1, 1, {"y": (1, 6, 6), "z": (1, 10)})
    told = square(({"x": (1, 8, 16)}, {"y": (1, 8, 4), "z": (1, 10)}))  # transposed
    assert chosen(told, x=(1, 9, 12)) == (1, 1, {"y": (1, 6, 5), "z": (1, 10)})
    assert chosen(told, x=(1, 5, 12)) == (2, 1, {"y": (1, 6, 3), "z": (1, 10)})


def test_what_grows_otherwise_is_not_cropped() -> None:
    for sizes in ((64, 256), (7, 15), (8, 4)):  # by area; without padding; shrinking
        held = programs(*(({"x": (1, s, s)}, {"y": (1, n)}) for s, n in zip((8, 16), sizes, strict=True)))
        with pytest.raises(RunError, match="no dimension of an input in proportion"):
            plan(held, {"x": (1, 5, 5)}, True)


def test_an_output_without_a_batch_is_cropped_too() -> None:
    held = programs(({"x": (1, 8)}, {"y": (2, 5)}), ({"x": (1, 16)}, {"y": (4, 5)}))
    assert chosen(held, x=(1, 9)) == (1, 1, {"y": (3, 5)})
    with pytest.raises(RunError, match="has no batch"):
        plan(held, {"x": (2, 9)}, True)
