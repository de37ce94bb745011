"""Products of two activations: exact where K is split, no byte moved for a transposition, blocks that fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from ommatid.compiler.layers import MatMul
from ommatid.compiler.lower_matmul import plan_product
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.sram import DoesNotFit
from ommatid.isa.instructions import BY_MNEMONIC
from ommatid.isa.program import Program
from ommatid.isa.target import load_target, preset_names
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from tests import networks

TINY = dataclasses.replace(load_target("ommatid-256"), name="tiny", sram_kib=32, accumulator_kib=4)


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], f"{op} {output}", **attributes)


def compiled(
    nodes: list[Any], shapes: dict[str, Any], folder: Path, constants: Any = None, target: Any = "ommatid-1k",
    activations: str = "uint8",
) -> Program:  # fmt: skip
    """The program of nodes that end in y; its products have onnxruntime's bits."""
    model = networks.model(nodes, shapes, {"y": None}, constants)
    generator = np.random.default_rng(0)
    feeds = [{name: generator.standard_normal(s).astype(np.float32) for name, s in shapes.items()}]
    path = folder / "qdq.onnx"
    program = compile_model(model, target, calibration=feeds, save_qdq=str(path), activations=activations)
    assert verify(program) == []
    reports = layerwise(program, onnx.load(path), feeds)
    exact = [r for r in reports if r.exact]
    assert len(exact) == sum(n.op_type == "MatMul" for n in nodes) and all(r.equal == 1 for r in exact)
    return program


def moved(program: Program) -> set[str]:
    """Operators whose layers have instructions."""
    return {program.layers[i].op for i in set(program.layer_of.tolist()) if i >= 0}


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("target", [TINY, "ommatid-4k"], ids=["tiny", "4k"])
def test_a_long_k_is_split(target: Any, activations: str, tmp_path: Path) -> None:
    program = compiled(
        [node("MatMul", "x z", "y")], {"x": (3, 5000), "z": (5000, 19)}, tmp_path, None, target, activations
    )
    products = (program.instructions["opcode"] == BY_MNEMONIC["conv"].opcode).sum()
    assert products == 1 if target == "ommatid-4k" else products > 10


@pytest.mark.parametrize("target", preset_names())
def test_attention_moves_no_byte_for_its_transposes(target: str, tmp_path: Path) -> None:
    constants = {"apart": np.array([2, -1, 3, 16]), "back": np.array([2, 21, 48])}
    nodes = [
        node("Reshape", "x apart", "xa"), node("Transpose", "xa", "q", perm=[0, 2, 1, 3]),
        node("Reshape", "z apart", "za"), node("Transpose", "za", "k", perm=[0, 2, 3, 1]),
        node("Transpose", "za", "v", perm=[0, 2, 1, 3]), node("MatMul", "q k", "s"), node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "o"), node("Transpose", "o", "t", perm=[0, 2, 1, 3]), node("Reshape", "t back", "y"),
    ]  # fmt: skip
    program = compiled(nodes, {"x": (2, 21, 48), "z": (2, 17, 48)}, tmp_path, constants, target)
    assert moved(program) == {"MatMul", "Softmax"}


def test_a_product_is_turned_where_that_saves_copies(tmp_path: Path) -> None:
    # attention over the pixels of an image: values [channels, pixels] by the transposed scores
    constants = {"flat": np.array([1, 24, 63]), "image": np.array([1, 24, 7, 9])}
    nodes = [
        node("Conv", "x w", "c"), node("Reshape", "c flat", "v"), node("Softmax", "z", "p", axis=-1),
        node("Transpose", "p", "pt", perm=[0, 2, 1]), node("MatMul", "v pt", "o"), node("Reshape", "o image", "i"),
        node("Conv", "i u", "y"),
    ]  # fmt: skip
    weights = np.random.default_rng(1).standard_normal((2, 24, 24, 1, 1)).astype(np.float32)
    model_constants = constants | {"w": weights[0], "u": weights[1]}
    model = networks.model(nodes, {"x": (1, 24, 7, 9), "z": (1, 63, 63)}, {"y": None}, model_constants)
    feeds = [
        {
            "x": weights[0, :, :, 0, 0][None, :, :1, None].repeat(7, 2).repeat(9, 3),
            "z": np.eye(63, dtype=np.float32)[None],
        }
    ]
    program = compile_model(model, calibration=feeds)
    assert moved(program) == {"Conv", "Softmax", "MatMul"}


def test_what_could_overflow_runs_on_the_host() -> None:
    model = networks.model([node("MatMul", "x z", "y")], {"x": (1, 33100), "z": (33100, 1)}, {"y": None})
    feeds = [{"x": np.ones((1, 33100), np.float32), "z": np.ones((33100, 1), np.float32)}]  # zero point 0
    program = compile_model(model, calibration=feeds)
    assert [p.placement for p in program.partitions] == ["cpu"]
    assert "could overflow: 33100 products of 65025 at most" in program.partitions[0].reasons[0]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([TINY, *(load_target(n) for n in preset_names())]), *[st.integers(1, 9000)] * 3, st.integers(0, 20),
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)),
)  # fmt: skip
def test_blocks_fit(target: Any, m: int, k: int, n: int, shift: int, tiles: tuple[int, int, int]) -> None:
    product = MatMul((), m, k, n, (0, 1), (0, 1), (0, 1), 1.0, (0, "uint8"))
    budget = target.sram_bytes >> shift
    try:
        sizes = plan_product(product, target, budget, tiles)
    except DoesNotFit as problem:
        assert problem.need_bytes > budget and budget < 4096
        return
    assert 1 <= sizes.rows <= m and 1 <= sizes.columns <= n and 1 <= sizes.inner <= k
    assert sizes.inner == k or sizes.inner % target.mx_k_bytes == 0
    assert 4 * sizes.rows * sizes.columns <= target.accumulator_bytes // 2
    held = 2 * sizes.columns * sizes.inner
    held += (
        tiles[0] * sizes.rows * sizes.inner
        + tiles[1] * sizes.columns * sizes.inner
        + tiles[2] * sizes.rows * sizes.columns
    )
    assert held <= budget
