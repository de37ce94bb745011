"""What does not fit is placed exactly, or refused: the least SRAM or DRAM that is named is enough, and no less is."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ommatid.compiler import pipeline
from ommatid.compiler.errors import CompileError
from ommatid.compiler.layers import Network
from ommatid.compiler.pipeline import compile_network
from ommatid.compiler.schedule import LayerDoesNotFit, lower, make_plan, schedule
from ommatid.compiler.storage import plan_storage
from ommatid.isa.target import Target, load_target
from ommatid.runtime.compile import finish_cycles
from tests.compiler.nets import Net, binary
from tests.compiler.test_cascade import filled, three_layers

SMALL = dataclasses.replace(load_target("ommatid-256"), sram_kib=32, dram_mib=1)


def refused(network: Network, target: Target) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile_network(network, target)
    return caught.value


def least(error: CompileError, field: str) -> int:
    found = re.match(rf"it fits from {field} = (\d+) on; or use a smaller input \(--shape\)$", error.hint)
    assert found, error.hint
    return int(found[1])


def test_sram() -> None:
    """Two layers are too wide, the second more so; the hint serves both."""
    net = Net(x=(1, 3, 600, 64))
    a = net.conv("x", "a", 64, kernel=3)
    b = net.conv(a, "b", 128, kernel=3)
    network = net.network(b)
    error = refused(network, SMALL)
    assert error.node == "node a"
    message = re.match(
        r"layer 'a' \(Conv\) needs at least ([\d,]+) bytes of SRAM, target ommatid-256 has 32,768; "
        r"alive there, the smallest possible part of each: a \(115,200 bytes\), x \(115,200 bytes\), "
        r"its constants \(37,376 bytes\)$",
        str(error),
    )
    assert message, str(error)
    kib = least(error, "sram_kib")
    assert 32_768 < int(message[1].replace(",", "")) <= kib * 1024
    schedule(network, dataclasses.replace(SMALL, sram_kib=kib))
    again = refused(network, dataclasses.replace(SMALL, sram_kib=kib - 1))
    assert least(again, "sram_kib") == kib


def test_no_sram_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(x=(1, 3, 600, 64))
    monkeypatch.setattr("ommatid.compiler.refuse.most", lambda field: 33)
    error = refused(net.network(net.conv("x", "a", 64, kernel=3)), SMALL)
    assert error.hint == "no target can have as much (sram_kib is at most 33): use a smaller input (--shape)"


def test_dram() -> None:
    """All inputs are there before the first output: the largest are named, the others counted."""
    sizes = {"x": 9, "late": 8, "later": 7, "last": 6, "p": 5, "q": 4}
    net = Net(**{name: (1, 128, 64 * size, 4) for name, size in sizes.items()})
    network = net.network(*[net.map(name, f"{name}_out", binary("add", name)) for name in sizes])
    error = refused(network, SMALL)
    need = 48 * 32768  # of inputs and x_out
    message = re.match(
        r"the program needs ([\d,]+) bytes of DRAM, target ommatid-256 has 1,048,576: ([\d,]+) for constants and "
        r"instructions, and at the peak x \(294,912 bytes\), x_out \(294,912 bytes\), late \(262,144 bytes\), "
        r"later \(229,376 bytes\), last \(196,608 bytes\), 2 more \(294,912 bytes\)$",
        str(error),
    )
    assert message, str(error)
    whole, constants = (int(number.replace(",", "")) for number in message.groups())
    assert whole == need + constants and least(error, "dram_mib") == -(-whole >> 20) == 2
    made = schedule(network, dataclasses.replace(SMALL, dram_mib=2))
    assert made.dram_bytes == whole


def leaves_a_hole(rows: int) -> Network:
    """Each buffer at the lowest address that is free leaves a hole before b in which c has no room."""
    net = Net(a=(1, rows, 128, 64), b=(1, rows, 128, 64))
    t = net.conv("a", "t", 1)
    c = net.conv(t, "c", 128)
    outputs = net.conv(c, "d", 1), net.conv("b", "e", 1)
    filled(net)
    return net.network(*outputs)


def test_the_exact_planner_makes_it_fit() -> None:
    network, target = leaves_a_hole(32), dataclasses.replace(SMALL, sram_kib=96)
    plan = make_plan(network, target, plan_storage(network))
    assert lower(plan).dram_bytes > target.dram_bytes >= schedule(network, target).dram_bytes


def test_exact_addresses_before_a_tensor_moves_to_dram() -> None:
    """Each as high as is free, b and c have a hole between them and the top, and the rest is too small for y's tiles."""
    net = Net(x=(1, 8, 64, 3), large=(1, 8, 64, 16))
    b = net.conv(net.conv("x", "a", 8), "b", 18)
    c = net.conv(b, "c", 20)
    network = net.network(net.conv("large", "y", 16, kernel=3), net.conv(b, "p", 4), net.conv(c, "q", 4))
    plan = make_plan(network, SMALL, plan_storage(network))
    with pytest.raises(LayerDoesNotFit):
        lower(plan)
    assert schedule(network, SMALL).plan.resident == plan.resident == {"a", "b", "c"}


def test_exact_addresses_where_they_are_no_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TRIALS", {2: (0,), 3: (0,)})
    network, target = leaves_a_hole(8), SMALL
    two, three = (compile_network(network, target, level, estimate=finish_cycles) for level in (2, 3))
    assert three.dram_bytes < two.dram_bytes
    assert finish_cycles(three).max() <= finish_cycles(two).max()


def test_a_candidate_that_does_not_fit_only_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cascade saves cycles, and is of more instructions: with no byte of DRAM more than -O1 needs, there is none."""
    network, target = three_layers(13), dataclasses.replace(SMALL, sram_kib=48)
    one, two = (compile_network(network, target, level, estimate=finish_cycles) for level in (1, 2))
    assert two.dram_bytes > one.dram_bytes
    monkeypatch.setattr(Target, "dram_bytes", one.dram_bytes)
    again = compile_network(network, target, 2, estimate=finish_cycles)
    assert again.instructions.tobytes() == one.instructions.tobytes() != two.instructions.tobytes()
