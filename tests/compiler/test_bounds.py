"""The two yardsticks, computed by hand for small networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ommatid.compiler.assemble import compulsory_bytes
from ommatid.compiler.bounds import (
    is_depthwise,
    layer_roofline_cycles,
    lower_bound_cycles,
    peak_macs_per_cycle,
)
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Quantization
from ommatid.isa.target import load_target
from tests import networks
from tests.compiler.nets import Net, table

SMALL, DEFAULT, LARGE = (load_target(name) for name in ("ommatid-256", "ommatid-1k", "ommatid-4k"))


def test_a_small_network_by_hand() -> None:
    """x 8x8x3 -> 3x3 convolution to 8 -> ReLU -> 1x1 convolution to 5, on 8 x 8 x 4 MACs and 6.4 bytes a cycle."""
    program = compile_model(networks.convolution(), target="ommatid-256")
    first, second = 8 * 8 * 8 * (3 * 3 * 3), 8 * 8 * 5 * 8
    assert [layer.macs for layer in program.layers] == [first, second] and program.macs == first + second
    # int8 weights, int32 biases, float32 multipliers; the input and the output are 8x8 bytes by channel
    first_bytes = 8 * 27 + 8 * 4 + 8 * 4 + 8 * 8 * 3
    second_bytes = 5 * 8 + 5 * 4 + 5 * 4 + 8 * 8 * 5
    assert program.compulsory_dram_bytes == first_bytes + second_bytes
    peak = 8 * 8 * 4
    assert program.lower_bound_cycles == max((first + second) / peak, (first_bytes + second_bytes) / 6.4)
    assert [layer.roofline_cycles for layer in program.layers] == pytest.approx(
        [max(first / peak, first_bytes / 6.4), max(second / peak, second_bytes / 6.4)]
    )
    assert program.roofline_cycles == pytest.approx(sum(layer.roofline_cycles for layer in program.layers))


def test_depthwise_has_a_peak_of_its_own() -> None:
    net = Net(x=(1, 8, 8, 64))
    net.conv("x", "dense", 64, 3)
    net.conv("x", "depthwise", 64, 3, groups=64)
    net.conv("x", "grouped", 64, 3, groups=4)
    net.conv("x", "two a channel", 128, 3, groups=64)
    net.map("x", "map", table())
    net.conv("map", "one channel", 1, groups=1)
    assert [is_depthwise(layer) for layer in net.layers] == [False, True, False, False, False, False]
    peaks = {
        t.name: [peak_macs_per_cycle(layer, t) for layer in net.layers[:2]] for t in (SMALL, DEFAULT, LARGE)
    }
    assert peaks == {"ommatid-256": [256, 32], "ommatid-1k": [1024, 128], "ommatid-4k": [4096, 512]}


def test_compute_or_bandwidth() -> None:
    net = Net(x=(1, 8, 8, 64))
    net.conv("x", "y", 64, 3)
    net.map("y", "z", table())
    conv, map_ = net.layers
    assert conv.macs == 8 * 8 * 64 * 64 * 9
    assert layer_roofline_cycles(conv, net.tensors, 0, DEFAULT) == conv.macs / 1024
    assert layer_roofline_cycles(conv, net.tensors, 10**6, DEFAULT) == 10**6 / 12.8
    assert layer_roofline_cycles(map_, net.tensors, 10**6, DEFAULT) == 0
    assert lower_bound_cycles(net.layers, net.tensors, 100, LARGE) == conv.macs / 4096
    assert lower_bound_cycles(net.layers, net.tensors, 10**6, LARGE) == pytest.approx(10**6 / 34.1)


def test_16_bits_run_at_half_rate() -> None:
    net = Net(x=(1, 8, 8, 64))
    net.conv("x", "y", 64, 3)
    (conv,) = net.layers
    wide = replace(net.tensors["x"], quantization=Quantization(1.0, 0, "int16"))
    tensors = net.tensors | {"x": wide}
    assert layer_roofline_cycles(conv, tensors, 0, DEFAULT) == conv.macs / 512
    assert lower_bound_cycles(net.layers, tensors, 0, LARGE) == conv.macs / 2048
    network = net.network("y")
    halves = compulsory_bytes(replace(network, tensors=tensors), net.layers)[0]
    assert halves == compulsory_bytes(network, net.layers)[0] + 8 * 8 * 64


def test_compulsory_bytes_count_once() -> None:
    """An input belongs to its first reader, an output to its writer; what stays inside the network costs nothing."""
    net = Net(x=(1, 2, 2, 16))
    net.conv("x", "a", 16)
    net.conv("x", "b", 16)
    net.map("b", "c", table())
    network = net.network("a", "c")
    weights, image = 16 * 16 + 16 * 4 + 16 * 4, 2 * 2 * 16
    assert compulsory_bytes(network, net.layers) == [weights + 2 * image, weights, image]
