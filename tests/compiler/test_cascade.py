"""Cascades: the same bits as layers one by one, on odd shapes, with tensors that several layers read."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.assemble import assemble_program
from ommatid.compiler.cascade import Cascade, height, inner_buffers, is_cascadable
from ommatid.compiler.cascade_search import choose_cascades, neighbours
from ommatid.compiler.fuse import fuse
from ommatid.compiler.layers import Concat, Conv, Mean, Network, Pool, Resize, Step, Transpose, View, Window
from ommatid.compiler.lower_cascade import _fair, _Member
from ommatid.compiler.memory import lifetimes
from ommatid.compiler.rows import Rows
from ommatid.compiler.schedule import lower, make_plan, schedule
from ommatid.compiler.storage import plan_storage
from ommatid.compiler.trial import Trials, priced
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import ROLES, Program
from ommatid.isa.target import Target, load_target
from ommatid.isa.verifier import verify
from ommatid.runtime.compile import finish_cycles
from ommatid.runtime.session import placed_by_name
from ommatid.simulator.functional import Machine
from tests.compiler.nets import Net, binary, table

Array = np.ndarray[Any, Any]
Draw = Any
SMALL = replace(load_target("ommatid-256"), name="small", sram_kib=48)


def program_of(network: Network, target: Target, *cascades: Cascade) -> Program:
    plan = schedule(network, target, cascades)
    assert plan.lowering.sram.taken == [], "something is not given back"
    return assemble_program(plan)


def outputs(program: Program, network: Network) -> dict[str, bytes]:
    """Bytes of the network's outputs for seeded inputs."""
    machine, placed, rng = Machine(program), placed_by_name(program), np.random.default_rng(5)
    for name in sorted(network.fed):
        machine.write(placed[name], rng.integers(-128, 128, network.tensors[name].shape).astype(np.int8))
    machine.run(0, len(program.instructions))
    return {name: machine.read(placed[name]).tobytes() for name in sorted(network.kept)}


def filled(net: Net, seed: int = 0) -> None:
    """Random weights for convolutions that ``Net`` made of zeros; layers come of no model."""
    net.layers = [replace(layer, nodes=()) for layer in net.layers]
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        conv = layer.operation
        if isinstance(conv, Conv):
            conv.weights[:] = rng.integers(-127, 128, conv.weights.shape)
            conv.multipliers[:] = np.float32(0.7 / (73 * np.sqrt(conv.weights[0].size) * 0.6))


