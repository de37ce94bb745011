"""Several shapes of a model make one program with one set of scales."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.front import FrontOptions, build_network, find_plan
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.variants import largest, shape_variants, shapes_text
from ommatid.isa.pieces import share
from ommatid.isa.program import Program
from ommatid.isa.program_file import load, to_bytes
from ommatid.isa.verifier import verify
from tests import networks

SHAPES = [(1, 3, 16, 16), (1, 3, 16, 32)]


@pytest.mark.parametrize("shapes, variants", [
    ({}, [{}]),
    ({"x": (1, 3, 8, 8)}, [{"x": (1, 3, 8, 8)}]),
    ({"x": [(1, 3)]}, [{"x": (1, 3)}]),
    ({"x": np.array([1, 3])}, [{"x": (1, 3)}]),
    ({"x": ()}, [{"x": ()}]),
    ({"x": [[1, 2], [1, 4]], "z": (5,)}, [{"x": (1, 2), "z": (5,)}, {"x": (1, 4), "z": (5,)}]),
    ({"x": [(1,), (2,)], "z": [(3,), (4,)]}, [{"x": (1,), "z": (3,)}, {"x": (2,), "z": (4,)}]),
    ({"x": [(1,), (1,)], "z": [(3,), (4,)]}, [{"x": (1,), "z": (3,)}, {"x": (1,), "z": (4,)}]),
])  # fmt: skip
def test_shapes_of_several_inputs_go_together(shapes: dict[str, Any], variants: list[dict[str, Any]]) -> None:
    assert shape_variants(shapes) == variants


@pytest.mark.parametrize("shapes, words", [
    ({"x": [(1,), (2,)], "z": [(1,), (2,), (3,)]}, "different numbers of shapes: 2 of 'x', 3 of 'z'"),
    ({"x": [(1, 3), (1, 4), (1, 3)]}, "gives x=1,3 twice"),
])  # fmt: skip
def test_shapes_that_do_not_go_together(shapes: dict[str, Any], words: str) -> None:
    with pytest.raises(CompileError, match=words):
        shape_variants(shapes)


def test_the_largest() -> None:
    assert largest([{"a": (2, 3)}, {"a": (4, 2)}, {"a": (8, 1)}]) == {"a": (4, 2)}
    assert shapes_text({"a": (1, 2), "b": (3,)}) == "a=1,2 b=3"


def scales(program: Program) -> dict[str, Any]:
    """Quantisations by tensor."""
    return {p.tensor.name: p.tensor.quantization for p in program.placed}


@pytest.mark.parametrize("method", ["minmax", "percentile", "auto"])
def test_one_set_of_scales_and_constants(method: str) -> None:
    generator = np.random.default_rng(0)
    samples = [{"x": generator.standard_normal(SHAPES[1]).astype(np.float32)} for _ in range(2)]
    program = compile_model(networks.resizable(), shapes={"x": SHAPES}, calibration=samples, method=method)
    first, second = program.variants
    assert scales(first) == scales(second) and len(scales(first)) >= 3
    assert first.inputs[0].shape == SHAPES[0] and second.outputs[0].shape == (1, 5, 8, 16)
    assert program.info["calibrated_at"] == {"x": list(SHAPES[1])}
    assert not any(verify(variant) for variant in program.variants)
    assert len(share(program.variants)[0][1]) == 0  # all constants are the first's
    assert ("equalize = true" in program.info["recipe"]) == (method == "auto")
    alone = compile_model(networks.resizable(), shapes={"x": SHAPES[1]}, calibration=samples, method=method)
    assert scales(alone) == scales(second)


def test_a_model_that_is_quantised_already(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    compile_model(networks.resizable(), shapes={"x": SHAPES[0]}, save_qdq=str(path))
    quantised = onnx.load(path)
    for value in (quantised.graph.input[0], quantised.graph.output[0]):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}{axis}"
    del quantised.graph.value_info[:]
    program = compile_model(quantised, shapes={"x": SHAPES})
    assert scales(program) == scales(program.others[0])


def test_the_same_bytes_for_the_same_options(tmp_path: Path) -> None:
    first, again = (to_bytes(compile_model(networks.resizable(), shapes={"x": SHAPES})) for _ in range(2))
    assert first == again == to_bytes(load(first))
    turned = to_bytes(compile_model(networks.resizable(), shapes={"x": SHAPES[::-1]}))
    assert first != turned


def test_an_error_names_its_variant() -> None:
    with pytest.raises(CompileError, match=r"variant 1 \(x=1,4,16,16\): .* fixes a dimension to 3"):
        compile_model(networks.resizable(), shapes={"x": [SHAPES[1], (1, 4, 16, 16)]})


def test_ranges_of_another_graph_are_refused() -> None:
    options = FrontOptions(shapes={"x": SHAPES[0]})
    plan = find_plan(networks.resizable(), options)
    assert plan is not None
    short = dataclasses.replace(plan, choices={name: c for name, c in plan.choices.items() if name != "c"})
    with pytest.raises(CompileError, match="tensor 'c' does not exist at the shape where ranges were found"):
        build_network(networks.resizable(), dataclasses.replace(options, plan=short))
