"""The order of layers: what frees much of the SRAM comes first, and nothing before what it reads."""

from __future__ import annotations

import dataclasses

from ommatid.compiler.layers import Network
from ommatid.compiler.order import what_frees_first
from ommatid.compiler.storage import operands
from ommatid.isa.target import load_target
from tests.compiler.nets import binary
from tests.compiler.test_parts import Author

FOUR = load_target("ommatid-4k")


def block(channels: int) -> Network:
    """A residual block that halves its map: its shortcut stands last."""
    net = Author(x=(1, 56, 56, 3))
    net.conv_of("x", "map", channels)
    net.conv_of("map", "one", channels // 2)
    net.conv_of("one", "two", channels // 2, 3, 2)
    net.conv_of("map", "short", channels, 1, 2)
    net.conv_of("two", "sum", channels, steps=(binary("add", "short"),))
    return net.network("sum")


def names(network: Network) -> list[str]:
    return [layer.output for layer in network.layers]


def test_a_shortcut_that_frees_a_large_map_comes_first() -> None:
    large, small = block(256), block(32)
    assert names(large) == ["map", "one", "two", "short", "sum"]
    assert names(what_frees_first(large, FOUR)) == ["map", "one", "short", "two", "sum"]
    assert names(what_frees_first(small, FOUR)) == names(small)
    kept = dataclasses.replace(large, kept=large.kept | {"map"})  # lies in DRAM: nothing is freed
    assert names(what_frees_first(kept, FOUR)) == ["map", "one", "two", "short", "sum"]


def test_nothing_comes_before_what_it_reads() -> None:
    made = {"x"}
    for layer in what_frees_first(block(256), FOUR).layers:
        assert set(operands(layer)) <= made
        made.add(layer.output)
