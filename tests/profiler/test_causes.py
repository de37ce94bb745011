"""What keeps instructions: derived waits agree with the simulator's own accounts; bytes that want of SRAM moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.cost import dram_bytes
from ommatid.isa.program import Program
from ommatid.profiler.causes import BANDWIDTH, BANK, CAUSES, lost_cycles, spilled_bytes
from ommatid.profiler.profile import profile
from ommatid.profiler.sram import sram_lives, sram_used
from ommatid.simulator.timing import simulate
from tests import networks


@pytest.fixture(scope="module", params=["ommatid-256", "ommatid-1k"])
def program(request: Any) -> Program:
    return compile_model(
        networks.convolution(size=120), request.param, calibration=[networks.inputs(size=120)]
    )


def test_waits_and_work_sum_to_the_time_of_each_queue(program: Program) -> None:
    run = simulate(program)
    lost = lost_cycles(program, run)
    assert lost.min() >= 0
    for account in run.engines:
        mine = np.flatnonzero(run.engine == ("load", "store", "mx", "vx", "ctl").index(account.engine))
        stalls = account.stall_cycles
        assert abs(int(lost[mine, BANK].sum()) - stalls["bank"]) <= len(mine)  # rounded by instruction
        waits = sum(stalls.values()) - stalls["bank"]
        assert abs(int(lost[mine][:, [i for i in range(len(CAUSES)) if i != BANK]].sum()) - waits) <= 2 * len(
            mine
        )
    dma = np.isin(run.engine, (0, 1))
    ours = int(lost[dma, BANDWIDTH].sum())
    theirs = sum(e.stall_cycles["bandwidth"] for e in run.engines if e.engine in ("load", "store"))
    assert ours == pytest.approx(theirs, rel=0.1, abs=200)


def test_nothing_spills_where_all_fits() -> None:
    small = compile_model(networks.convolution(size=16), calibration=[networks.inputs(size=16)])
    assert spilled_bytes(small).sum() == 0


def test_what_spills_is_of_what_moves(program: Program) -> None:
    spilled = spilled_bytes(program)
    assert (spilled >= 0).all() and (spilled <= dram_bytes(program.instructions, program.target)).all()


def test_sram_in_use_is_what_the_compiler_planned(program: Program) -> None:
    used = sram_used(program, sram_lives(program))
    assert used.max() == max(r.sram_peak_bytes for r in profile(program).rows)
    assert 0 <= program.info["sram_peak_bytes"] - used.max() < 64 * 8  # buffers begin at multiples of 64
