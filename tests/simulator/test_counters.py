"""Counters: each has a name, a unit and a meaning, and those in cycles make up the run."""

from __future__ import annotations

from pathlib import Path

from ommatid.simulator.counters import COUNTERS, STALLS, counters, page
from ommatid.simulator.timing import simulate
from tests.isa.builder import Builder


def test_the_page_is_current() -> None:
    committed = Path(__file__).parents[2] / "docs" / "counters.md"
    assert committed.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_cycles_sum_to_the_run_and_work_is_counted() -> None:
    b = Builder()
    b.load(run=1280, signal=["mx"])
    b.conv(in_h=2, in_w=2, out_h=2, out_w=2, cin=16, cout=16, src_row=32, src_pixel=16, weights=4096, acc_pixel=64,
           wait=["load"])  # fmt: skip
    timing = simulate(b.program())
    for engine in timing.engines:
        found = counters(engine)
        assert list(found) == [name for name, _, _ in COUNTERS] and set(STALLS) < set(found)
        assert sum(found[name] for name, unit, _ in COUNTERS if unit == "cycles") == timing.cycles
    load, mx = (next(e for e in timing.engines if e.engine == name) for name in ("load", "mx"))
    assert counters(load)["port"] == 1280 and counters(mx)["macs"] == 4 * 16 * 16
