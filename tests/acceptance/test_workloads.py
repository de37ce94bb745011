"""Workloads as a model developer compiles them: placement, cycles, determinism."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ommatid.compiler.model import read_proto
from ommatid.isa.assembly import assemble, disassemble
from ommatid.isa.program import Program
from ommatid.isa.program_file import to_bytes
from ommatid.profiler.profile import profile
from ommatid.profiler.report import to_html
from ommatid.runtime.compile import compile_model
from tests.acceptance.test_equal_to_onnxruntime import grouped
from tests.profiler.browser import opened
from tests.profiler.test_report import check_page
from tests.workloads import SHAPES, images, source


@functools.cache
def compiled(name: str, target: str = "ommatid-1k") -> Program:
    """A workload at -O2, once in each worker: tests of one network are in one group."""
    shapes = {"x": SHAPES[name]} if name in SHAPES else {}
    return compile_model(source(name), target, shapes=shapes, calibration=_feeds(name), method="minmax")


def _feeds(name: str) -> list[dict[str, object]]:
    names = {"detector": "x"}
    key = names.get(name) or next(
        i.name
        for i in source(name).graph.input
        if i.name not in {w.name for w in source(name).graph.initializer}
    )
    return [{key: x} for x in images(name, 2)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "most", "overlap"),
    [
        pytest.param(name, *limits, marks=pytest.mark.xdist_group(name))
        for name, *limits in (
            ("resnet50", 1.6, 0.55), ("densenet121", 1.6, 0.55), ("detector", 3.5, 0.0), ("squeezenet", None, 0.0),
        )
    ],
)  # fmt: skip
def test_cycles(name: str, most: float | None, overlap: float) -> None:
    program = compiled(name)
    assert [p.placement for p in program.partitions] == ["npu"]
    result = profile(program)
    assert result.cycles >= program.lower_bound_cycles
    assert most is None or result.cycles <= most * program.lower_bound_cycles
    busy = {e.engine: e.busy_cycles for e in result.engines}
    assert result.mx_and_load_cycles >= overlap * min(busy["mx"], busy["load"])
    assert (
        sum(row.cycles for row in result.rows) == result.cycles and result.idle.cycles <= 0.02 * result.cycles
    )
    given = read_proto(source(name))[0].graph.node
    assert sorted(n.name for n in result.nodes) == sorted(
        n.name or n.output[0] for n in given if n.name or n.op_type == "Constant"
    )
    for e in result.engines:
        assert e.busy_cycles + sum(e.stall_cycles.values()) + e.idle_cycles == result.cycles


SCRIPT = """
import hashlib, sys
from tests.acceptance.test_workloads import compiled
from ommatid.isa.program_file import to_bytes
print(hashlib.sha256(to_bytes(compiled(sys.argv[1]))).hexdigest())
"""


@pytest.mark.long
@pytest.mark.parametrize("name", grouped(("squeezenet", "detector")))
def test_two_processes_make_the_same_bytes(name: str, tmp_path: Path) -> None:
    """The other remembers no trial of a search."""
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        env=os.environ | {"PYTHONHASHSEED": "1", "OMMATID_CACHE_DIR": str(tmp_path)}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert other.strip() == hashlib.sha256(to_bytes(compiled(name))).hexdigest()


@pytest.mark.long
@pytest.mark.parametrize("name", grouped(("squeezenet", "resnet50", "detector")))
def test_assembly_gives_back_the_file(name: str) -> None:
    program = compiled(name)
    assert to_bytes(assemble(disassemble(program))) == to_bytes(program)


@pytest.mark.long
@pytest.mark.parametrize("name", grouped(("resnet50", "detector")))
def test_the_page_in_a_browser(name: str, tmp_path: Path) -> None:
    result, path = profile(compiled(name)), tmp_path / "report.html"
    path.write_text(to_html(result), encoding="utf-8")
    assert path.stat().st_size < 6e6
    with opened(path) as (page, faults):
        check_page(page, result)
        assert not faults
