"""Cycles beside the two yardsticks, and functional time beside ONNX Runtime on the same QDQ model and cores.

What limits: cycles of classification networks the array; of the detector DRAM, because whole maps are written
out and read back between layers. Functional time the int8 dot products, which Numba vectorises by itself.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import onnxruntime
from rich.console import Console
from rich.table import Table

from ommatid.compiler.pipeline import compile_model
from ommatid.profiler.profile import profile
from ommatid.runtime.session import InferenceSession
from tests.workloads import SHAPES, images, input_name, quantized, source

NETWORKS = ("squeezenet", "resnet50", "inception_v1", "inception_v2", "densenet121", "shufflenet", "detector")
RUNS = 3


def main() -> None:
    """Print both tables."""
    console = Console(width=120)
    console.print(
        f"{_cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    )
    console.print(cycles_table())
    console.print(time_table())


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def cycles_table() -> Table:
    """Simulated cycles on ommatid-1k, networks as ommatid quantises them itself."""
    table = Table(
        "network", "cycles", "over lower bound", "over roofline", "DRAM over compulsory", title="ommatid-1k"
    )
    for name in NETWORKS:
        program = compile_model(source(name), shapes={"x": SHAPES[name]} if name in SHAPES else {})
        result = profile(program)
        moved = sum(row.dram_bytes for row in result.layers)
        table.add_row(
            name, f"{result.cycles:,}", f"{result.cycles / program.lower_bound_cycles:.2f}",
            f"{result.cycles / program.roofline_cycles:.2f}", f"{moved / program.compulsory_dram_bytes:.2f}",
        )  # fmt: skip
    return table


def time_table() -> Table:
    """Functional time over onnxruntime's, uint8 activations (its fast path), medians taken in turn."""
    table = Table(
        "network", "over onnxruntime", "GMAC/s", title="functional execution, median of interleaved runs"
    )
    for name in NETWORKS:
        model = quantized(name, "uint8", 1)
        program = compile_model(model)
        feeds = {input_name(model): images(name, 1)[0]}
        ours = InferenceSession(program)
        theirs = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        a, b = _in_turn(lambda s=ours, f=feeds: s.run(None, f), lambda s=theirs, f=feeds: s.run(None, f))
        table.add_row(name, f"{a / b:.1f}", f"{program.macs / a / 1e9:.1f}")
    return table


def _in_turn(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of both, after a warm-up, run in turn so that the machine's drift hits both."""
    first()
    second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for work, into in zip((first, second), times, strict=True):
            begin = time.perf_counter()
            work()
            into.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
