"""The Perfetto trace, parsed back: its figures are the table's, its flows the tokens."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.cost import dram_bytes
from ommatid.profiler.profile import Profile, profile
from ommatid.profiler.table import table
from ommatid.profiler.trace import DRAM, ENGINES, LAYERS, SRAM, dram_rate, to_trace
from tests.profiler.regressions import residual

pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")


@pytest.fixture(scope="module")
def result() -> Profile:
    return profile(compile_model(residual(), "ommatid-256", method="minmax"))


@pytest.fixture(scope="module")
def trace(result: Profile) -> Any:
    parsed = pb2.Trace()
    parsed.ParseFromString(to_trace(result))
    return parsed


def events(trace: Any, track: int) -> list[tuple[int, Any]]:
    packets = [packet for packet in trace.packet if packet.HasField("track_event")]
    return [(p.timestamp, p.track_event) for p in packets if p.track_event.track_uuid == track]


def test_layers_have_the_tables_cycles(trace: Any, result: Profile) -> None:
    cycles: dict[str, int] = defaultdict(int)
    told = {}
    found = events(trace, LAYERS)
    for (begin, event), (end, after) in zip(found[::2], found[1::2], strict=True):
        assert event.type == pb2.TrackEvent.TYPE_SLICE_BEGIN and after.type == pb2.TrackEvent.TYPE_SLICE_END
        cycles[event.name] += end - begin
        told[event.name] = told.get(event.name) or {a.name: a.int_value for a in event.debug_annotations}
    for row in table(result):
        assert cycles[row["name"]] == row["cycles"]
        assert not row["cycles"] or told[row["name"]]["dram_bytes"] == row["dram_bytes"]


def test_every_instruction_is_on_its_engine(trace: Any, result: Profile) -> None:
    (run,) = result.runs
    names = {
        p.track_descriptor.uuid: p.track_descriptor.name
        for p in trace.packet
        if p.HasField("track_descriptor")
    }
    for engine, name in enumerate(("load", "store", "mx", "vx")):
        assert names[ENGINES + engine] == f"core 0 {name}"
        found = events(trace, ENGINES + engine)
        spans = [(b, e) for (b, _), (e, _) in zip(found[::2], found[1::2], strict=True)]
        assert spans == list(map(tuple, run.busy_intervals(engine).tolist()))
    conv = next(e for _, e in events(trace, ENGINES + 2) if e.name == "conv")
    told = {a.name: a.string_value for a in conv.debug_annotations}
    assert told["layer"] in {row.name for row in result.rows} and "mx.conv" in told["instruction"]


def test_flows_are_the_tokens(trace: Any, result: Profile) -> None:
    stream = result.program.instructions
    starts = [f for p in trace.packet for f in p.track_event.flow_ids]
    ends = [f for p in trace.packet for f in p.track_event.terminating_flow_ids]
    assert sorted(starts) == sorted(ends) and len(set(starts)) == len(starts)
    assert len(ends) == int(np.bitwise_count(stream["wait"]).sum()) > 0


def test_counters(trace: Any, result: Profile) -> None:
    sram = [e.double_counter_value for _, e in events(trace, SRAM)]
    assert sram[-1] == 0 and max(sram) >= max(row.sram_peak_bytes for row in result.rows)
    assert max(sram) <= result.program.target.sram_bytes
    times, rates = dram_rate(result)
    total = dram_bytes(result.program.instructions, result.program.target).sum()
    assert (np.diff(times) * rates[:-1]).sum() == pytest.approx(total, rel=1e-5)
    assert [t for t, _ in events(trace, DRAM)] == times.tolist()
