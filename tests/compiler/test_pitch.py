"""Pixels farther apart where their banks would be the same few: fewer cycles, the same bits, and who must not move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ommatid.compiler.cascade import Cascade
from ommatid.compiler.layers import Concat, MatMul
from ommatid.compiler.pitch import pitch, pitched, unevenness
from ommatid.compiler.schedule import make_plan
from ommatid.compiler.storage import plan_storage
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import Program
from ommatid.isa.target import load_target
from ommatid.isa.verifier import verify
from ommatid.runtime.compile import finish_cycles
from tests.compiler.nets import Net
from tests.compiler.test_cascade import filled, outputs, pool, program_of

TARGET = load_target("ommatid-1k")


def net_of(channels: int) -> Net:
    net = Net(x=(1, 14, 14, 16))
    net.conv("x", "a", channels)
    net.conv("x", "b", 16)
    net.conv("a", "c", channels - 16)
    net.add(Concat(3, (None, None)), ["c", "b"], "cat", (1, 14, 14, channels))
    net.conv("cat", "y", 32)
    return net


@pytest.mark.parametrize("channels", [272, 256])
def test_pixels_in_the_same_banks_are_moved_apart(channels: int) -> None:
    """Sixteen pixels of 17 words from address 0 on lie in one bank, of 18 words in ten."""
    for words, banks in ((np.arange(16) * 17, 1), (np.arange(16) * 18, 10)):
        assert len(set((words ^ words >> 4 ^ words >> 8) % 16)) == banks
    net = net_of(channels)
    filled(net)
    network = net.network("y")
    plan = make_plan(network, TARGET, plan_storage(network))
    apart = {name: spot.strides[2] for name, spot in plan.storage.spots.items()}
    moved = 288 if channels == 272 else 256
    assert apart == {"x": 16, "a": moved, "b": moved, "c": moved, "cat": moved, "y": 32}
    assert plan.storage.spots["b"].offset == channels - 16
    assert plan.storage.buffer_bytes["cat"] == moved * 14 * 14


def test_fewer_cycles_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    net = net_of(272)
    filled(net)
    network = net.network("y")

    def cycles(program: Program) -> int:
        return int(finish_cycles(program).max())

    after = program_of(network, TARGET)
    monkeypatch.setattr(
        "ommatid.compiler.schedule.pitched", lambda network, storage, target, buffers: storage
    )
    before = program_of(network, TARGET)
    assert cycles(after) < 0.9 * cycles(before) and outputs(after, network) == outputs(before, network)


def test_only_what_is_uneven_is_moved() -> None:
    assert [pitch(pixel, TARGET) for pixel in (24, 64, 136, 272, 512)] == [24, 64, 144, 288, 512]
    assert unevenness(256, TARGET) < unevenness(288, TARGET) < unevenness(272, TARGET) < 16


def test_bytes_that_are_seen_as_one_run_stay() -> None:
    """Of the host, of a convolution's rows of 272 bytes a pixel, and of a matrix product."""
    net = net_of(272)
    net.conv("a", "wide", 272, 3)
    product = MatMul((1,), 14 * 14, 272, 14 * 14, (0, -1, 3), (0, 3, -1), (0, -1, -1), 1.0, (0, "int8"))
    net.add(product, ["c", "c"], "z", (1, 1, 196, 196))
    network = net.network("y", "wide")
    storage = plan_storage(network)
    found = pitched(network, storage, replace(TARGET, name="x"), set(storage.buffer_bytes))
    assert found.spots["wide"] == storage.spots["wide"], "an output of the network"
    assert found.spots["a"] == storage.spots["a"] and found.spots["c"] == storage.spots["c"]


def test_rows_that_a_cascade_copies_have_gaps_between_pixels() -> None:
    """The copy of rows that the next stripe reads again reads no byte that nobody wrote."""
    net = Net(x=(1, 21, 21, 16))
    net.conv("x", "wide", 272)
    pool(net, "wide", "pooled", 3, 1, 1)
    net.conv("pooled", "y", 16)
    filled(net)
    network = net.network("y")
    cascade = Cascade(0, 2, 4)
    plan = make_plan(network, TARGET, plan_storage(network), (cascade,))
    assert plan.storage.spots["wide"].strides[2] == 288
    program = program_of(network, TARGET, cascade)
    copies = view(program.instructions, "map")[program.instructions["opcode"] == BY_MNEMONIC["map"].opcode]
    gaps = (copies["source"] == 0) & (copies["src_pixel"] == 288) & (copies["c"] == 272)
    assert copies["w"][gaps].sum() == 5 * 2 * 21  # two rows a stripe, in pieces
    assert verify(program) == []
    assert outputs(program, network) == outputs(program_of(network, TARGET), network)
