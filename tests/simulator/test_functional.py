"""Whole programs: the same bits on every path, with any number of threads, in any share of the work."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import Program
from ommatid.isa.program_file import from_bytes, to_bytes
from ommatid.runtime.host import quantize, to_memory
from ommatid.runtime.session import InferenceSession, placed_by_name
from ommatid.simulator import functional, settings
from ommatid.simulator.functional import PLAIN, Machine, plan, sequence
from ommatid.simulator.kernels import team
from ommatid.simulator.kernels.multiply import available
from ommatid.simulator.kernels.program import divided, work
from tests.isa.builder import Builder
from tests.simulator.programs import random_program
from tests.workloads import images, source

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=["int8", "uint8"])
def program(request: Any) -> Program:
    return compile_model(source("squeezenet"), activations=request.param)


def output(machine: Machine, run: Callable[[Array], None] | None = None) -> bytes:
    """The output for a photograph; ``run`` executes the instructions with these indices."""
    program, placed = machine.program, placed_by_name(machine.program)
    (port,), (out,) = program.inputs, program.outputs
    assert port.tensor is not None and out.tensor is not None
    tensor = placed[port.tensor].tensor
    codes = quantize(images("squeezenet", 1)[0], tensor.quantization)
    machine.write(placed[port.tensor], to_memory(codes, tensor))
    if run is None:
        machine.run(0, len(program.instructions))
    else:
        run(np.arange(len(program.instructions)))
    return machine.read(placed[out.tensor]).tobytes()


def test_paths_and_threads_give_the_same_bits(program: Program) -> None:
    expected = output(Machine(program, **PLAIN))
    for path in available():
        for threads in (1, 2, 3):
            assert output(Machine(program, path=path, threads=threads)) == expected


def test_a_run_repeats_on_the_same_machine(program: Program) -> None:
    machine = Machine(program, threads=2)
    assert output(machine) == output(machine)


def test_nobody_waits_for_threads_that_the_machine_has_no_time_for(program: Program) -> None:
    late = threading.Event()
    waiting = [
        functional.HELPERS.submit(late.wait) for _ in range(team.MOST_PARTS)
    ]  # all threads, and one more
    try:
        assert output(Machine(program, threads=3)) == output(Machine(program, **PLAIN))
    finally:
        late.set()
    assert all(each.result(60) for each in waiting)


@pytest.mark.parametrize("me", [0, 1])
def test_one_thread_alone_gets_through_all_queues(program: Program, me: int) -> None:
    machine = Machine(program)
    shares = plan(program.instructions, 0)
    state = np.zeros(team.WORDS, np.int64)
    alone = output(machine, lambda order: work(machine._chip, *shares, state, me, 2))
    assert alone == output(Machine(program, threads=1))
    assert not state[team.TOKENS : team.CPU].any()


def test_who_is_sent_home_goes_and_the_callers_thread_does_all(program: Program) -> None:
    machine = Machine(program)
    shares = plan(program.instructions, 0)
    state = np.zeros(team.WORDS, np.int64)
    state[team.ALONE] = 1
    work(machine._chip, *shares, state, 1, 2)
    assert not state[: team.ALONE].any()
    assert output(machine, lambda order: work(machine._chip, *shares, state, 0, 2)) == output(
        Machine(program, **PLAIN)
    )


def contents(program: Program, **how: Any) -> list[bytes]:
    """All memories after a program."""
    machine = Machine(program, **how)
    machine.run(0, len(program.instructions))
    return [memory.tobytes() for memory in (machine.dram, *machine.sram, *machine.acc)]


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_give_the_same_bits_on_any_number_of_threads(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "WORTH_THREADS", 0)
    program = random_program(seed, ("ommatid-1k", "ommatid-256", "ommatid-4k")[seed % 3])
    assert Machine(program)._verified
    expected = contents(program, **PLAIN)
    for threads in (1, 2, 3):
        assert contents(program, threads=threads) == expected


@numba.njit  # type: ignore[untyped-decorator]
def parts(chip: Any, instruction: int, threads: int) -> int:
    """The parts of an instruction."""
    return divided(chip, instruction, threads)


def large(pixel: int = 64) -> Program:
    """A padded convolution of 32 x 32 x 64 bytes, worth dividing, and its requantisation; ``pixel`` is acc_pixel."""
    size, channels = 32, 64
    noise = np.random.default_rng(3).integers(0, 256, 1 << 17, np.uint8)
    noise[-128:-64] = 0  # biases
    noise[-64:] = np.full(16, 3e-4, np.float32).view(np.uint8)  # multipliers
    b, weights = Builder("ommatid-1k", noise.tobytes()), 1 << 16
    b.load(src=0, dst=0, run=len(noise), signal=["mx", "vx"])
    b.conv(
        src=0, src_row=size * channels, src_pixel=channels, in_h=size, in_w=size, cin=channels, cout=16, kh=3, kw=3,
        out_h=size, out_w=size, pad_top=1, pad_left=1, src_zero=7, row_mode=1, weights=weights, weights_type=1, acc_pixel=pixel,
        wait=["load"], signal=["vx"],
    )  # fmt: skip
    b.map(
        source=1, mid_zero=128, src_row=size * pixel, src_pixel=pixel, h=size, w=size, c=16, parameters=len(noise) - 128,
        dst=len(noise), dst_row=size * 16, dst_pixel=16, wait=["load", "mx"], signal=["ctl"],
    )  # fmt: skip
    b.end(wait=["vx"])
    return b.program()


def test_a_divided_instruction_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "WORTH_THREADS", 0)
    program = large()
    expected = contents(program, **PLAIN)
    assert len(set(expected[1][1 << 17 : (1 << 17) + 32 * 32 * 16])) > 100
    for path in available():
        machine = Machine(program, path=path)
        assert [parts(machine._chip, i, 3) for i in range(4)] == [1, 3, 2, 1]
        for threads in (1, 2, 3):
            assert contents(program, path=path, threads=threads) == expected


def test_a_program_that_the_verifier_refuses_gives_the_same_bits_too(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    racing = copy.copy(program)
    racing.instructions = program.instructions.copy()
    racing.instructions["wait"] = racing.instructions["signal"] = 0
    assert not Machine(racing)._verified
    assert output(Machine(racing, threads=3)) == output(Machine(program, **PLAIN))
    monkeypatch.setattr(functional, "WORTH_THREADS", 0)
    overlapping = large(pixel=4)  # channels of neighbours in the same accumulators
    assert not Machine(overlapping)._verified
    assert contents(overlapping, threads=3) == contents(overlapping, threads=1)


def test_tokens_decide_where_the_list_has_another_order() -> None:
    straight = large()
    mixed = copy.copy(straight)
    order = [2, 1, 0, 3]  # what requantises first, what it waits for last
    mixed.instructions, mixed.operands = straight.instructions[order], straight.operands[order]
    assert sequence(mixed.instructions).tolist() == [2, 1, 0, 3]
    assert Machine(mixed)._verified
    assert contents(mixed, threads=1) == contents(straight, **PLAIN)
    stuck = mixed.instructions.copy()
    stuck["wait"][1] |= 1 << 3
    assert sequence(stuck).tolist() == [0, 1, 2, 3]


def test_a_corrupted_weight_changes_the_output(program: Program) -> None:
    feeds = {program.inputs[0].name: images("squeezenet", 1)[0]}

    def outputs(of: Program) -> list[bytes]:
        sessions = (InferenceSession(of, strict=strict) for strict in (False, True))
        return [session.run(None, feeds)[0].tobytes() for session in sessions]

    conv = int(np.flatnonzero(program.instructions["opcode"] == BY_MNEMONIC["conv"].opcode)[0])
    at = int(view(program.instructions, "conv")["weights"][conv])
    loads = view(program.instructions, "load")[:conv]
    loads = loads[loads["opcode"] == BY_MNEMONIC["load"].opcode]
    load = loads[(loads["dst"] <= at) & (at < loads["dst"] + loads["run"])][-1]
    faulty = copy.copy(program)
    faulty.constants = program.constants.copy()
    faulty.constants[int(load["src"]) + at - int(load["dst"])] ^= 0x80
    faulty = from_bytes(to_bytes(faulty))  # with checksums of its own
    good, bad = outputs(program), outputs(faulty)
    assert good[0] == good[1] and bad[0] == bad[1] and good != bad


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in available():
        monkeypatch.setenv("OMMATID_KERNELS", path)
        assert settings.kernels() == path
    monkeypatch.setenv("OMMATID_KERNELS", "auto")
    assert settings.kernels() == available()[0]
    monkeypatch.setenv("OMMATID_KERNELS", "mmx")
    with pytest.raises(settings.SettingError, match="mmx"):
        settings.kernels()
    monkeypatch.setenv("OMMATID_THREADS", "3")
    assert settings.threads() == 3
    monkeypatch.setenv("OMMATID_THREADS", "no")
    with pytest.raises(settings.SettingError, match="no"):
        settings.threads()
