"""Whole programs: the same bits on every path, with any number of threads, in any share of the work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import Program
from ommatid.isa.program_file import from_bytes, to_bytes
from ommatid.runtime.host import quantize, to_memory
from ommatid.runtime.session import InferenceSession, placed_by_name
from ommatid.simulator import settings
from ommatid.simulator.functional import PLAIN, Machine, plan
from ommatid.simulator.kernels import team
from ommatid.simulator.kernels.multiply import available
from ommatid.simulator.kernels.program import work
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


def test_one_thread_alone_gets_through_all_queues(program: Program) -> None:
    machine = Machine(program)
    shares = plan(program.instructions, 0)
    assert shares is not None
    state = np.zeros(team.WORDS, np.int64)
    state[team.LEFT] = len(program.instructions)
    alone = output(machine, lambda order: work(machine._chip, *shares, state, 3))
    assert alone == output(Machine(program, threads=1))
    assert not state[team.TOKENS : team.CPU].any()


def test_a_stream_that_breaks_its_own_tokens_is_not_shared(program: Program) -> None:
    stream = program.instructions.copy()
    assert plan(stream, 0) is not None
    stream["wait"][0] |= 1 << 2
    assert plan(stream, 0) is None


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
