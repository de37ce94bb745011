"""Planted faults in compiled programs: the verifier finds them, and what it calls harmless is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from ommatid.isa.instructions import BY_OPCODE, view
from ommatid.isa.program import Program
from ommatid.isa.verifier import verify
from ommatid.runtime.host import quantize, to_memory
from ommatid.runtime.session import placed_by_name
from ommatid.simulator.functional import Machine
from ommatid.simulator.timing import simulate
from tests.acceptance.test_equal_to_onnxruntime import grouped
from tests.acceptance.test_workloads import compiled
from tests.workloads import images

NETWORKS = grouped(("squeezenet", "inception_v1", "detector"))


def queues(program: Program) -> np.ndarray[Any, Any]:
    return np.array([BY_OPCODE[int(op)].engine for op in program.instructions["opcode"]])


def altered(program: Program) -> Program:
    """A copy whose instructions can be changed."""
    other = copy.copy(program)
    other.instructions = program.instructions.copy()
    return other


def a_token(program: Program, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(signalling instruction, waiting instruction, producer queue, consumer queue) of a token, at random."""
    queue, stream = queues(program), program.instructions
    signaller = int(rng.choice(np.flatnonzero(stream["signal"])))
    bits = [b for b in range(5) if stream["signal"][signaller] >> b & 1]
    consumer, producer = int(rng.choice(bits)), int(queue[signaller])
    signals = np.flatnonzero((queue == producer) & (stream["signal"] >> consumer & 1 == 1))
    waits = np.flatnonzero((queue == consumer) & (stream["wait"] >> producer & 1 == 1))
    return signaller, int(waits[int(np.searchsorted(signals, signaller))]), producer, consumer


def drop_token(program: Program, rng: np.random.Generator) -> Program:
    """A signal and the wait that it matches, removed."""
    faulty = altered(program)
    signaller, waiter, producer, consumer = a_token(program, rng)
    faulty.instructions["signal"][signaller] &= ~np.uint32(1 << consumer)
    faulty.instructions["wait"][waiter] &= ~np.uint32(1 << producer)
    return faulty


def move_token(program: Program, rng: np.random.Generator) -> Program:
    """A signal one instruction earlier in its queue, or a wait one later."""
    while True:
        faulty, queue = altered(program), queues(program)
        signaller, waiter, producer, consumer = a_token(program, rng)
        earlier = rng.random() < 0.5
        field, at, bit = ("signal", signaller, consumer) if earlier else ("wait", waiter, producer)
        mine = np.flatnonzero(queue == queue[at])
        place = int(np.searchsorted(mine, at)) + (-1 if earlier else 1)
        if not 0 <= place < len(mine):
            continue
        other = int(mine[place])
        if faulty.instructions[field][other] >> bit & 1:
            continue
        faulty.instructions[field][at] &= ~np.uint32(1 << bit)
        faulty.instructions[field][other] |= np.uint32(1 << bit)
        return faulty


def move_address(program: Program, rng: np.random.Generator) -> Program:
    """One operand's address moved into the buffer next to its own."""
    while True:
        faulty = altered(program)
        i = int(rng.integers(len(program.instructions)))
        row = BY_OPCODE[int(program.instructions["opcode"][i])]
        slots = [s for s in range(len(row.operands)) if program.operands[i, s] >= 0]
        if not slots:
            continue
        slot = int(rng.choice(slots))
        own = program.symbols[program.operands[i, slot]]
        same = program.symbols[program.symbols["memory"] == own["memory"]]
        after = same[same["address"] >= own["address"] + own["bytes"]]
        if not len(after):
            continue
        neighbour = after[np.argmin(after["address"])]
        field = row.operands[slot].field
        view(faulty.instructions, row.mnemonic)[field][i] = neighbour["address"]
        return faulty


def move_buffer(program: Program, rng: np.random.Generator) -> Program:
    """A buffer of SRAM planned where another begins: all operands of its symbol move, and stay inside it."""
    symbols = program.symbols
    in_sram = np.flatnonzero((symbols["memory"] == 1) & np.isin(np.arange(len(symbols)), program.operands))
    while True:
        at = int(rng.integers(len(in_sram) - 4))  # buffers made one after the other live at the same time
        own, other = rng.choice(in_sram[at : at + 4], 2, replace=False)
        distance = int(symbols["address"][other]) - int(symbols["address"][own])
        end = int(symbols["address"][other]) + int(symbols["bytes"][own])
        if not distance or end > program.target.sram_bytes:
            continue
        faulty = altered(program)
        faulty.symbols = symbols.copy()
        faulty.symbols["address"][own] = symbols["address"][other]
        for i, slot in np.argwhere(program.operands == own):
            row = BY_OPCODE[int(program.instructions["opcode"][i])]
            field = view(faulty.instructions, row.mnemonic)[row.operands[slot].field]
            field[i] = int(field[i]) + distance
        return faulty


def output_bits(program: Program, feeds: np.ndarray[Any, Any], order: list[int] | None) -> bytes:
    machine, placed = Machine(program), placed_by_name(program)
    port = program.inputs[0]
    assert port.tensor is not None
    target = placed[port.tensor]
    machine.write(target, to_memory(quantize(feeds, target.tensor.quantization), target.tensor))
    machine.run(0, len(program.instructions), order=order)
    tensor = program.outputs[0].tensor
    assert tensor is not None
    return bytes(machine.read(placed[tensor]).tobytes())


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_token_faults(name: str) -> None:
    program, rng = compiled(name), np.random.default_rng(1)
    harmless = []
    for k in range(100):
        faulty = (drop_token if k % 2 else move_token)(program, rng)
        if not verify(faulty):
            harmless.append(faulty)
    assert len(harmless) <= 10
    feeds = images(name, 1)[0]
    expected = output_bits(program, feeds, None)
    for faulty in harmless:
        for _ in range(50):
            delays = rng.integers(0, 2000, len(program.instructions))
            assert output_bits(faulty, feeds, simulate(faulty, delays=delays).order()) == expected


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_address_faults(name: str) -> None:
    program, rng = compiled(name), np.random.default_rng(2)
    assert verify(program) == []
    assert [k for k in range(17) if not verify(move_address(program, rng))] == []


@pytest.mark.long
@pytest.mark.xdist_group("squeezenet")
def test_planning_faults() -> None:
    """A plan that lays one buffer over another is reported, or happens to be one that gives the same bits."""
    program, rng = compiled("squeezenet"), np.random.default_rng(4)
    feeds = images("squeezenet", 1)[0]
    expected = output_bits(program, feeds, None)
    harmless = [faulty for _ in range(50) if not verify(faulty := move_buffer(program, rng))]
    print(f"{len(harmless)} of 50 are harmless")
    assert len(harmless) <= 5
    for faulty in harmless:
        for _ in range(5):
            delays = rng.integers(0, 2000, len(program.instructions))
            assert output_bits(faulty, feeds, simulate(faulty, delays=delays).order()) == expected


@pytest.mark.xdist_group("squeezenet")
def test_any_order_of_the_engines_gives_the_same_bits() -> None:
    program, rng = compiled("squeezenet"), np.random.default_rng(3)
    feeds = images("squeezenet", 1)[0]
    expected = output_bits(program, feeds, None)
    for _ in range(5):
        delays = rng.integers(0, 5000, len(program.instructions))
        assert output_bits(program, feeds, simulate(program, delays=delays).order()) == expected
