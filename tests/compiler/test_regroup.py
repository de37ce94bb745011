"""Layers around large maps: what is made again, what moves, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ommatid.compiler.fuse import fuse
from ommatid.compiler.layers import Network
from ommatid.compiler.pipeline import compile_network
from ommatid.compiler.regroup import regroup
from ommatid.compiler.storage import operands
from ommatid.isa.target import load_target
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import finish_cycles
from tests.compiler.nets import Net, binary, table
from tests.compiler.test_cascade import filled, mean, outputs

SMALL = replace(load_target("ommatid-256"), name="small", sram_kib=48)


def gate(channels: int = 8, last: str = "y") -> Network:
    """A map of 40 channels, scaled by two layers of its mean; its input is read early and late."""
    net = Net(x=(1, 40, 40, 3))
    net.conv("x", "trunk", 24, 3)
    net.conv("trunk", "more", 16, 1)
    net.conv("trunk", "in", channels, 1)
    net.conv("in", "map", 40, 1)
    mean(net, "map", "m")
    net.conv("m", "squeeze", 8, 1)
    net.conv("squeeze", "excite", 40, 1)
    net.map("map", "scaled", binary("mul", "excite"))
    net.map("more", "other", table(3))
    net.conv("scaled", "y", 8, 3)
    filled(net)
    return net.network(last, "other")


def test_a_cheap_map_is_made_again_behind_its_gate() -> None:
    network = gate()
    (stage,) = network.stages
    named = tuple(replace(layer, nodes=(f"node {layer.name}",)) for layer in stage.layers)
    found = regroup(replace(network, stages=(replace(stage, layers=named),)), SMALL)
    twin = next(layer for layer in found.layers if layer.name == "map@again")
    assert twin.nodes == ("node map",) and twin.macs == 0
    readers = {layer.name: operands(layer) for layer in found.layers}
    assert readers["m"] == ["map"] and readers["scaled"] == ["map@again", "excite"]
    assert readers["map@again"] == readers["map"] == ["in"]
    names = [layer.name for layer in found.layers]
    assert names.index("map@again") + 1 == names.index("scaled") == names.index("y") - 1
    assert names[names.index("trunk") :][:4] == ["trunk", "in", "map", "m"], (
        "what makes little of much comes at once"
    )
    assert sorted(layer.macs for layer in found.layers) == sorted(
        [*(layer.macs for layer in network.layers), 0]
    )


@pytest.mark.parametrize(("channels", "twice"), [(8, True), (28, False), (40, False)])
def test_what_is_dear_is_not_made_again(channels: int, twice: bool) -> None:
    """An input about as wide as the map would have to be written out instead of it."""
    names = [layer.name for layer in regroup(gate(channels), SMALL).layers]
    assert ("map@again" in names) == twice


def test_large_maps_are_made_late_and_what_is_averaged_early() -> None:
    net = Net(x=(1, 40, 40, 3))
    net.conv("x", "large", 40, 1)
    net.conv("x", "s", 8, 1)
    net.map("s", "t", table(1))
    net.map("s", "averaged", table(2))
    mean(net, "averaged", "m")
    net.conv("large", "y", 8, 1)
    found = regroup(net.network("t", "m", "y"), SMALL)
    assert [layer.name for layer in found.layers] == ["s", "averaged", "t", "m", "large", "y"]


def test_nothing_changes_where_maps_fit_or_are_outputs() -> None:
    network = gate()
    assert regroup(network, load_target("ommatid-1k")) is network
    kept = gate(last="map")
    assert "map@again" not in [layer.name for layer in regroup(kept, SMALL).layers]


def test_same_bits_and_yardsticks_in_fewer_cycles() -> None:
    network = gate()
    plain, found = compile_network(network, SMALL, 1), compile_network(network, SMALL, 2, None, finish_cycles)
    assert outputs(plain, network) == outputs(found, network)
    assert found.roofline_cycles == plain.roofline_cycles
    assert found.lower_bound_cycles == plain.lower_bound_cycles
    assert found.compulsory_dram_bytes == plain.compulsory_dram_bytes
    before, after = profile(plain), profile(found)
    assert after.cycles < before.cycles
    assert sum(row.dram_bytes for row in after.rows) < 0.7 * sum(row.dram_bytes for row in before.rows)


def test_the_order_stays_one_in_which_all_is_made_before_it_is_read() -> None:
    for network in (gate(), fuse(gate())):
        found = regroup(network, SMALL)
        made = set(found.fed)
        for layer in found.layers:
            assert set(operands(layer)) <= made
            made.add(layer.output)
        assert np.all([name in found.tensors for name in made])
