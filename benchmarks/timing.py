"""The timing executor's speed: instructions and cycles a second, in the event loop alone and with decoding.

The event loop is ``events.run`` on instructions that are decoded: queues, tokens, DRAM, banks, fetch and accounts.
With decoding, it is ``timing.simulate``, of a program that it has not seen. What limits: the loop is some 400 of the
host's instructions for each of the program, and in these about one branch that cannot be predicted
(which engine is through next, whether its successor may start); decoding steps the first 2048 beats of each instruction
whose words crowd in few banks, and little else counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from ommatid.isa.instructions import STREAM, Engine
from ommatid.isa.program import Program
from ommatid.simulator import events, timing
from ommatid.simulator.state import fresh, prepare

RUNS, LOOP_RUNS = 9, 99  # of what takes milliseconds, and less than one
TILES = 2000


def timing_table(programs: dict[str, Program]) -> Table:
    """Networks, and a stream of tiles (load, mx, vx, store with tokens) that shows the loop itself."""
    table = Table(
        "", "instructions", "M instr/s", "with decoding", "M cycles/s", title="timing, best of runs"
    )
    for name, program in programs.items():
        loop = _loop_seconds(timing.decode(program.instructions, program.target))
        whole = _best(lambda _, p=program: timing.simulate(p), lambda: None)
        count, cycles = len(program.instructions), timing.simulate(program).cycles
        table.add_row(
            name,
            f"{count:,}",
            f"{count / loop / 1e6:.1f}",
            f"{count / whole / 1e6:.2f}",
            f"{cycles / whole / 1e6:,.0f}",
        )
    table.add_row("tiles", f"{4 * TILES:,}", f"{4 * TILES / _loop_seconds(tiles()) / 1e6:.1f}", "", "")
    return table


def tiles() -> Any:
    """WORK records of TILES times load, mx, vx and store over two buffers each.

    All that is modelled takes part: load and store share the DRAM with the fetcher, mx and vx ask for more words than
    there are banks, and each queue waits for the one before and, from the third tile on, for the buffer of the one
    behind it.
    """
    names = (Engine.LOAD, Engine.MX, Engine.VX, Engine.STORE)
    stream = np.zeros(4 * TILES, STREAM)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        stream["signal"][i::4] |= 1 << names[j]
        stream["wait"][j::4] |= 1 << names[i]
        stream["signal"][j:-8:4] |= 1 << names[i]
        stream["wait"][i + 8 :: 4] |= 1 << names[j]
    costs, words, moved, after = [20, 60, 50, 20], [0.8, 9, 8, 1], [256, 0, 0, 256], [100, 0, 0, 100]
    queue = np.tile([int(engine) for engine in names], TILES)
    dma = {
        "cap": [12.8, 0, 0, 12.8],
        "claim": [76.8, 0, 0, 25.6],
        "hold": [16, 0, 0, 17],
        "tail": [4, 0, 0, 0],
    }
    columns = {"cost": costs, "pace": costs, "words": words, "dram_bytes": moved, "after": after, **dma}
    tiled = {name: np.tile(np.array(column, np.float64), TILES) for name, column in columns.items()}
    return prepare(queue, stream["wait"], stream["signal"], **tiled)


def _loop_seconds(work: Any) -> float:
    """The event loop alone, with the DRAM and the banks of ommatid-1k."""
    return _best(
        lambda given: events.run(*given),
        lambda: (work.copy(), fresh(work, 12.8, 64, 16)),
        LOOP_RUNS,
    )


def _best(run: Callable[[Any], Any], fresh: Callable[[], Any], runs: int = RUNS) -> float:
    """Least seconds of several runs; what a run uses up is made before it."""
    times = []
    for _ in range(runs):
        given = fresh()
        begin = time.perf_counter()
        run(given)
        times.append(time.perf_counter() - begin)
    return min(times)
