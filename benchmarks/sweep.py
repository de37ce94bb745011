"""A sweep with one process and with two: 64 chips for ResNet-50 at -O1.

``python -m benchmarks.sweep`` prints this table alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from ommatid.isa.target import load_target
from ommatid.profiler.sweep import sweep
from tests.workloads import light

SETTINGS = {
    "sram_kib": [512, 768, 1024, 2048],
    "dram_gb_s": [6.4, 12.8, 25.6, 51.2],
    "mx_pixels": [4, 8],
    "vx_elements_per_cycle": [16, 32],
}


def sweep_table(name: str = "resnet50", points: int = 64) -> Table:
    """Seconds with one process and with two, in caches of their own."""
    settings = SETTINGS | {"vx_elements_per_cycle": SETTINGS["vx_elements_per_cycle"][: max(1, points // 32)]}
    seconds, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{name}.onnx"
        onnx.save(light(name), model)
        for processes in (1, 2):
            os.environ["OMMATID_CACHE_DIR"] = str(Path(folder) / f"cache{processes}")
            begin = time.perf_counter()
            found = sweep(
                [str(model)], load_target("ommatid-1k"), settings, {"method": "minmax"}, 1, processes
            )
            seconds.append(time.perf_counter() - begin)
            results.append(found.points)
        del os.environ["OMMATID_CACHE_DIR"]
    assert results[0] == results[1]
    table = Table(title=f"sweep of {len(results[0])} points, {name} at -O1")
    for title in ("processes", "seconds", "times as fast"):
        table.add_column(title, justify="right")
    table.add_row("1", f"{seconds[0]:.1f}", "")
    table.add_row("2", f"{seconds[1]:.1f}", f"{seconds[0] / seconds[1]:.2f}")
    return table


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--network", default="resnet50")
    options.add_argument("--points", type=int, default=64)
    given = options.parse_args()
    Console(width=120).print(sweep_table(given.network, given.points))
