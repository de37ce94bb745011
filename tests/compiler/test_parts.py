"""Cores that share a network: every layer's bits are those of one core, whatever is divided how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.assemble import assemble_program
from ommatid.compiler.batches import image_by_image
from ommatid.compiler.cascade import BY_ROWS
from ommatid.compiler.fuse import fuse
from ommatid.compiler.layers import Conv, Lrn, Mean, Network, Norm, Pool, View, Window, nhwc
from ommatid.compiler.parts import divide, held
from ommatid.compiler.pipeline import compile_model, compile_network
from ommatid.compiler.placement import FAST
from ommatid.compiler.schedule import schedule
from ommatid.compiler.storage import operands, plan_storage
from ommatid.isa.instructions import BY_MNEMONIC, view
from ommatid.isa.program import Placed, Program
from ommatid.isa.program_file import from_bytes, to_bytes
from ommatid.isa.target import Target, load_target
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from ommatid.runtime import compile as tried
from ommatid.simulator.functional import Machine
from tests import networks
from tests.compiler.nets import Net, Shape, binary, table
from tests.workloads import statically_quantized

Array = np.ndarray[Any, Any]
FOUR = load_target("ommatid-4k")
ONE = dataclasses.replace(FOUR, name="one core", cores=1)
SMALL = dataclasses.replace(FOUR, name="small", sram_kib=48)  # most of it lies in DRAM
Q = (0, "int8")


class Author(Net):
    """A network with weights, of no ONNX nodes."""

    def network(self, *kept: str) -> Network:
        self.layers = [dataclasses.replace(layer, nodes=()) for layer in self.layers]
        return super().network(*kept)

    def conv_of(
        self, source: str, output: str, channels: int, kernel: int = 1, stride: int = 1, up: int = 1,
        groups: int = 1, steps: tuple[Any, ...] = (),
    ) -> str:  # fmt: skip
        """A convolution with random weights, padded by half its kernel."""
        rng = np.random.default_rng(len(self.layers))
        n, h, w, c = nhwc(self.tensors[source].shape)
        pad = kernel // 2
        high, wide = ((size * up + 2 * pad - kernel) // stride + 1 for size in (h, w))
        operation = Conv(
            rng.integers(-9, 10, (channels, kernel, kernel, c // groups)).astype(np.int8),
            rng.integers(-99, 99, channels).astype(np.int32), np.full(channels, 0.02, np.float32),
            Window((kernel, kernel), (stride, stride), pads=(pad,) * 4), groups, Q, (up, up),
        )  # fmt: skip
        shape = (n, high, wide, channels) if len(self.tensors[source].shape) == 4 else (n, wide, channels)
        return self.add(operation, [source], output, shape, steps, macs=n * h * w * channels)

    def pool(self, source: str, output: str, kernel: int = 3, stride: int = 2) -> str:
        """A maximum over windows, padded by one."""
        n, h, w, c = self.tensors[source].shape
        shape = (n, (h + 2 - kernel) // stride + 1, (w + 2 - kernel) // stride + 1, c)
        return self.add(
            Pool("max", Window((kernel, kernel), (stride, stride), pads=(1,) * 4)), [source], output, shape
        )


def residual(n: int) -> Network:
    """Rows, then channels, a sum of two paths, a normalisation and a pooling woven in, means and a classifier."""
    net = Author(x=(n, 19, 18, 3))
    net.conv_of("x", "stem", 32, 3)
    net.add(Lrn(5, 0.001, 1.0, 1.0), ["stem"], "lrn", (n, 19, 18, 32))
    net.pool("lrn", "small")
    net.conv_of("small", "left", 96)
    net.conv_of("small", "wide", 192, 3)
    net.conv_of("wide", "sum", 96, 1, steps=(table(), binary("add", "left")))
    net.pool("small", "side", 3, 1)
    net.conv_of("sum", "down", 320, 3, 2)
    mean = Mean(0.05, Q)
    net.add(mean, ["down"], "mean", (n, 1, 1, 320))
    net.conv_of("mean", "classes", 50)
    return net.network("classes", "side")


def others(n: int) -> Network:
    """Depthwise, grouped and transposed convolutions, maps, and a gate by channels."""
    net = Author(x=(n, 13, 9, 24))
    net.conv_of("x", "depthwise", 24, 3, groups=24)
    net.conv_of("depthwise", "grouped", 48, 3, groups=3)
    net.map("grouped", "mapped", table(1))
    net.add(Mean(0.05, Q), ["mapped"], "mean", (n, 1, 1, 48))
    net.conv_of("mean", "gate", 48)
    net.map("mapped", "gated", binary("mul", "gate", 0.01))
    net.conv_of("gated", "up", 20, 3, up=2)
    net.pool("up", "pooled", 3, 1)
    return net.network("pooled")


def in_stages(n: int) -> Network:
    """Large maps before and after a CPU partition; those after it read one from before, and a gate without images."""
    net = Author(x=(n, 40, 40, 8), z=(1, 1, 1, 16))
    net.conv_of("z", "gate", 16)
    net.conv_of("x", "first", 64, 3)
    net.layers[-1] = dataclasses.replace(net.layers[-1], name="x")  # as the input is called
    net.conv_of("first", "kept", 16, 3, steps=(binary("mul", "gate", 0.3),))
    net.conv_of("kept", "asked", 16)
    net.layers = [dataclasses.replace(layer, nodes=()) for layer in net.layers]
    net.cpu("asked", "answer")
    net.conv_of("answer", "second", 64, 3)
    net.conv_of("second", "third", 16, 3, steps=(binary("add", "kept"),))
    net.map("third", "last", binary("mul", "gate", 0.3))
    return net.network("asked", "last")


def tokens(n: int) -> Network:
    """A projection by channels, whose tokens are cut as rows, and a normalisation that could be woven in."""
    net = Author(x=(n, 10, 10, 2048))
    net.add(View(), ["x"], "flat", (n, 100, 2048))
    net.conv_of("flat", "projected", 64)
    factors = np.stack([np.full(64, 20, np.float32), np.zeros(64, np.float32)])
    net.add(Norm(factors, 1e-5, True), ["projected"], "normal", (n, 100, 64))
    return net.network("normal")


def run(program: Program) -> dict[str, Array]:
    """Every tensor when it is whole, by name."""
    machine, found = Machine(program, threads=1), {}
    for placed in program.placed:
        if placed.layer < 0:
            shape = placed.tensor.shape
            machine.write(placed, np.random.default_rng(0).integers(-99, 99, shape).astype(np.int8))

    def note(m: Machine, placed: Placed) -> None:
        found[placed.tensor.name] = m.read(placed)

    machine.run(0, len(program.instructions), on_ready=note)
    return found


def same_bits(make: Callable[[int], Network], n: int, target: Target) -> None:
    """Every tensor of the network is what one core makes of it."""
    one, four = (compile_network(make(n), chip) for chip in (ONE, target))  # which verifies
    assert set(four.instructions["core"]) == {0, 1, 2, 3} and set(one.instructions["core"]) == {0}
    expected, found = run(one), run(from_bytes(to_bytes(four)))
    assert expected.keys() == {layer.output for layer in fuse(make(n)).layers}
    for name, value in expected.items():
        images = [found[f"{name}@{i}"] for i in range(n)] if name not in found else [found[name]]
        assert len(np.unique(value)) > 8 and (np.concatenate(images) == value).all(), name


@pytest.mark.parametrize("target", [FOUR, SMALL], ids=["4k", "small"])
@pytest.mark.parametrize("n", [1, 2, 4, 5])
@pytest.mark.parametrize("make", [residual, others])
def test_the_bits_are_those_of_one_core(make: Any, n: int, target: Target) -> None:
    same_bits(make, n, target)


def test_addresses_that_are_searched_for_are_the_same_on_all_cores() -> None:
    network = fuse(residual(1))
    one, four = (schedule(network, FOUR, steps=steps) for steps in ((0, 0), (FAST, FAST)))
    assert one.plan.resident == four.plan.resident == four.plan.sram_address.keys()
    programs = [assemble_program(each) for each in (one, four)]
    assert verify(programs[1]) == [] and one.lowering.homes != four.lowering.homes
    expected, found = (run(program) for program in programs)
    assert all((found[name] == value).all() for name, value in expected.items())


@pytest.mark.parametrize("optimize", [0, 2])
def test_a_batch_of_four_has_onnxruntimes_bits(optimize: int) -> None:
    feeds = [networks.inputs(seed, batch=4) for seed in (0, 1)]
    model = statically_quantized(networks.convolution(batch=4), feeds)
    program = tried.compile_model(model, FOUR, optimize)
    assert set(program.instructions["core"]) == {0, 1, 2, 3}
    reports = layerwise(program, model, feeds, mode="entire")
    assert reports and all(report.exact and report.equal == 1 for report in reports)


def test_images_that_a_later_stage_reads() -> None:
    same_bits(in_stages, 4, SMALL)


def test_nothing_is_woven_into_tokens_that_are_cut_as_rows() -> None:
    same_bits(tokens, 1, FOUR)


def test_what_is_written_into_parts_is_read_from_them() -> None:
    program = compile_network(residual(1), FOUR)
    machine, rng = Machine(program, threads=1), np.random.default_rng(0)
    shared = [placed for placed in program.placed if len(placed.held) > 1]
    for placed in shared:
        values = rng.integers(-128, 128, placed.tensor.shape).astype(np.int8)
        machine.write(placed, values)
        assert (machine.read(placed) == values).all()
    assert len(shared) > 3


def test_weights_of_rows_are_loaded_once_for_all_and_rows_sent_to_neighbours() -> None:
    program = compile_network(residual(1), FOUR)
    opcode = program.instructions["opcode"]
    loads = view(program.instructions, "load")[opcode == BY_MNEMONIC["load"].opcode]
    sends = view(program.instructions, "send")[opcode == BY_MNEMONIC["send"].opcode]
    assert (loads["multicast"] == 15).any() and len(sends)
    assert (sends["peer"] != sends["core"]).all()


@pytest.mark.parametrize("n", [1, 2, 4, 5])
@pytest.mark.parametrize("make", [residual, others])
@pytest.mark.parametrize("sending", [0.0, 1000.0])
def test_parts_cover_each_output_once_and_held_bytes_all_that_they_touch(
    make: Any, n: int, sending: float
) -> None:
    network = make(n)
    storage = plan_storage(network)
    parts = divide(network, storage, FOUR, BY_ROWS, frozenset(), sending)
    spans = held(network, storage, parts, 4)
    for index, layer in enumerate(network.layers):
        shape: Shape = network.tensors[layer.output].shape
        high = network.tensors[layer.input_name].shape[1] if isinstance(layer.operation, Mean) else shape[1]
        made = np.zeros((shape[0], high, shape[3]), int)
        for part in parts[index]:
            made[slice(*part.images), slice(*part.rows), slice(*part.channels)] += 1
        assert (made == 1).all()
        for core, part in enumerate(parts[index]):
            if part.pixel_rows:
                for name in (*operands(layer), layer.output):
                    begin, end = spans[storage.spots[name].buffer][core]
                    assert end > begin


def test_large_maps_of_a_batch_are_made_image_by_image() -> None:
    network = residual(4)
    assert [layer.name for layer in image_by_image(network, FOUR).layers] == [
        layer.name for layer in network.layers
    ]
    divided = image_by_image(network, SMALL)
    assert {f"wide@{i}" for i in range(4)} <= {layer.name for layer in divided.layers}
    assert sum(layer.macs for layer in divided.layers) == sum(layer.macs for layer in network.layers)
    names = [layer.name for layer in image_by_image(in_stages(4), SMALL).layers]
    assert names.count("gate") == 1 and "gate@0" not in names and len(set(names)) == len(names)


def test_a_result_without_dimensions() -> None:
    node = onnx.helper.make_node("ReduceMean", ["x"], ["y"], "mean", keepdims=0)
    model = networks.model([node], {"x": [1, 3, 4]}, {"y": []}, {})
    program = compile_model(model, FOUR, method="minmax")
    assert program.outputs[0].shape == () and verify(program) == []
