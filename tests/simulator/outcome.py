"""One program on all executors: whether the bits are equal, and what the cycles are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE
from ommatid.isa.program import Program
from ommatid.simulator import reference, timing
from ommatid.simulator.functional import Machine
from ommatid.simulator.memories import Memories
from ommatid.simulator.timing import Timing


@dataclass(frozen=True)
class Outcome:
    """``fast`` and ``reference`` are cycles of the timing executor and of the reference machine.

    ``kind`` is the mnemonic that holds its engine longest in the program; ``cause`` says where the two differ most.
    """

    name: str
    target: str
    kind: str
    instructions: int
    fast: int
    reference: int
    equal: bool
    cause: str

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
        cores = program.target.cores
        start = reference.Memories(
            memories.dram.copy(), _each(memories.sram, cores), _each(memories.acc, cores)
        )
        machine.dram[:] = memories.dram
        for ours, given in ((machine.sram, memories.sram), (machine.acc, memories.acc)):
            for mine, other in zip(ours, given, strict=False):
                mine[:] = other
    fast, judge = timing.simulate(program), reference.simulate(program, memories=start)
    machine.run(0, len(program.instructions))
    check_accounts(fast, judge)
    return Outcome(
        name, program.target.name, kind or longest(program, judge), len(program.instructions), fast.cycles, judge.cycles,
        same_bits(machine, judge.memories), cause(program, fast, judge),
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


def longest(program: Program, judge: reference.Reference) -> str:
    """The mnemonic whose instructions hold their engines longest."""
    held: Counter[str] = Counter()
    for opcode, cycles in zip(program.instructions["opcode"], judge.released - judge.start, strict=True):
        held[BY_OPCODE[int(opcode)].mnemonic] += int(cycles)
    return held.most_common(1)[0][0]


def cause(program: Program, fast: Timing, judge: reference.Reference) -> str:
    """Where two accounts differ most, and the instructions whose own time does."""
    ours = {
        (e.core, e.engine): Counter({"busy": e.busy_cycles, "idle": e.idle_cycles, **e.stall_cycles}) for e in fast.engines
    }  # fmt: skip
    gaps = []
    for engine, counts in ours.items():
        account = judge.accounts[engine]
        theirs = Counter({"busy": account.busy, "idle": account.idle})
        theirs.update({cause.replace(" ", "_"): n for cause, n in account.stalls.items()})
        gaps += [
            (abs(counts[c] - theirs[c]), f"core {engine[0]} {engine[1]} {c}: {counts[c]:,} for {theirs[c]:,}")
            for c in sorted(counts.keys() | theirs.keys()) if c != "idle"
        ]  # fmt: skip
    gaps.sort(key=lambda gap: -gap[0])
    mine, their = fast.released - fast.start, judge.released - judge.start
    tail, their_tail = fast.finish - fast.released, judge.end - judge.released
    worst = []
    for what, a, b in (("held", mine, their), ("after release", tail, their_tail)):
        i = int(np.argmax(np.abs(a - b)))
        mnemonic = BY_OPCODE[int(program.instructions["opcode"][i])].mnemonic
        worst.append((abs(int(a[i] - b[i])), f"instruction {i} ({mnemonic}) {what}: {a[i]:,} for {b[i]:,}"))
    total = f"engines held: {int(mine.sum()):,} for {int(their.sum()):,} cycles"
    return (
        "; ".join(
            [text for _, text in gaps[:2]] + [text for _, text in sorted(worst, reverse=True)] + [total]
        )
        + "."
    )
