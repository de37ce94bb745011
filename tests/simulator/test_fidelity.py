"""All executors on random programs: equal bits, near cycles. ``make fidelity`` judges the distribution."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, Engine
from ommatid.isa.target import preset_names
from ommatid.isa.verifier import verify
from ommatid.simulator.functional import wide
from tests.simulator.outcome import compare
from tests.simulator.programs import random_program

FIXED = 13
#: By number: the first are always the same programs, the others the day's.
NUMBERS = range(2 * FIXED - 1)


def seed_of(number: int) -> int:
    """The seed of a test's program."""
    return number if number < FIXED else datetime.date.today().toordinal() * 10_000 + number - FIXED


@pytest.mark.parametrize("number", NUMBERS)
def test_executors_agree(number: int) -> None:
    seed = seed_of(number)
    target = preset_names()[seed % 3]
    program = random_program(seed, target)
    what = f"random_program({seed}, {target!r})"
    assert verify(program) == [], what
    outcome = compare(what, program)
    assert outcome.equal, f"{what}: bits differ"
    near = abs(outcome.percent) <= 10 or abs(outcome.fast - outcome.reference) <= 128
    assert near, f"{what}: {outcome.fast} cycles for {outcome.reference}. {outcome.cause}"


def test_programs_hold_every_instruction_and_queue_at_once() -> None:
    kinds: set[str] = set()
    of_16_bits: set[str] = set()
    cores, tokens = set(), 0
    for seed in range(40):
        stream = random_program(seed, preset_names()[seed % 3]).instructions
        kinds |= {BY_OPCODE[int(op)].mnemonic for op in stream["opcode"]}
        of_16_bits |= {BY_OPCODE[int(op)].mnemonic for op in stream["opcode"][wide(stream)]}
        cores.add(len(np.unique(stream["core"])))
        tokens += int(np.bitwise_count(stream["wait"]).sum())
        assert 3 <= len(stream) <= 64
    assert kinds == {row.mnemonic for row in INSTRUCTIONS}
    engines = {row.mnemonic for row in INSTRUCTIONS if row.engine in (Engine.MX, Engine.VX)}
    assert of_16_bits == engines
    assert cores >= {1, 2}
    assert tokens > 40 * 5


def test_a_program_is_its_seed() -> None:
    first, again = random_program(7, "ommatid-1k"), random_program(7, "ommatid-1k")
    np.testing.assert_array_equal(first.instructions, again.instructions)
    np.testing.assert_array_equal(first.constants, again.constants)
