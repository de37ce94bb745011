"""One program on all executors: whether the bits are equal, and what the cycles are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, Engine
from ommatid.isa.program import Program
from ommatid.simulator import reference, timing
from ommatid.simulator.functional import Machine
from ommatid.simulator.memories import Memories
from ommatid.simulator.timing import Timing


@dataclass(frozen=True)
class Outcome:
    """``fast`` and ``reference`` are cycles of the timing executor and of the reference machine.

    ``kind`` is what the program is, a layer's or "random"; ``cause`` says where the two differ most. ``durations`` are
    those of each instruction, by mnemonic: cycles that it holds its engine and from its start to its end, fast and
    reference's (int64 [instructions, 4]).
    """

    name: str
    target: str
    kind: str
    instructions: int
    fast: int
    reference: int
    equal: bool
    cause: str
    durations: dict[str, np.ndarray[Any, Any]]

    @property
    def percent(self) -> float:
        """The error of the fast cycles, percent of the reference's."""
        return 100 * (self.fast / self.reference - 1)


def compare(
    name: str, program: Program, memories: Memories | None = None, kind: str | None = None
) -> Outcome:
    """Run a program on all executors, from ``memories`` if given, else from its constants; they are not changed.

    Raises:
        AssertionError: cycles are missing in an account.
    """
    machine = Machine(program)
    start = None
    if memories is not None:
        cores, used = program.target.cores, len(machine.sram)  # those that the program has nothing for: zeros
        start = reference.Memories(
            memories.dram.copy(), _each(memories.sram[:used], cores), _each(memories.acc[:used], cores)
        )
        machine.dram[:] = memories.dram
        for ours, given in ((machine.sram, memories.sram), (machine.acc, memories.acc)):
            for mine, other in zip(ours, given, strict=False):
                mine[:] = other
    fast, judge = timing.simulate(program), reference.simulate(program, memories=start)
    machine.run(0, len(program.instructions))
    check_accounts(fast, judge)
    return Outcome(
        name, program.target.name, kind or "random", len(program.instructions), fast.cycles, judge.cycles,
        same_bits(machine, judge.memories), cause(program, fast, judge), durations(program, fast, judge),
    )  # fmt: skip


def _each(given: list[Any], cores: int) -> list[Any]:
    """A copy for each core; zeros where none is given."""
    return [given[c].copy() if c < len(given) else np.zeros_like(given[0]) for c in range(cores)]


def same_bits(machine: Machine, memories: reference.Memories) -> bool:
    """Whether DRAM, SRAM and accumulators of all cores are equal; a core that the one does not have, zero."""
    pairs = [(machine.dram, memories.dram)]
    for ours, theirs in ((machine.sram, memories.sram), (machine.acc, memories.acc)):
        pairs += zip(_each(ours, len(theirs)), theirs, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def check_accounts(fast: Timing, judge: reference.Reference) -> None:
    """Busy, stalls and idle of every engine sum to the cycles, in both."""
    for engine in fast.engines:
        parts = [engine.busy_cycles, engine.idle_cycles, *engine.stall_cycles.values()]
        assert min(parts) >= 0 and sum(parts) == fast.cycles, f"timing: {engine}"
    for name, account in judge.accounts.items():
        parts = [account.busy, account.idle, *account.stalls.values()]
        assert min(parts) >= 0 and sum(parts) == judge.cycles, f"reference: {name} {account}"


def durations(program: Program, fast: Timing, judge: reference.Reference) -> dict[str, np.ndarray[Any, Any]]:
    """By mnemonic, [instructions, 4]: cycles held and from start to end, of the fast executor and the reference."""
    opcode = program.instructions["opcode"]
    columns = np.stack(
        [
            fast.released - fast.start,
            judge.released - judge.start,
            fast.finish - fast.start,
            judge.end - judge.start,
        ],
        axis=1,
    )
    return {BY_OPCODE[int(op)].mnemonic: columns[opcode == op] for op in np.unique(opcode)}


#: Why an instruction of an engine takes other cycles in the fast model, by what of it differs.
WHY = {
    ("load", "held"): "shares of the DRAM are rates there, not bursts in turn",
    ("load", "after"): "its words wait at a load port behind those of other loads or at a bank",
    ("fill", "held"): "it shares its port with words of loads that arrive, or waits at a bank",
    ("fill", "after"): "it puts its tokens after the loads before it, whose words wait at a port or a bank",
    ("store", "held"): "shares of the DRAM are rates there, not bursts in turn, and its words wait at a bank",
    ("send", "held"): "its words wait at a bank of either core, or at a port that another send uses",
    ("mx", "held"): "its own words crowd in few banks, more than in its first beats",
    ("vx", "held"): "its words wait at banks that a single instruction of mx, or it alone, loads more than others",
}  # fmt: skip


def cause(program: Program, fast: Timing, judge: reference.Reference) -> str:
    """The instruction that is the first to differ by half of what any does, why, and where all of them differ."""
    held = (fast.released - fast.start) - (judge.released - judge.start)
    after = (fast.finish - fast.released) - (judge.end - judge.released)
    error = np.maximum(np.abs(held), np.abs(after))
    if not error.max():
        return "No instruction differs."
    i = min(np.flatnonzero(2 * error >= error.max()), key=lambda i: int(judge.start[i]))
    row = BY_OPCODE[int(program.instructions["opcode"][i])]
    what = "held" if abs(held[i]) >= abs(after[i]) else "after"
    ours, theirs = (
        (fast.released[i] - fast.start[i], judge.released[i] - judge.start[i]) if what == "held"
        else (fast.finish[i] - fast.released[i], judge.end[i] - judge.released[i])
    )  # fmt: skip
    name = row.mnemonic if row.engine in (Engine.LOAD, Engine.STORE) else row.engine.name.lower()
    does = "holds its engine for" if what == "held" else "puts its tokens"
    unit = "cycles" if what == "held" else "cycles after it has left the engine"
    why = WHY.get((name, what), "its queue puts tokens in order")
    return f"Instruction {i} ({row.mnemonic}) {does} {ours:,}, not {theirs:,}, {unit}: {why}."
