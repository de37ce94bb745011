"""Cycles beside the two yardsticks, and functional time beside ONNX Runtime on the same QDQ model and cores.

What limits: cycles of classification networks the array; of the detector DRAM, because whole maps are written
out and read back between layers. Functional time is mostly multiplying; what else it is spent on, the table says.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.compiling import compiling_table
from benchmarks.peak import peak_gmacs
from benchmarks.processes import process_table
from benchmarks.sweep import sweep_table
from benchmarks.timing import timing_table
from ommatid.isa.instructions import BY_MNEMONIC
from ommatid.isa.program import Program
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_model
from ommatid.runtime.session import InferenceSession
from ommatid.simulator import settings
from ommatid.simulator.functional import Machine
from tests.workloads import SHAPES, images, input_name, quantized, source

Array = np.ndarray[Any, Any]
NETWORKS = ("squeezenet", "resnet50", "inception_v1", "inception_v2", "densenet121", "shufflenet", "detector")
JUDGED = ("squeezenet", "resnet50", "inception_v2", "densenet121", "detector")  # in the mean of times
BLOCKS, PAUSE_S, WARM_UP_RUNS, RUNS = 20, 0.2, 2, 5  # over ten seconds: the machine may be shared


def main() -> None:
    """Print all tables."""
    console = Console(width=120)
    console.print(
        f"{_cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    )
    programs = {n: compile_model(source(n), shapes={"x": SHAPES[n]} if n in SHAPES else {}) for n in NETWORKS}
    console.print(cycles_table(programs))
    console.print(time_table())
    console.print(timing_table(programs))
    console.print(process_table())
    console.print(sweep_table())
    console.print(compiling_table())


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def cycles_table(programs: dict[str, Program]) -> Table:
    """Simulated cycles on ommatid-1k, networks as ommatid quantises them itself."""
    table = Table(
        "network", "cycles", "over lower bound", "over roofline", "DRAM over compulsory", title="ommatid-1k"
    )
    for name, program in programs.items():
        result = profile(program)
        moved = sum(row.dram_bytes for row in result.layers)
        table.add_row(
            name, f"{result.cycles:,}", f"{result.cycles / program.lower_bound_cycles:.2f}",
            f"{result.cycles / program.roofline_cycles:.2f}", f"{moved / program.compulsory_dram_bytes:.2f}",
        )  # fmt: skip
    return table


#: Column of the table of time: the instructions whose time it shows.
KINDS = {
    "multiply": ("conv", "dwconv"), "map": ("map",),
    "other vx": ("pool", "reduce", "resize", "softmax", "lrn", "norm", "topk", "copy"),
}  # fmt: skip
MOVES = ("load", "store", "send", "fill")


def time_table() -> Table:
    """Functional time over onnxruntime's, uint8 activations (its fast path) and as many threads for both.

    Times are medians of runs in turn. The share of the peak is that of all threads' ``peak_gmacs``. The last columns
    say what one thread spends its time on: measured with instructions of one kind at a time, besides those that move
    bytes.
    """
    count, peak = settings.threads(), peak_gmacs()
    columns = ("network", "over onnxruntime", "ms", "GMAC/s", "of peak", *KINDS, "moves")
    table = Table(
        *columns, title=f"functional execution, {count} threads; multiply peak {peak:.0f} GMAC/s a core"
    )
    ratios = {}
    for name in NETWORKS:
        model = quantized(name, "uint8", 1)
        ours = InferenceSession(compile_model(model))
        ours.cycles_per_run()  # once: it is not execution
        feeds, theirs = {input_name(model): images(name, 1)[0]}, reference(model, count)
        a, b = _in_turn(lambda s=ours, f=feeds: s.run(None, f), lambda s=theirs, f=feeds: s.run(None, f))
        speed = ours.program.macs / a / 1e9
        ratios[name] = a / b
        share = f"{100 * speed / (peak * count):.0f}%" if peak else "-"
        table.add_row(
            name, f"{a / b:.2f}", f"{a * 1e3:.1f}", f"{speed:.0f}", share, *_split(ours.program),
        )  # fmt: skip
    mean = statistics.geometric_mean([ratios[name] for name in JUDGED])
    table.add_row("mean of five", f"{mean:.2f}")
    return table


def reference(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """onnxruntime on the model, with this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _split(program: Program) -> list[str]:
    """Percent of one thread's time that goes to KINDS and moves."""
    machine, opcodes = Machine(program, threads=1), program.instructions["opcode"]

    def spent(*mnemonics: str) -> float:
        wanted = [BY_MNEMONIC[m].opcode for m in (*MOVES, *mnemonics)]
        order = np.flatnonzero(np.isin(opcodes, wanted))
        return _median(lambda: machine.run(0, 0, order=order))

    machine.run(0, len(opcodes))  # so that tables and weights are in SRAM
    whole, moves = spent(*BY_MNEMONIC), spent()
    kinds = [max(0.0, spent(*mnemonics) - moves) for mnemonics in KINDS.values()]
    return [f"{100 * part / whole:.0f}%" for part in (*kinds, moves)]


def _median(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _in_turn(*works: Callable[[], Any]) -> list[float]:
    """Median seconds of each, in blocks of runs in turn, so that the machine's drift hits all.

    Every block begins with a pause and runs that do not count: onnxruntime's threads go on spinning after a run, on a
    core that the other one would miss, and caches have to be warm again after a pause.
    """
    times: list[list[float]] = [[] for _ in works]
    for _ in range(BLOCKS):
        for work, into in zip(works, times, strict=True):
            time.sleep(PAUSE_S)
            for run in range(WARM_UP_RUNS + RUNS):
                begin = time.perf_counter()
                work()
                if run >= WARM_UP_RUNS:
                    into.append(time.perf_counter() - begin)
    return [statistics.median(each) for each in times]


if __name__ == "__main__":
    main()
