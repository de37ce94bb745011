"""Micro-programs whose cycles were derived by hand from docs/isa.md, the derivation beside each, on both machines.

``micro/*.toml`` holds them. The reference machine, which steps by the cycle, must meet every number; the fast
executor, which computes with rates, must come within a few cycles.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ommatid.isa.instructions import DTYPES
from ommatid.isa.program import Program
from ommatid.isa.verifier import verify
from ommatid.simulator import reference
from ommatid.simulator.functional import Machine
from ommatid.simulator.timing import simulate
from tests.isa.builder import Builder, Queue

FOLDER = Path(__file__).parent / "micro"
MICRO = [m for path in sorted(FOLDER.glob("*.toml")) for m in tomllib.loads(path.read_text())["program"]]
#: What rates may be off by where the clock steps: cycles, or this share.
FAST_CYCLES, FAST_SHARE = 12, 0.03

#: One bank is asked for more than it grants; rates suppose that words spread over the banks.
ONE_BANK = {
    "mx_before_vx_one_bank", "store_starved_256", "multicast_against_conv",
    "store_not_starved_at_255", "fill_40_words_behind_mx", "store_64_words_behind_reduce",
    "norm_one_bank", "topk_write_waits_behind_reads",
}  # fmt: skip


def queues(names: list[str]) -> list[Queue]:
    """ "mx" of the same core, or "1.mx" of core 1."""
    return [(int(n.split(".")[0]), n.split(".")[1]) if "." in n else n for n in names]


def program(micro: dict[str, Any]) -> tuple[Program, list[dict[str, Any]]]:
    """The program, and for each of its instructions what the file says of its times."""
    builder, said = Builder(micro["target"]), []
    for given in micro["instruction"]:
        fields = {
            k: v for k, v in given.items() if k in DTYPES[given["op"]].names and k not in ("wait", "signal")
        }
        for _ in range(given.get("repeat", 1)):
            wait, signal = queues(given.get("wait", [])), queues(given.get("signal", []))
            builder.emit(given["op"], wait=wait, signal=signal, **fields)
            said.append(given)
    return builder.program(), said


@pytest.mark.parametrize("micro", MICRO, ids=lambda micro: str(micro["name"]))
def test_reference_meets_every_number(micro: dict[str, Any]) -> None:
    made, said = program(micro)
    ran = reference.simulate(made)
    for i, given in enumerate(said):
        if given.get("repeat", 1) == 1:
            assert ran.start[i] == given.get("start", ran.start[i]), (i, given)
            assert ran.end[i] == given.get("end", ran.end[i]), (i, given)
    assert ran.cycles == micro["cycles"]
    check_memories(micro, ran.memories)


@pytest.mark.parametrize("micro", [m for m in MICRO if "holds" in m], ids=lambda m: str(m["name"]))
def test_memories_hold_what_is_said(micro: dict[str, Any]) -> None:
    made, _ = program(micro)
    machine = Machine(made)
    machine.run(0, len(made.instructions))
    check_memories(micro, machine)


def check_memories(micro: dict[str, Any], ours: Any) -> None:
    """The contents that the file says."""
    for said in micro.get("holds", []):
        memory = getattr(ours, said["memory"])[said.get("core", 0)]
        at = said["at"] // memory.itemsize
        expected = said["values"] * said.get("times", 1)
        np.testing.assert_array_equal(memory[at : at + len(expected)], expected)


@pytest.mark.parametrize(
    "micro", [m for m in MICRO if m["name"] not in ONE_BANK], ids=lambda m: str(m["name"])
)
def test_rates_come_close(micro: dict[str, Any]) -> None:
    cycles = simulate(program(micro)[0]).cycles
    assert abs(cycles - micro["cycles"]) <= max(FAST_CYCLES, FAST_SHARE * micro["cycles"])


def test_there_are_forty_and_they_are_legal() -> None:
    assert len(MICRO) >= 40 and len({m["name"] for m in MICRO}) == len(MICRO)
    assert all(len(m["derivation"].split()) >= 10 for m in MICRO)
    unordered = ("is not ordered", "no such", "is not allowed", "outside the", "deadlock")
    for micro in MICRO:
        problems = verify(program(micro)[0])
        assert not [p for p in problems if any(kind in p for kind in unordered)], micro["name"]
