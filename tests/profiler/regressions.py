"""Regressions to plant: each changes one layer of a network, or of a program, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ommatid.compiler import fuse as fusing
from ommatid.compiler import lower_conv
from ommatid.compiler.front import FrontOptions, build_network
from ommatid.compiler.layers import Conv, Layer, Network, Pool, Stage, Window
from ommatid.compiler.operators import RULES
from ommatid.compiler.pipeline import compile_network
from ommatid.compiler.quantized import Unsupported
from ommatid.compiler.tile import ConvPlan
from ommatid.isa.instructions import BY_MNEMONIC, Engine
from ommatid.isa.program import Program
from ommatid.isa.target import Target
from tests import networks

Array = np.ndarray[Any, Any]


def chain() -> onnx.ModelProto:
    """Convolutions one after the other, each with its Relu, and a pool."""
    return _network(1, residual=False)


def residual() -> onnx.ModelProto:
    """Convolutions with additions around them."""
    return _network(2, residual=True)


def _network(seed: int, residual: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    nodes, constants, value, channels = [], {}, "x", 8
    for i, (wide, kernel) in enumerate([(32, 3), (32, 3), (32, 1), (32, 3)]):
        scale = np.sqrt(2 / (channels * kernel**2))
        constants[f"w{i}"] = (scale * rng.standard_normal((wide, channels, kernel, kernel))).astype(
            np.float32
        )
        constants[f"b{i}"] = (0.3 * rng.standard_normal(wide)).astype(np.float32)
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=pads))
        made = f"c{i}"
        if residual and channels == wide:
            nodes.append(helper.make_node("Add", [made, value], [f"a{i}"], f"add{i}"))
            made = f"a{i}"
        nodes.append(helper.make_node("Relu", [made], [f"r{i}"], f"relu{i}"))
        value, channels = f"r{i}", wide
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes.append(helper.make_node("MaxPool", [value], ["y"], "pool", **pool))
    return networks.model(nodes, {"x": [1, 8, 40, 40]}, {"y": [1, 32, 20, 20]}, constants)


FRONT = FrontOptions(method="minmax")


# --- of the network: numbers -------------------------------------------------------------------------------


def _with(network: Network, name: str, change: Callable[[Layer], list[Layer]]) -> Network:
    """The network with one layer replaced."""
    stages = [
        Stage(tuple(new for layer in s.layers for new in (change(layer) if layer.name == name else [layer])), s.cpu)
        for s in network.stages
    ]  # fmt: skip
    return dataclasses.replace(network, stages=tuple(stages))


def _conv(change: Callable[[Conv], dict[str, Any]]) -> Callable[..., Program]:
    def plant(network: Network, target: Target, name: str, rng: Any) -> Program:
        def changed(layer: Layer) -> list[Layer]:
            assert isinstance(layer.operation, Conv)
            operation = dataclasses.replace(layer.operation, **change(layer.operation))
            return [dataclasses.replace(layer, operation=operation)]

        return compile_network(_with(network, name, changed), target)

    return plant


def _one_bit(conv: Conv) -> dict[str, Any]:
    weights = conv.weights.copy()
    weights.reshape(-1).view(np.uint8)[weights.size // 2] ^= 0x40
    return {"weights": weights}


def _window_down(conv: Conv) -> dict[str, Any]:
    top, left, bottom, right = conv.window.pads
    return {"window": dataclasses.replace(conv.window, pads=(top + 1, left, bottom - 1, right))}


# --- of the network: how it is made ------------------------------------------------------------------------


def not_fused(network: Network, target: Target, name: str, rng: Any) -> Program:
    """What fuses with the layer stays a layer of its own."""
    join = fusing._join

    def refuse(result: Any, i: int, *rest: Any) -> Any:
        joined = join(result, i, *rest)
        return None if joined is not None and joined[1].name == name else joined

    fusing._join = refuse  # type: ignore[assignment]
    split = _with(network, name, _clamp_apart(network))
    try:
        return compile_network(split, target)
    finally:
        fusing._join = join


def _clamp_apart(network: Network) -> Callable[[Layer], list[Layer]]:
    """The layer's steps in a layer of their own."""

    def change(layer: Layer) -> list[Layer]:
        from ommatid.compiler.layers import Map

        middle = f"{layer.output}@apart"
        network.tensors[middle] = dataclasses.replace(network.tensors[layer.output], name=middle)  # type: ignore[index]
        first = dataclasses.replace(layer, steps=(), output=middle)
        return [
            first,
            Layer(f"{layer.name}@steps", layer.op, layer.nodes, Map(), (middle,), layer.output, layer.steps),
        ]

    return change


def extra_copy(network: Network, target: Target, name: str, rng: Any) -> Program:
    """The layer's result goes once more through the vector engine."""

    def change(layer: Layer) -> list[Layer]:
        middle = f"{layer.output}@copied"
        network.tensors[middle] = dataclasses.replace(network.tensors[layer.output], name=middle)  # type: ignore[index]
        once = Pool("max", Window((1, 1)))
        copy = Layer(f"{layer.name}@copy", layer.op, layer.nodes[:1], once, (middle,), layer.output)
        return [dataclasses.replace(layer, output=middle), copy]

    return compile_network(_with(network, name, change), target)