def pool(net: Net, source: str, name: str, kernel: int, stride: int, pad: int) -> str:
    n, h, w, c = net.tensors[source].shape
    size = [(x + 2 * pad - kernel) // stride + 1 for x in (h, w)]
    window = Window((kernel, kernel), (stride, stride), pads=(pad,) * 4)
    return net.add(Pool("max", window), [source], name, (n, *size, c))


def strided(net: Net, source: str, name: str, channels: int, kernel: int, stride: int) -> str:
    n, h, w, c = net.tensors[source].shape
    pad = kernel // 2
    size = [(x + 2 * pad - kernel) // stride + 1 for x in (h, w)]
    operation = Conv(
        np.zeros((channels, kernel, kernel, c), np.int8), np.zeros(channels, np.int32), np.ones(channels, np.float32),
        Window((kernel, kernel), (stride, stride), pads=(pad,) * 4), 1, (0, "int8"),
    )  # fmt: skip
    return net.add(operation, [source], name, (n, *size, channels), macs=1000)


def doubled(net: Net, source: str, name: str) -> str:
    """Twice as many rows and columns, each repeated."""
    n, h, w, c = net.tensors[source].shape
    taps = [np.array([[i // 2, i // 2, 2048, 0] for i in range(2 * size)], np.uint16) for size in (h, w)]
    return net.add(Resize(*taps, taps=1, factor=1 / 2**22), [source], name, (n, 2 * h, 2 * w, c))


def transposed(net: Net, source: str, name: str, channels: int) -> str:
    """A transposed convolution of 2 x 2 and stride 2."""
    n, h, w, c = net.tensors[source].shape
    operation = Conv(
        np.zeros((channels, 2, 2, c), np.int8), np.zeros(channels, np.int32), np.ones(channels, np.float32),
        Window((2, 2), pads=(1,) * 4), 1, (0, "int8"), (2, 2),
    )  # fmt: skip
    return net.add(operation, [source], name, (n, 2 * h, 2 * w, channels), macs=1000)


def mean(net: Net, source: str, name: str, *steps: Step) -> str:
    n, h, w, c = net.tensors[source].shape
    return net.add(Mean(1 / (h * w), (0, "int8")), [source], name, (n, 1, 1, c), steps)


@st.composite
def networks(draw: Draw) -> Network:
    """A network of some layers, fused or not."""
    channels = draw(st.sampled_from([3, 8, 16, 24]))
    net = Net(x=(draw(st.integers(1, 2)), draw(st.integers(5, 37)), draw(st.integers(5, 23)), channels))
    source = "x"
    for i in range(draw(st.integers(2, 6))):
        n, h, w, c = net.tensors[source].shape
        name, wide = f"t{i}", draw(st.sampled_from([8, 16, 40]))
        kind = draw(
            st.sampled_from(
                [
                    "conv",
                    "conv",
                    "strided",
                    "depthwise",
                    "pool",
                    "map",
                    "residual",
                    "concat",
                    "dense",
                    "resize",
                    "transposed",
                ]
            )
        )
        if kind == "conv":
            net.conv(source, name, wide, draw(st.sampled_from([1, 3, 5])))
        elif kind == "depthwise":
            net.conv(source, name, c, 3, groups=c)
        elif kind == "strided":
            strided(net, source, name, wide, draw(st.sampled_from([1, 3])), 2)
        elif kind == "pool":
            pool(net, source, name, 3, draw(st.sampled_from([1, 2])), 1)
        elif kind == "resize" and h * w < 300:
            doubled(net, source, name)
        elif kind == "transposed" and h * w < 300:
            transposed(net, source, name, wide)
        elif kind == "dense" and c < 100:  # several of these share one buffer
            net.conv(source, f"{name}a", 16, 1)
            net.conv(f"{name}a", f"{name}b", 16, 3)
            net.add(Concat(3, (None, None)), [source, f"{name}b"], name, (n, h, w, c + 16))
        elif kind == "residual":
            net.conv(source, f"{name}a", c, 3)
            net.map(f"{name}a", name, binary("add", source))
        elif kind == "concat":
            net.conv(source, f"{name}a", 16, 1)
            net.conv(source, f"{name}b", wide, 3)
            net.add(Concat(3, (None, None)), [f"{name}a", f"{name}b"], name, (n, h, w, 16 + wide))
        else:
            net.map(source, name, table(i))
        source = name
    if draw(st.booleans()):
        source = mean(net, source, "mean")
    filled(net)
    kept = [source, *draw(st.sampled_from([[], [net.layers[0].output]]))]
    network = net.network(*kept)
    return fuse(network) if draw(st.booleans()) else network


@settings(max_examples=80, deadline=None)
@given(networks(), st.data())
def test_same_bits(network: Network, data: st.DataObject) -> None:
    count = len(network.layers)
    if count < 2:
        return
    target = data.draw(st.sampled_from([SMALL, load_target("ommatid-1k")]))
    first = data.draw(st.integers(0, count - 2))
    last = data.draw(st.integers(first + 1, count - 1))
    layers = network.layers
    storage = plan_storage(network)
    if not is_cascadable(network, storage, first, last) or layers[last].name in storage.free_layers:
        return
    each = data.draw(st.integers(1, 4 * height(network, layers[last]))) / 4
    program = program_of(network, target, Cascade(first, last, each))
    assert verify(program) == []
    assert outputs(program, network) == outputs(program_of(network, target), network)


def three_layers(side: int = 61, kernel: int = 3) -> Network:
    net = Net(x=(1, side, side, 16))
    net.conv("x", "a", 64, kernel)
    pool(net, "a", "b", 3, 2, 1)
    net.conv("b", "y", 32, 3)
    filled(net)
    return net.network("y")


@pytest.mark.parametrize("side", [13, 37, 61])
def test_what_lies_between_layers_is_never_whole(side: int) -> None:
    network = three_layers(side)
    cascade = Cascade(0, 2, 3)
    storage = plan_storage(network)
    inner = inner_buffers(network, storage, lifetimes(network, storage), cascade, SMALL)
    assert inner == {name for name in ("a", "b") if storage.buffer_bytes[name] > SMALL.sram_bytes / 16}
    alone, together = program_of(network, SMALL), program_of(network, SMALL, cascade)
    assert outputs(together, network) == outputs(alone, network)
    tiles = together.symbols[together.symbols["role"] == ROLES.index("tile")]
    assert "a" not in inner or tiles["bytes"].max() < storage.buffer_bytes["a"]


def test_rows_are_made_once() -> None:
    """The array computes as many pixels in a cascade as without."""
    network = three_layers()
    pixels = [
        sum(int(r["out_h"]) * int(r["out_w"]) * int(r["cout"]) for r in records(program))
        for program in (program_of(network, SMALL), program_of(network, SMALL, Cascade(0, 2, 2)))
    ]
    assert pixels[0] == pixels[1]


def records(program: Program) -> Array:
    return view(program.instructions, "conv")[program.instructions["opcode"] == BY_MNEMONIC["conv"].opcode]


def test_trials_find_a_cascade() -> None:
    """A map of twice the SRAM between two layers is worth one; what is chosen is faster, and the same each time."""
    network, target = three_layers(kernel=1), replace(SMALL, sram_kib=128)

    found = [choose_cascades(network, target, finish_cycles, (60,)).cascades for _ in range(2)]
    assert found[0] and found[0] == found[1]
    before, after = (finish_cycles(program_of(network, target, *c)).max() for c in ((), found[0]))
    assert after < before


def test_weights_that_do_not_all_fit_come_in_parts() -> None:
    """Those of three layers take 108 KiB of 96."""
    net = Net(x=(1, 24, 24, 64))
    for source, name in ("xa", "ab", "by"):
        net.conv(source, name, 64, kernel=3)
    filled(net)
    network, target, cascade = net.network("y"), replace(SMALL, sram_kib=96), Cascade(0, 2, 2)
    assert [*schedule(network, target, (cascade,)).plan.inner] == [cascade]
    together = program_of(network, target, cascade)
    assert outputs(together, network) == outputs(program_of(network, target), network)
    assert _fair([100, 10, 100], 110) == [50, 10, 50] and _fair([7, 5], -3) == [0, 0]


def test_what_is_read_next_may_be_waves_away() -> None:
    """A layer makes nothing in some waves; what it reads behind them must stay."""
    spans = ((0, 1, {"a": (0, 2)}), (1, 1, {}), (1, 1, {}), (1, 2, {"a": (1, 3)}))
    network = three_layers()
    member = _Member(0, network.layers[0], Rows(1, 2, 1, None, None, None), 1, spans)  # type: ignore[arg-type]
    assert [member.read_next(wave) for wave in range(7)] == [
        {"a": (0, 2)}, {"a": (0, 2)}, {"a": (1, 3)}, {"a": (1, 3)}, {"a": (1, 3)}, {}, {},
    ]  # fmt: skip


def test_weights_are_packed_for_each_chip() -> None:
    """One network in one process, on chips with as many bytes of K and other lanes."""
    net = Net(x=(1, 9, 9, 40))
    net.conv("x", "y", 80, kernel=3)
    filled(net)
    network = net.network("y")
    wide = replace(SMALL, name="wide", mx_channels=2 * SMALL.mx_channels)
    made = [outputs(program_of(network, target), network) for target in (SMALL, wide)]
    assert made[0] == made[1]


def test_a_cascade_that_does_not_fit_is_left_out() -> None:
    network = three_layers()
    assert np.array_equal(
        program_of(network, SMALL, Cascade(0, 2, 31)).instructions, program_of(network, SMALL).instructions
    )


def test_a_mean_ends_a_cascade() -> None:
    """Its map is never whole; its sums are out of the way of the blocks of other layers, two at a time."""
    net = Net(x=(2, 40, 23, 8))
    net.conv("x", "a", 40, 3)
    mean(net, "a", "m", table(2))
    mean(net, "a", "k")
    net.conv("m", "y", 8, 1)
    filled(net)
    network, cascade = net.network("y", "k"), Cascade(0, 2, 3)
    storage = plan_storage(network)
    assert is_cascadable(network, storage, 0, 2)
    assert not is_cascadable(network, storage, 0, 3), "a mean is read when all rows are made"
    assert inner_buffers(network, storage, lifetimes(network, storage), cascade, SMALL) == {"a"}
    together = program_of(network, SMALL, cascade)
    assert verify(together) == []
    assert outputs(together, network) == outputs(program_of(network, SMALL), network)


def test_a_mean_is_complete_with_the_last_row_by_any_name() -> None:
    net = Net(x=(1, 40, 23, 8))
    net.conv("x", "a", 40, 3)
    mean(net, "a", "m")
    net.add(View(), ["m"], "v", (1, 1, 1, 40))
    net.conv("x", "b", 40, 1)
    net.map("b", "y", binary("mul", "v"))
    filled(net)
    network = net.network("y")
    storage = plan_storage(network)
    assert storage.spots["v"].buffer == storage.spots["m"].buffer
    possible = [last for last in range(1, 5) if is_cascadable(network, storage, 0, last)]
    assert possible == [1, 2, 3]


def test_sums_of_all_images_are_out_of_the_way_of_blocks() -> None:
    """Those of 8 channels take less than the smallest piece of memory; a pointwise convolution fills its half."""
    net = Net(x=(8, 32, 31, 16))
    net.conv("x", "b", 8, 1)
    mean(net, "b", "m")
    net.conv("x", "a", 16, 1)
    filled(net)
    network, target = net.network("m", "a"), replace(SMALL, sram_kib=256)
    assert is_cascadable(network, plan_storage(network), 0, 2)
    together = program_of(network, target, Cascade(0, 2, 8))
    assert outputs(together, network) == outputs(program_of(network, target), network)


def test_sums_that_take_the_blocks_accumulators_do_not_fit() -> None:
    net = Net(x=(1, 8, 8, 16))
    net.conv("x", "a", 1040, 1)
    mean(net, "a", "y")
    filled(net)
    network = net.network("y")
    plain, asked = (program_of(network, SMALL, *c) for c in ((), (Cascade(0, 1, 2),)))
    assert np.array_equal(plain.instructions, asked.instructions)


def test_what_is_read_later_too_is_stored_as_it_is_made() -> None:
    """The cascade's own layers read its rows in SRAM; it is complete in DRAM behind it."""
    net = Net(x=(2, 40, 23, 8))
    net.conv("x", "a", 40, 3)
    net.conv("a", "b", 8, 3)
    net.conv("b", "c", 8, 1)
    net.conv("a", "d", 8, 3)
    net.map("d", "y", binary("add", "c"))
    filled(net)
    network = net.network("y", "a")
    together, alone = (program_of(network, SMALL, *c) for c in ((Cascade(0, 2, 3),), ()))
    assert verify(together) == []
    loads = [int((p.instructions["opcode"][p.layer_of == 1] == 1).sum()) for p in (together, alone)]
    assert loads[0] < loads[1], "only weights are loaded"
    assert outputs(together, network) == outputs(alone, network)


def test_tiles_do_not_grow_with_the_windows_behind_them() -> None:
    """A tile has the rows of a stripe and those that one window reaches beyond; layers far behind begin later."""
    net = Net(x=(1, 40, 12, 8))
    names = ["x", *"abcdefgh"]
    for source, name in itertools.pairwise(names):
        net.conv(source, name, 40, 3)
    filled(net)
    network, target = net.network("h"), replace(SMALL, sram_kib=256)
    together = program_of(network, target, Cascade(0, 7, 3))
    symbols = together.symbols[together.symbols["role"] == ROLES.index("tile")]
    assert verify(together) == []
    row_bytes = 12 * 40
    assert 3 * row_bytes < symbols["bytes"].max() <= (3 + 3 + 1) * row_bytes
    assert outputs(together, network) == outputs(program_of(network, target), network)


def test_layers_whose_blocks_drain_longer_take_turns_with_others() -> None:
    """Of a wave: else vx would be late for one layer's blocks, and then idle in the other's."""
    net = Net(x=(1, 64, 64, 16))
    net.conv("x", "a", 64, 1)  # 16 channels in: 64 take longer to write than to compute
    net.conv("a", "y", 8, 3)
    filled(net)
    network = net.network("y")
    program = program_of(network, load_target("ommatid-1k"), Cascade(0, 1, 32))
    of_conv = program.layer_of[program.instructions["opcode"] == BY_MNEMONIC["conv"].opcode]
    assert np.count_nonzero(np.diff(of_conv)) > 3, "layer after layer in each of three waves"


def test_parts_of_a_row_are_made_before_it_is_read() -> None:
    """A Concat along columns: each part is other columns of the same rows."""
    net = Net(x=(1, 40, 9, 24))
    net.conv("x", "a", 32, 1)
    net.conv("x", "b", 32, 3)
    net.add(Concat(2, (None, None)), ["a", "b"], "ab", (1, 40, 18, 32))
    net.conv("ab", "y", 8, 3)
    filled(net)
    network = net.network("y")
    storage = plan_storage(network)
    assert "ab" in storage.free_layers and is_cascadable(network, storage, 0, 3)
    for target in (SMALL, load_target("ommatid-1k")):
        together = program_of(network, target, Cascade(0, 3, 4))
        assert verify(together) == []
        assert outputs(together, network) == outputs(program_of(network, target), network)


def test_rows_of_more_bytes_than_an_instruction_has_channels_are_copied() -> None:
    net = Net(x=(1, 9, 1030, 8))
    net.conv("x", "a", 64, 1)
    net.conv("a", "y", 8, 3)
    filled(net)
    network = net.network("y")
    together = program_of(network, load_target("ommatid-1k"), Cascade(0, 1, 2))
    assert verify(together) == []
    assert outputs(together, network) == outputs(program_of(network, load_target("ommatid-1k")), network)


@pytest.mark.parametrize("each", [16, 18, 19.75])
def test_a_transposed_convolution_with_no_room_for_its_weights(each: float) -> None:
    """Weights are loaded part by part where they have no room: not those of several phases."""
    net = Net(x=(1, 11, 7, 16))
    net.conv("x", "a", 40, 1)
    transposed(net, "a", "b", 40)
    net.conv("b", "y", 16, 5)
    filled(net)
    network = net.network("y")
    together = program_of(network, SMALL, Cascade(1, 2, each))
    assert verify(together) == []
    assert outputs(together, network) == outputs(program_of(network, SMALL), network)


def test_no_cascade_reaches_over_the_host() -> None:
    net = Net(x=(1, 21, 21, 16))
    net.conv("x", "a", 64, 1)
    net.conv("a", "b", 16, 1)
    net.cpu("b", "c")
    net.conv("c", "d", 64, 1)
    net.conv("d", "y", 16, 1)
    filled(net)
    network = net.network("b", "y")
    storage = plan_storage(network)
    possible = {pair for pair in ((0, 1), (1, 2), (2, 3), (0, 3)) if is_cascadable(network, storage, *pair)}
    assert possible == {(0, 1), (2, 3)}


def test_what_only_vx_does_stands_between_what_mx_does() -> None:
    """So that it runs while the array is busy with the next block."""
    net = Net(x=(1, 28, 28, 64))
    net.conv("x", "s", 64, 1)
    net.conv("s", "a", 64, 3)
    pool(net, "s", "b", 3, 1, 1)
    net.add(Concat(3, (None, None)), ["a", "b"], "ab", (1, 28, 28, 128))
    net.conv("ab", "y", 8, 1)
    filled(net)
    network, target = net.network("y"), load_target("ommatid-1k")
    program = program_of(network, target, Cascade(1, 2, 28))
    stream = program.instructions["opcode"][np.isin(program.layer_of, (1, 2))]
    conv, pools = (np.flatnonzero(stream == BY_MNEMONIC[name].opcode) for name in ("conv", "pool"))
    assert pools.size and (pools < conv[-1]).sum() > pools.size / 2


def test_what_a_buffer_is_computed_from_does_not_make_it_anew() -> None:
    """A dense block: parts of one buffer are computed from other parts of it, which then stay whole."""
    net = Net(x=(1, 40, 9, 24))
    net.conv("x", "a", 16, 1)
    net.conv("a", "b", 16, 3)
    net.add(Concat(3, (None, None)), ["a", "b"], "ab", (1, 40, 9, 32))
    net.conv("ab", "c", 16, 3)
    net.add(Concat(3, (None, None)), ["ab", "c"], "abc", (1, 40, 9, 48))
    net.conv("abc", "y", 8, 3)
    filled(net)
    network = net.network("y")
    storage, cascade = plan_storage(network), Cascade(0, 5, 4)
    assert {storage.spots[name].buffer for name in ("a", "b", "c")} == {"abc"}
    assert inner_buffers(network, storage, lifetimes(network, storage), cascade, SMALL) == frozenset()
    assert outputs(program_of(network, SMALL, cascade), network) == outputs(
        program_of(network, SMALL), network
    )


def test_rows_of_an_operand_that_is_the_input_too() -> None:
    net = Net(x=(1, 30, 9, 24))
    net.map("x", "m", table(1))
    net.add(net_conv(24), ["m"], "y", (1, 30, 9, 24), [binary("add", "m")], macs=1000)
    filled(net)
    network, target = net.network("y"), replace(SMALL, sram_kib=64)
    together = program_of(network, target, Cascade(0, 1, 3))
    assert verify(together) == []
    assert outputs(together, network) == outputs(program_of(network, target), network)


def net_conv(channels: int) -> Conv:
    """3 x 3, keeping rows and columns."""
    return Conv(
        np.zeros((channels, 3, 3, channels), np.int8), np.zeros(channels, np.int32), np.ones(channels, np.float32),
        Window((3, 3), pads=(1,) * 4), 1, (0, "int8"),
    )  # fmt: skip


def test_a_part_is_lowered_beside_what_stays_around_it() -> None:
    """Else trials would have more SRAM than there will be."""
    net = Net(x=(1, 12, 12, 16))
    net.conv("x", "a", 64, 1)
    net.conv("a", "b", 64, 1)
    net.map("b", "c", table(1))
    net.map("c", "y", binary("add", "a"))
    network = net.network("y")
    plan = make_plan(network, SMALL, plan_storage(network))
    assert "a" in plan.resident
    peak = lower(plan, range(2, 3)).lowering.sram.peak_bytes
    alone = lower(replace(plan, resident=plan.resident - {"a"}), range(2, 3)).lowering.sram.peak_bytes
    assert peak >= alone + plan.storage.buffer_bytes["a"]


def test_what_moved_for_a_cascade_in_vain_moves_back() -> None:
    """It does not fit with nothing beside it either."""
    net = Net(x=(1, 40, 40, 16))
    net.conv("x", "r", 16)
    net.conv("r", "a", 96, kernel=3)
    net.conv("a", "b", 16, kernel=3)
    net.map("b", "y", binary("add", "r"))
    network, target = net.network("y"), replace(SMALL, sram_kib=96)
    alone = schedule(network, target).plan
    assert "r" in alone.resident
    together = schedule(network, target, [Cascade(1, 2, 40)]).plan
    assert not together.inner and together.resident == alone.resident


def test_a_residual_of_rows_that_the_convolution_does_not_read() -> None:
    """Every second row, as far as there are rows, and to each row that of the input."""
    net = Net(x=(1, 24, 40, 16))
    net.conv("x", "a", 32)
    operation = Conv(
        np.zeros((32, 1, 1, 32), np.int8), np.zeros(32, np.int32), np.ones(32, np.float32),
        Window((1, 1), (2, 1), pads=(0, 0, 23, 0)), 1, (0, "int8"),
    )  # fmt: skip
    net.add(operation, ["a"], "b", (1, 24, 40, 32), macs=1000)
    net.map("b", "y", binary("add", "a"))
    filled(net)
    network = fuse(net.network("y"))
    assert len(network.layers) == 2
    cascade = Cascade(0, 1, 1)
    program = program_of(network, SMALL, cascade)
    assert cascade in schedule(network, SMALL, [cascade]).plan.inner
    assert outputs(program, network) == outputs(program_of(net.network("y"), SMALL), network)


def test_what_makes_the_whole_slower_is_not_kept() -> None:
    """Trials see parts; the network has the last word."""
    net = Net(x=(1, 61, 61, 16))
    net.conv("x", "a", 64, 1)
    pool(net, "a", "b", 3, 2, 1)
    net.conv("b", "c", 32, 3)
    filled(net)
    net.cpu("c", "d")
    net.conv("d", "y", 8, 1)
    filled(net)
    network, target = net.network("c", "y"), replace(SMALL, sram_kib=128)
    factor = []

    def estimate(program: Program) -> Array:
        whole = len(program.partitions) > 1
        factor.append(2.0 if whole and factor else 1.0)
        return finish_cycles(program) * factor[-1]

    assert choose_cascades(network, target, finish_cycles, (60,)).cascades
    assert choose_cascades(network, target, estimate, (60,)).cascades == ()


@pytest.mark.parametrize(("end", "each", "met"), [(3, 2, [(0, 8)]), (4, 4, [(0, 3), (4, 8)])])
def test_neighbouring_cascades_become_one_or_meet_elsewhere(
    end: int, each: int, met: list[tuple[int, int]]
) -> None:
    """Behind layer 3 lies a map of 16 channels, behind layer 4 one of 64."""
    net = Net(x=(1, 61, 61, 16))
    net.conv("x", "a0", 64, 1)
    for i in range(4):
        net.conv(f"a{i}", f"b{i}", 16, 1)
        net.conv(f"b{i}", f"a{i + 1}", 64, 1)
    filled(net)
    network, target = net.network("a4"), replace(SMALL, sram_kib=64)

    two = (Cascade(0, end, each), Cascade(end + 1, 8, each))
    plain = priced(network, target, finish_cycles)
    found = neighbours(Trials(network, target, finish_cycles, plain), two)
    assert [(c.first, c.last) for c in found] == met
    before, after = (finish_cycles(program_of(network, target, *c)).max() for c in (two, found))
    assert after < before


def test_cascades_have_no_layer_in_common() -> None:
    net = Net(x=(1, 61, 61, 16))
    net.conv("x", "a0", 64, 1)
    for i in range(4):
        net.conv(f"a{i}", f"b{i}", 16, 1)
        if i == 1:  # no cascade has it
            net.add(Transpose((0, 2, 1, 3)), ["b1"], "turned", (1, 61, 61, 16))
        net.conv("turned" if i == 1 else f"b{i}", f"a{i + 1}", 64, 1)
    filled(net)
    network, target = net.network("a4"), replace(SMALL, sram_kib=64)

    found = choose_cascades(network, target, finish_cycles, (12, 200)).cascades
    layers = [i for c in found for i in range(c.first, c.last + 1)]
    assert len(found) > 1 and len(set(layers)) == len(layers)
