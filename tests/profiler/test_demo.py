"""The demo on the real detector: it reads the page, on the NPU and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ommatid.isa.instructions import Memory
from ommatid.isa.program import ROLES
from ommatid.isa.program_file import load, save
from ommatid.profiler import demo
from ommatid.runtime.session import InferenceSession
from tests import networks

pytest.importorskip("rapidocr_onnxruntime")
LEAST_LINES = 4
pytestmark = pytest.mark.xdist_group("demo")  # compiled once


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMMATID_CACHE_DIR", str(folder / "cache"))
        return demo.run_demo(str(folder / "page.png"))


def distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace to make one text the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
    return row[-1]


@pytest.mark.long
def test_reads_the_lines(result: demo.DemoResult) -> None:
    assert len(result.expected) == 5
    close = [
        line
        for line in result.expected
        if any(distance(line, ours) <= len(line) / 20 for ours in result.lines)
    ]
    assert len(close) >= LEAST_LINES, result.lines


@pytest.mark.long
def test_runs_on_the_npu(result: demo.DemoResult) -> None:
    assert all(p.placement == "npu" for p in result.session.program.partitions)
    assert result.npu_macs_share >= 0.99
    assert not any("onnxruntime" in type(v).__module__ for v in vars(result.session).values())
    assert result.session.cycles == result.profile.cycles >= result.session.program.lower_bound_cycles


@pytest.mark.long
def test_draws_the_boxes(result: demo.DemoResult) -> None:
    with Image.open(result.picture) as picture:
        red = (np.asarray(picture) == (220, 30, 60)).all(axis=-1)
    assert red.sum() > 1000


@pytest.mark.long
def test_zeroed_weights_change_the_boxes(result: demo.DemoResult, tmp_path: Path) -> None:
    path = tmp_path / "detector.omm"
    save(result.session.program, path)
    program = load(path)
    weights = program.symbols[
        (program.symbols["memory"] == Memory.DRAM) & (program.symbols["role"] == ROLES.index("constants"))
    ]
    largest: Any = weights[np.argmax(weights["bytes"])]
    program.constants[largest["address"] : largest["address"] + largest["bytes"]] = 0
    save(program, path)
    boxes, _ = demo.read(demo.page(), {demo.DETECTOR: InferenceSession(path)})
    assert not np.array_equal(np.array(boxes), np.array(result.boxes))


def test_macs_on_the_host_are_counted() -> None:
    gemm = networks.model(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)],
        {"x": [6, 2]},
        {"y": [2, 3]},
        {"w": np.zeros((6, 3), np.float32)},
    )
    assert sum(demo.node_macs(gemm).values()) == 2 * 3 * 6
    assert demo.node_macs(networks.convolution()) == {"first": 8 * 8 * 8 * 3 * 9, "second": 8 * 8 * 5 * 8}
