"""How low buffers are placed: generated problems of the MiniMalloc benchmark's kind, or files of its format.

The bound of a problem, the most bytes alive at one time, is known to be reached where the problem was cut from a
rectangle of that height, and where a planner reaches it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from ommatid.compiler.placement import EXACT, FAST, place
from ommatid.compiler.placement_sections import Box, sections
from tests.compiler.boxes import FAMILIES, HEIGHT, problem, read_csv, write_csv

COUNTS = (50, 100, 150, 200)
SEEDS = 10


class Result(NamedTuple):
    """Of a problem: whether its bound is known to be reached, by how much the peaks of addresses in order of use, of
    the heuristic and of the exact planner are above it, and both planners' seconds."""

    known: bool
    in_order: float
    fast: float
    exact: float
    fast_s: float
    exact_s: float


def main() -> None:
    """Print the table of generated problems; or of files their peaks, and write the placements beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="CSV with columns id, lower, upper, size")
    options = parser.parse_args()
    console = Console(width=132)
    console.print(of_files(options.files) if options.files else generated())


def generated(counts: Sequence[int] = COUNTS, seeds: int = SEEDS) -> Table:
    """Of each family and size: how often the exact planner reaches a known bound, and how far above the others are."""
    columns = (
        "problems", "boxes", "bound known", "exact reaches it", "heuristic above", "at most", "in order of use above",
        "heuristic s", "exact s at most",
    )  # fmt: skip
    table = Table(*columns, title=f"placement, {seeds} problems of each kind and size")
    everything: list[Result] = []
    for family in FAMILIES:
        for count in counts:
            results = [_measured(problem(family, count, seed), family) for seed in range(seeds)]
            table.add_row(family, str(count), *_summary(results))
            everything += results
    table.add_row("all", "", *_summary(everything))
    return table


def _measured(boxes: list[Box], family: str) -> Result:
    bound = int(sections(boxes).total.max())
    peaks, seconds = [], [time.perf_counter()]
    for steps in (0, FAST, EXACT):
        peaks.append(place(boxes, steps).peak)
        seconds.append(time.perf_counter())
    known = bound in peaks or (family != "networks" and bound == HEIGHT)
    above = [peak / bound - 1 for peak in peaks]
    return Result(known, *above, seconds[2] - seconds[1], seconds[3] - seconds[2])


def _summary(results: Sequence[Result]) -> list[str]:
    known = [each for each in results if each.known]
    return [
        f"{len(known)}", f"{mean(each.exact == 0 for each in known):.1%}", f"{mean(each.fast for each in known):.2%}",
        f"{max(each.fast for each in known):.1%}", f"{mean(each.in_order for each in known):.0%}",
        f"{mean(each.fast_s for each in results):.3f}", f"{max(each.exact_s for each in results):.1f}",
    ]  # fmt: skip


def of_files(files: Sequence[Path]) -> Table:
    """Peaks of files' problems; the exact planner's placement of X.csv is written to X.placed.csv."""
    table = Table("file", "boxes", "in order of use", "heuristic", "exact", "no lower than")
    for file in files:
        boxes = read_csv(file)
        in_order, fast, exact = (place(boxes, steps) for steps in (0, FAST, EXACT))
        write_csv(file.with_suffix(".placed.csv"), boxes, exact.offsets)
        figures = (len(boxes), in_order.peak, fast.peak, exact.peak, exact.bound)
        table.add_row(file.name, *(f"{figure:,}" for figure in figures))
    return table


if __name__ == "__main__":
    main()
