"""Channel shuffles between a grouped and a depthwise convolution: gone, and the same bits."""

from __future__ import annotations

import pytest

from ommatid.compiler.fuse import fuse
from ommatid.compiler.layers import Network, Transpose, View
from ommatid.compiler.pipeline import compile_network
from ommatid.compiler.shuffle import absorb_shuffles
from ommatid.isa.instructions import BY_MNEMONIC
from ommatid.isa.target import load_target
from tests.compiler.nets import Net, binary, table
from tests.compiler.test_cascade import filled, outputs

TARGET = load_target("ommatid-1k")


def unit(
    channels: int,
    groups: int,
    after: int,
    perm: tuple[int, ...] = (0, 1, 2, 4, 3),
    side: tuple[int, int] = (9, 7),
) -> Network:
    """A unit of ShuffleNet; ``after`` are the groups of the convolution behind the depthwise one, which sees ``side``."""
    net = Net(x=(1, 9, 7, channels))
    net.conv("x", "first", channels, 1, groups)
    net.add(View(), ["first"], "apart", (1, 9, 7, groups, channels // groups))
    shape = (1, 9, 7, groups, channels // groups)
    net.add(Transpose(perm), ["apart"], "turned", tuple(shape[i] for i in perm))
    net.add(View(), ["turned"], "shuffled", (1, *side, channels))
    net.conv("shuffled", "depthwise", channels, 3, channels)
    net.map("depthwise", "table", table(1))
    net.conv("table", "last", channels, 1, after)
    net.map("last", "y", binary("add", "x") if side == (9, 7) else table(2))
    filled(net)
    return net.network("y")


@pytest.mark.parametrize(("channels", "groups", "after"), [(136, 4, 4), (48, 3, 2), (40, 4, 1), (24, 2, 8)])
@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-4k"])
def test_same_bits_without_the_shuffle(channels: int, groups: int, after: int, target: str) -> None:
    network = unit(channels, groups, after)
    programs = [compile_network(network, load_target(target), level) for level in (0, 1)]
    copies = [(program.instructions["opcode"] == BY_MNEMONIC["copy"].opcode).sum() for program in programs]
    assert copies[0] > 0 == copies[1]
    assert outputs(programs[0], network) == outputs(programs[1], network)


def absorbed(network: Network) -> bool:
    """Whether a shuffle is taken over."""
    network = fuse(network)
    return absorb_shuffles(network, TARGET) is not network


def test_what_is_no_shuffle_of_channels_stays() -> None:
    assert absorbed(unit(28, 7, 4))
    assert not absorbed(unit(28, 7, 4, (0, 1, 3, 2, 4)))


def test_rows_that_become_columns_stay() -> None:
    """The depthwise convolution would see other neighbours before the shuffle than behind it."""
    assert not absorbed(unit(28, 7, 4, side=(7, 9)))
