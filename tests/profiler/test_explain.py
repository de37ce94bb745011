"""What limits a network: three that were planted, and what twice the chip gives them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.profiler.explain import DOUBLED, beside, explain
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_model
from tests import networks
from tests.profiler.planted import PLANTED


@pytest.mark.parametrize("bound", PLANTED)
def test_the_bound_is_right_and_what_ifs_move_it(bound: str, tmp_path: Path) -> None:
    model, target, helps = PLANTED[bound]
    onnx.save(model, tmp_path / "m.onnx")
    program = compile_model(tmp_path / "m.onnx", target, method="minmax", info={"model": "m.onnx"})
    found = explain(program, beside(str(tmp_path / "m.omm"), program))
    assert found.result.bound == bound
    gains = {each.change: each.speedup or 0.0 for each in found.what_ifs}
    assert list(gains) == list(DOUBLED) and gains[helps] > 1.2
    if bound == "sram":  # twice the SRAM moves the bound
        after = next(each for each in found.what_ifs if each.change == "SRAM")
        assert after.bound != "sram" and gains["array"] < 1.02 > gains["clock"]
    else:
        assert all(gain < 1.05 for change, gain in gains.items() if change not in (helps, "clock"))
    lines = list(found.lines())
    assert (
        5 <= len(lines) <= 10 and f"bound by {bound}" in lines[1] and f"{found.result.cycles:,}" in lines[0]
    )
    lost = sum(cycles for _, cycles, _ in found.lost)
    assert lost >= found.result.cycles - program.roofline_cycles - 1


def test_what_ifs_are_compiled_anew() -> None:
    model, target, _ = PLANTED["mx"]
    program = compile_model(model, target, method="minmax")
    found = explain(program, model)
    chip = dataclasses.replace(program.target, clock_mhz=2 * program.target.clock_mhz)
    faster = profile(compile_model(model, chip, method="minmax"))
    clock = next(each for each in found.what_ifs if each.change == "clock")
    assert (clock.cycles, clock.bound) == (faster.cycles, faster.bound)


def test_nodes_on_the_host_are_told() -> None:
    model = networks.with_host_part()
    lines = list(explain(compile_model(model, method="minmax"), model).lines())
    assert any("celu: no rule for operator Celu" in line for line in lines) and len(lines) <= 10
    (line,) = explain(compile_model(model, npu=False), model).lines()
    assert line.startswith("Nothing of it runs on the NPU")


def test_without_the_model_and_with_another() -> None:
    program = compile_model(networks.convolution(), method="minmax")
    found = explain(program)
    assert all(each.cycles is None and "--model" in each.reason for each in found.what_ifs)
    assert "not known" in list(found.lines())[-1]
    with pytest.raises(CompileError):
        explain(program, networks.with_host_part())