def in_dram(network: Network, target: Target, name: str, rng: Any) -> Program:
    """The layer's result is placed in DRAM."""
    (output,) = [layer.output for s in network.stages for layer in s.layers if layer.name == name]
    return compile_network(dataclasses.replace(network, kept=network.kept | {output}), target)


def small_tiles(network: Network, target: Target, name: str, rng: Any) -> Program:
    """The layer goes in stripes of one row and the smallest blocks of channels."""
    prepare, plan = lower_conv._prepare, lower_conv.plan_conv

    def smaller(shape: Any, *rest: Any, **more: Any) -> ConvPlan:
        smallest = {"stripe_rows": 1, "block_channels": shape.block_unit, "chunk_blocks": 1}
        return dataclasses.replace(plan(shape, *rest, **more), **smallest)

    def planted(low: Any, layer: Layer, *rest: Any) -> Any:
        lower_conv.plan_conv = smaller if layer.name == name else plan
        return prepare(low, layer, *rest)

    lower_conv._prepare = planted
    try:
        return compile_network(network, target)
    finally:
        lower_conv._prepare, lower_conv.plan_conv = prepare, plan


def on_the_host(network: Network, target: Target, name: str, rng: Any, model: Any = None) -> Program:
    """No rule takes the layer's node."""
    rule = RULES["Conv"]

    def refuse(walk: Any, node: Any, *rest: Any) -> Any:
        if node.name == name:
            raise Unsupported("planted")
        return rule(walk, node, *rest)

    RULES["Conv"] = refuse
    try:
        return compile_network(build_network(model, FRONT), target)
    finally:
        RULES["Conv"] = rule


# --- of the program -------------------------------------------------------------------------------------------


def again(mnemonic: str) -> Callable[..., Program]:
    """One instruction of the layer is executed twice."""

    def plant(network: Network, target: Target, name: str, rng: Any) -> Program:
        program = compile_network(network, target)
        layer = [row.name for row in program.layers].index(name)
        mine = program.instructions["opcode"] == BY_MNEMONIC[mnemonic].opcode
        at = int(rng.choice(np.flatnonzero(mine & (program.layer_of == layer))))
        copies = np.ones(len(program.instructions), np.int64)
        copies[at] = 2
        stream = np.repeat(program.instructions, copies)
        stream["signal"][at] = 0
        stream["wait"][at + 1] = 0

        def shifted(index: int) -> int:
            return index + (index > at)

        return dataclasses.replace(
            program,
            instructions=stream,
            operands=np.repeat(program.operands, copies, axis=0),
            layer_of=np.repeat(program.layer_of, copies),
            placed=tuple(
                dataclasses.replace(p, ready=p.ready + (p.ready >= at), until=shifted(p.until)) for p in program.placed
            ),
            partitions=tuple(
                dataclasses.replace(p, begin=shifted(p.begin), end=shifted(p.end)) for p in program.partitions
            ),
        )  # fmt: skip

    return plant


def no_prefetch(network: Network, target: Target, name: str, rng: Any) -> Program:
    """The layer's first load waits for what the array computes before it."""
    program = compile_network(network, target)
    layer = [row.name for row in program.layers].index(name)
    stream = program.instructions.copy()
    engine = np.array([BY_ENGINE.get(int(code), -1) for code in stream["opcode"]])
    load = int(
        np.flatnonzero(
            (engine == Engine.LOAD) & (program.layer_of == layer) & (stream["wait"] >> Engine.MX & 1 == 0)
        )[0]
    )
    before = np.flatnonzero((engine == Engine.MX) & (stream["signal"] >> Engine.LOAD & 1 == 0))
    stream["signal"][before[before < load][-1]] |= 1 << Engine.LOAD
    stream["wait"][load] |= 1 << Engine.MX
    return dataclasses.replace(program, instructions=stream)


BY_ENGINE = {row.opcode: int(row.engine) for row in BY_MNEMONIC.values()}

#: What is planted, and whether the outputs change.
REGRESSIONS: dict[str, tuple[Callable[..., Program], bool]] = {
    "one bit of a weight": (_conv(_one_bit), True),
    "weights doubled": (_conv(lambda c: {"weights": np.clip(c.weights.astype(int) * 2, -127, 127).astype(np.int8)}), True),
    "a constant of the bias": (_conv(lambda c: {"bias": c.bias + (np.arange(len(c.bias)) == 3) * 4000}), True),
    "multipliers": (_conv(lambda c: {"multipliers": c.multipliers * np.float32(1.05)}), True),
    "zero point": (_conv(lambda c: {"mid": (c.mid[0] + (2 if c.mid[0] < 250 else -2), c.mid[1])}), True),
    "channels rolled": (_conv(lambda c: {"weights": np.roll(c.weights, 1, axis=0)}), True),
    "window one pixel down": (_conv(_window_down), True),
    "not fused": (not_fused, False),
    "an extra copy": (extra_copy, False),
    "result in DRAM": (in_dram, False),
    "tile shrunk": (small_tiles, False),
    "on the host": (on_the_host, False),
    "loaded twice": (again("load"), False),
    "computed twice": (again("map"), False),
    "lost prefetch": (no_prefetch, False),
}  # fmt: skip
