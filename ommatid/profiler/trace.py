"""A run as a Perfetto trace (ui.perfetto.dev): layers, engines, DRAM, SRAM and tokens. One nanosecond is one cycle."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.assembly import instruction_lines
from ommatid.isa.cost import dram_bytes
from ommatid.isa.instructions import BY_OPCODE
from ommatid.profiler.extras import needed
from ommatid.profiler.profile import ENGINE_NAMES, IDLE, Profile
from ommatid.profiler.sram import sram_lives
from ommatid.profiler.table import COLUMNS, table
from ommatid.profiler.tokens import token_pairs

Array = np.ndarray[Any, Any]
SEQUENCE = 1
#: Numbers of tracks; engines of core c have ENGINES + 8 * c + engine.
PROCESS, LAYERS, DRAM, SRAM, ENGINES = 1, 2, 3, 4, 16


def to_trace(result: Profile) -> bytes:
    """The trace's bytes.

    Raises:
        MissingExtra: the package perfetto is not installed.
    """
    pb2 = needed("perfetto.protos.perfetto.trace.perfetto_trace_pb2", "report")
    trace = pb2.Trace()
    _tracks(trace, result)
    _layers(trace, pb2, result)
    base, flow = 0, 1
    for run in result.runs:
        flow = _instructions(trace, pb2, result, run, base, flow)
        base += run.cycles
    steps = {DRAM: dram_rate(result), SRAM: sram_steps(result)}
    for track, (times, values) in steps.items():
        for time, value in zip(times.tolist(), values.tolist(), strict=True):
            event = _event(trace, time, track, pb2.TrackEvent.TYPE_COUNTER)
            event.double_counter_value = value
    return bytes(trace.SerializeToString())


def _tracks(trace: Any, result: Profile) -> None:
    program = result.program
    model = program.info.get("model", "network")
    process = _track(trace, PROCESS, "")
    process.ClearField("parent_uuid")
    process.process.pid = 1
    process.process.process_name = f"{model} on {program.target.name} (1 ns = 1 cycle)"
    _track(trace, LAYERS, "layers")
    _track(trace, DRAM, "DRAM, bytes a cycle").counter.unit_name = "B/cycle"
    _track(trace, SRAM, "SRAM in use, bytes").counter.unit_name = "B"
    for core in sorted({e.core for e in result.engines}):
        for engine, name in enumerate(ENGINE_NAMES):
            _track(trace, ENGINES + 8 * core + engine, f"core {core} {name}")


def _track(trace: Any, uuid: int, name: str) -> Any:
    packet = trace.packet.add()
    packet.trusted_packet_sequence_id = SEQUENCE
    track = packet.track_descriptor
    track.uuid, track.parent_uuid = uuid, PROCESS
    if name:
        track.name = name
    return track


def _event(trace: Any, time: int, track: int, kind: int) -> Any:
    packet = trace.packet.add()
    packet.timestamp, packet.trusted_packet_sequence_id = time, SEQUENCE
    event = packet.track_event
    event.type, event.track_uuid = kind, track
    return event


def _note(event: Any, name: str, value: Any) -> None:
    note = event.debug_annotations.add()
    note.name = name
    if isinstance(value, bool | int):
        note.int_value = value
    elif isinstance(value, float):
        note.double_value = value
    else:
        note.string_value = value if isinstance(value, str) else ", ".join(value)


def _layers(trace: Any, pb2: Any, result: Profile) -> None:
    """Each span with the name of the row that owns it; the first of a row has the table's figures."""
    rows, told = table(result), set()
    for begin, end, owner in result.owners.tolist():
        row = rows[owner]  # -1: idle, the last
        event = _event(trace, begin, LAYERS, pb2.TrackEvent.TYPE_SLICE_BEGIN)
        event.name = row["name"]
        if owner not in told:
            told.add(owner)
            for column in COLUMNS[1:]:
                if row[column.key] is not None:
                    _note(event, column.key, row[column.key])
        _event(trace, end, LAYERS, pb2.TrackEvent.TYPE_SLICE_END)


def _instructions(trace: Any, pb2: Any, result: Profile, run: Any, base: int, flow: int) -> int:
    """A run's instructions on their engines' tracks, and flows along their tokens; the next flow's number."""
    program, count = result.program, len(run.start)
    stream = program.instructions[run.begin : run.begin + count]
    lines = instruction_lines(program)
    out: list[list[int]] = [[] for _ in range(count)]
    into: list[list[int]] = [[] for _ in range(count)]
    for makers, takers in token_pairs(stream):
        for maker, taker in zip(makers.tolist(), takers.tolist(), strict=True):
            out[maker].append(flow)
            into[taker].append(flow)
            flow += 1
    order = np.lexsort((run.start, run.engine + 8 * run.core))
    for i in order.tolist():
        track = ENGINES + 8 * int(run.core[i]) + int(run.engine[i])
        event = _event(trace, base + int(run.start[i]), track, pb2.TrackEvent.TYPE_SLICE_BEGIN)
        event.name = BY_OPCODE[int(stream["opcode"][i])].mnemonic
        event.flow_ids.extend(out[i])
        event.terminating_flow_ids.extend(into[i])
        layer = int(program.layer_of[run.begin + i])
        _note(event, "layer", program.layers[layer].name if layer >= 0 else IDLE)
        _note(event, "nodes", program.layers[layer].nodes if layer >= 0 else ())
        _note(event, "instruction", lines[run.begin + i].partition("  ; ")[0].strip())
        _event(trace, base + int(run.released[i]), track, pb2.TrackEvent.TYPE_SLICE_END)
    return flow


def dram_rate(result: Profile) -> tuple[Array, Array]:
    """Bytes a cycle from each of these moments on; each transfer's spread evenly from its start to its end."""
    moved = dram_bytes(result.program.instructions, result.program.target)
    parts, base = [], 0
    for run in result.runs:
        of_run = moved[run.begin : run.begin + len(run.start)]
        where = np.flatnonzero(of_run)
        rate = of_run[where] / np.maximum(run.finish[where] - run.start[where], 1)
        parts.append(
            (base + run.start[where], base + np.maximum(run.finish[where], run.start[where] + 1), rate)
        )
        base += run.cycles
    return _steps([p[0] for p in parts], [p[1] for p in parts], [p[2] for p in parts])


def sram_steps(result: Profile) -> tuple[Array, Array]:
    """Bytes of SRAM in use from each of these moments on."""
    lives = sram_lives(result.program)
    start, finish = instruction_times(result)
    return _steps([start[lives.first]], [finish[lives.last]], [lives.bytes.astype(np.float64)])


def instruction_times(result: Profile) -> tuple[Array, Array]:
    """When each instruction of the program starts and is done, cycles from the begin of the first run."""
    start, finish = np.zeros((2, len(result.program.instructions)), np.int64)
    base = 0
    for run in result.runs:
        mine = slice(run.begin, run.begin + len(run.start))
        start[mine], finish[mine] = base + run.start, base + run.finish
        base += run.cycles
    return start, finish


def _steps(begins: list[Array], ends: list[Array], values: list[Array]) -> tuple[Array, Array]:
    if not begins:
        return np.zeros(0, np.int64), np.zeros(0)
    value = np.concatenate(values)
    times = np.concatenate([*begins, *ends])
    moments, at = np.unique(times, return_inverse=True)
    change = np.bincount(at, np.concatenate([value, -value]), len(moments))
    return moments, np.maximum(np.cumsum(change).round(6), 0)
