"""The profile: cycles attributed once, as its rule says, judged by a plain loop over cycles."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program
from ommatid.profiler.profile import profile
from ommatid.profiler.table import layer_table, summary, table, to_csv
from ommatid.simulator.timing import simulate
from tests import networks


@pytest.fixture(scope="module", params=["ommatid-256", "ommatid-1k"])
def program(request: Any) -> Program:
    return compile_model(networks.convolution(size=40), request.param, calibration=[networks.inputs(size=40)])


@pytest.fixture(scope="module")
def mixed() -> Program:
    return compile_model(networks.with_host_part(), calibration=[networks.inputs()])


def owners(program: Program) -> list[int]:
    """For every cycle, the layer of the first instruction in program order that runs in it; -1 if none."""
    result = []
    for part in (p for p in program.partitions if p.placement == "npu"):
        run = simulate(program, part.begin, part.end)
        for cycle in range(run.cycles):
            running = np.flatnonzero((run.start <= cycle) & (cycle < run.finish))
            result.append(int(program.layer_of[part.begin + running[0]]) if len(running) else -1)
    return result


def test_every_cycle_belongs_to_one_row(program: Program) -> None:
    result = profile(program)
    wanted = owners(program)
    assert result.cycles == len(wanted) == sum(row.cycles for row in result.rows)
    assert result.idle.cycles == wanted.count(-1)
    for index, row in enumerate(result.layers):
        assert row.cycles == wanted.count(index)


def test_totals(program: Program, mixed: Program) -> None:
    for each in (program, mixed):
        result = profile(each)
        runs = [simulate(each, p.begin, p.end) for p in each.partitions if p.placement == "npu"]
        assert result.cycles == sum(run.cycles for run in runs)
        assert result.latency_ms == pytest.approx(result.cycles / each.target.clock_mhz / 1e3)
        for engine in ("mx", "vx", "load", "store"):
            busy = sum(e.busy_cycles for run in runs for e in run.engines if e.engine == engine)
            assert result.utilization[engine] == pytest.approx(busy / result.cycles)


def test_host_partitions(mixed: Program) -> None:
    (part,) = profile(mixed).cpu_partitions
    assert "celu" in part["nodes"] and "Celu" in part["reason"] and part["transfer_bytes"] == 2 * 8 * 8 * 8


def test_what_people_see(program: Program) -> None:
    result = profile(program)
    buffer = io.StringIO()
    console = Console(file=buffer, width=140)
    console.print(summary(result), layer_table(result), layer_table(result, 1))
    assert f"{result.cycles:,}" in buffer.getvalue() and "second" in buffer.getvalue()


def test_all_views_are_of_one_table(program: Program) -> None:
    result = profile(program)
    rows = table(result)
    assert result.to_dict()["layers"] == rows and rows[-1]["name"] == "idle"
    printed = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert [row["name"] for row in printed] == [row["name"] for row in rows]
    for row, text in zip(rows, printed, strict=True):
        assert [k for k, v in row.items() if v is None] == list(row["unavailable"])
        for key, value in row.items():
            if isinstance(value, int | float):
                assert float(text[key]) == pytest.approx(value)
    assert sum(row["cycles"] for row in rows) == result.cycles
    assert sum(row["energy_uj"] for row in rows) == pytest.approx(sum(result.energy_uj.values()))
    assert sum(row["instructions"] for row in rows) == len(program.instructions)
    spans = result.owners
    assert spans[0, 0] == 0 and spans[-1, 1] == result.cycles and (spans[1:, 0] == spans[:-1, 1]).all()
    for index, row in enumerate(result.rows):
        mine = spans[:, 2] == (index if index < len(result.layers) else -1)
        assert (spans[mine, 1] - spans[mine, 0]).sum() == row.cycles
