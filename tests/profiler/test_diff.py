"""What changed: nothing of a program with itself; layers are matched by nodes, however they are fused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program
from ommatid.isa.program_file import save
from ommatid.profiler.diff import DiffError, diff, diff_markdown, match, read_rows
from ommatid.profiler.profile import profile
from ommatid.profiler.table import table
from tests import networks
from tests.networks import convolutional


@pytest.fixture(scope="module")
def pair() -> tuple[Program, Program]:
    model = convolutional.efficientnet()
    return tuple(compile_model(model, optimize=o, method="minmax") for o in (2, 0))  # type: ignore[return-value]


def row(name: str, *nodes: str, **figures: float) -> dict[str, Any]:
    zero = dict.fromkeys(("cycles", "instructions", "dram_bytes", "sram_peak_bytes", "energy_uj"), 0)
    return {"name": name, "nodes": list(nodes)} | zero | figures


def test_nothing_differs_from_itself(pair: tuple[Program, Program]) -> None:
    for program in pair:
        rows = table(profile(program))
        result = diff(rows, rows)
        assert not result.changed and result.to_dict()["layers"] == []
        assert all(a == b for a, b in result.total.values())


def test_totals_and_layers_add_up_through_fusion(pair: tuple[Program, Program]) -> None:
    before, after = (table(profile(program)) for program in pair)
    assert len(before) < len(after)
    result = diff(before, after)
    grown = sum(c.figures["cycles"][1] - c.figures["cycles"][0] for c in result.layers)
    assert grown == result.total["cycles"][1] - result.total["cycles"][0] > 0
    split = [c for c in result.layers if len(c.before) == 1 and len(c.after) > 1]
    assert split and all(c.before and c.after for c in result.layers)
    names = [n for c in result.layers for n in c.after]
    assert len(names) == len(set(names))


def test_matching() -> None:
    before = [row("a", "conv", "relu"), row("b", "add"), row("idle")]
    after = [row("a", "conv"), row("r", "relu"), row("c", "mul"), row("idle")]
    groups = [([r["name"] for r in x], [r["name"] for r in y]) for x, y in match(before, after)]
    assert groups == [(["a"], ["a", "r"]), (["b"], []), (["idle"], ["idle"]), ([], ["c"])]


def test_markdown_has_the_change() -> None:
    text = diff_markdown(diff([row("a|b", "n", cycles=100)], [row("a|b", "n", cycles=150)]))
    assert "100 → 150 (+50.0%)" in text and "a\\|b" in text and text.splitlines()[1].startswith("| --- |")


def test_a_variant_that_is_not_there(tmp_path: Path) -> None:
    program = compile_model(networks.convolution(), calibration=[networks.inputs()])
    save(dataclasses.replace(program), tmp_path / "m.omm")
    with pytest.raises(DiffError, match="no variant 1"):
        read_rows(str(tmp_path / "m.omm"), 1)
