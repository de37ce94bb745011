"""Fusion: golden texts of what fuses and what does not, and the same bytes before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.fuse import compose, fuse
from ommatid.compiler.layers import Binary, Concat, Conv, Map, Mean, Network, Pool, Step, Table, Window
from ommatid.compiler.layers_text import network_text
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.storage import plan_storage
from ommatid.isa.target import load_target
from ommatid.isa.verifier import verify
from tests import networks
from tests.compiler.nets import Net, Q, binary, table
from tests.compiler.test_cascade import doubled, filled, outputs, program_of
from tests.golden import check_golden

Array = np.ndarray[Any, Any]
SHAPE = (1, 2, 2, 4)


def before_and_after(net: Net, *kept: str) -> str:
    network = net.network(*kept)
    return f"{network_text(network)}\n{network_text(fuse(network))}"


def test_tables_join_what_computes() -> None:
    """Conv, Map and Mean take tables, and two tables are one; Pool takes none."""
    net = Net(x=SHAPE)
    net.map(net.map(net.conv("x", "conv", 4), "table1", table(1)), "table2", table(2))
    net.map(net.map("table2", "map", binary("mul", "x")), "table3", table(3))
    pool = net.add(Pool("max", Window((1, 1))), ["table3"], "pool", SHAPE)
    mean = net.add(Mean(0.5, Q), [net.map(pool, "table4", table(4))], "mean", (1, 1, 1, 4))
    net.map(mean, "table5", table(5))
    check_golden(__file__, "tables.txt", before_and_after(net, "table5"))


def test_sums_and_products_join_either_side() -> None:
    """The second operand's maker takes the step if the first's cannot; a chain has one table, binary, table."""
    net = Net(x=SHAPE)
    net.map(net.conv("x", "main", 4), "first", binary("add", "x"))
    net.map(net.add(Pool("max", Window((1, 1))), ["first"], "pool", SHAPE), "pooled", table(1))
    net.map("pool", "other", binary("mul", net.conv("x", "side", 4)))
    net.map("other", "two binaries", binary("add", "x"))
    check_golden(__file__, "binaries.txt", before_and_after(net, "two binaries", "pooled"))


def test_what_does_not_fuse() -> None:
    """Read twice, an output of the network, read after a CPU partition, of another shape, or scaled by channel."""
    net = Net(x=SHAPE)
    twice = net.conv("x", "read twice", 4)
    net.map(net.map(twice, "a", table(1)), "out", binary("add", twice))
    net.map(net.conv("x", "output", 4), "b", table(2))
    net.map(net.conv("x", "read later", 4), "c", table(3))
    net.add(Map(np.ones((3, 4), np.float32), Q), [net.conv("x", "before affine", 4)], "affine", SHAPE)
    net.add(Mean(0.5, Q), ["x"], "gate", (1, 1, 1, 4))
    net.add(Map(), ["x"], "gated", SHAPE, (binary("mul", "gate"),))
    net.cpu("c", "d")
    net.map("d", "e", binary("add", "read later"))
    check_golden(
        __file__, "apart.txt", before_and_after(net, "out", "output", "b", "c", "affine", "gated", "e")
    )


def test_concat_gives_its_tables_away() -> None:
    """To a maker that has room and no other reader; what it then writes is a new tensor of the concat's scale."""
    net = Net(x=SHAPE)
    parts = [
        net.conv("x", "conv", 4),
        net.conv("x", "read twice", 4),
        net.add(Pool("max", Window((1, 1))), ["x"], "pool", SHAPE),
        net.conv("x", "no table", 4),
    ]
    net.add(Concat(3, (*(table(k).values for k in range(3)), None)), parts, "concat", (1, 2, 2, 16))
    net.map("read twice", "y", binary("add", "x"))
    net.declare("concat", (1, 2, 2, 16), scale=0.25)
    network = net.network("concat", "y")
    check_golden(__file__, "concat.txt", before_and_after(net, "concat", "y"))
    fused = fuse(network)
    assert fused.tensors["concat@0"].quantization.scale == 0.25
    assert fused.tensors["concat@0"].shape == SHAPE and "concat@0" not in network.tensors


@pytest.mark.parametrize(("scale", "taps", "taken"), [(1.0, 1, True), (0.5, 1, False), (1.0, 4, False)])
def test_a_table_passes_what_repeats_pixels(scale: float, taps: int, taken: bool) -> None:
    """A nearest Resize that keeps the scale, no linear one; then all of the Concat can be written in place."""
    net = Net(x=(1, 5, 7, 4))
    doubled(net, net.map("x", "small", binary("mul", "x")), "large")
    net.declare("large", (1, 10, 14, 4), scale=scale)
    net.layers[-1] = replace(net.layers[-1], operation=replace(net.layers[-1].operation, taps=taps))
    net.map(doubled(net, "x", "also"), "other", table(1))
    net.add(Concat(3, (table(2).values, None)), ["large", "other"], "y", (1, 10, 14, 8))
    filled(net)
    network = net.network("y")
    found = fuse(network)
    assert ("y" in plan_storage(found).free_layers) == taken
    target = load_target("ommatid-256")
    assert outputs(program_of(found, target), found) == outputs(program_of(network, target), network)


def test_composed_tables() -> None:
    a, b = table(1), table(2)
    (one,) = compose([a, b])
    assert isinstance(one, Table) and [b.values[a.values[v]] for v in range(256)] == one.values.tolist()
    kinds = [type(step) for step in compose([a, b, binary("add", "x"), a, a, a])]
    assert kinds == [Table, Binary, Table]


# --- the same bytes before and after -----------------------------------------------------------------------------


def apply(step: Step, value: Array, values: dict[str, Array]) -> Array:
    """A step in float64, where the sums of these tests are exact."""
    if isinstance(step, Table):
        return np.asarray(step.values)[value]
    a, b = (v.view(t[1]).astype(float) for v, t in ((value, step.a), (values[step.other], step.b)))
    if step.kind == "add":
        real = a * step.a_factor + b * step.b_factor + step.addend
    else:
        real = (a - step.a[0]) * (b - step.b[0]) * step.a_factor + step.r[0]
    kind = np.iinfo(step.r[1])
    return np.clip(np.rint(real), kind.min, kind.max).astype(step.r[1]).view(np.uint8)


def run(network: Network) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    values = {n: rng.integers(0, 256, network.tensors[n].shape).astype(np.uint8) for n in sorted(network.fed)}
    for stage in network.stages:
        for layer in stage.layers:
            inputs = [values[name] for name in layer.inputs]
            if isinstance(layer.operation, Concat):
                parts = [
                    x if t is None else t[x] for x, t in zip(inputs, layer.operation.tables, strict=True)
                ]
                result = np.concatenate(parts, layer.operation.axis)
            elif isinstance(layer.operation, Conv | Pool):  # stands for any function
                result = inputs[0] * np.uint8(7) + np.uint8(13)
            elif isinstance(layer.operation, Mean):
                result = inputs[0].sum(axis=(1, 2), keepdims=True, dtype=np.uint8)
            else:
                result = inputs[0]
            for step in layer.steps:
                result = apply(step, result, values)
            values[layer.output] = np.broadcast_to(result, network.tensors[layer.output].shape)
    return values


@st.composite
def random_nets(draw: st.DrawFn) -> Network:
    net = Net(x=SHAPE)
    for k in range(draw(st.integers(1, 9))):
        full = sorted(n for n, t in net.tensors.items() if t.shape == SHAPE)
        late = full[-2:] if draw(st.booleans()) else full
        source, other = draw(st.sampled_from(late)), draw(st.sampled_from(full))
        kind = draw(
            st.sampled_from(["conv", "pool", "mean", "table", "table", "add", "mul", "concat", "cpu"])
        )
        name = f"t{k}"
        if kind == "conv":
            net.conv(source, name, 4)
        elif kind == "pool":
            net.add(Pool("max", Window((1, 1))), [source], name, SHAPE)
        elif kind == "mean":
            net.add(Mean(1.0, Q), [source], f"{name}m", (1, 1, 1, 4))
            net.add(Map(), [source], name, SHAPE, (binary("mul", f"{name}m"),))
        elif kind == "table":
            net.map(source, name, table(k))
        elif kind == "concat":
            tables = (table(k).values, draw(st.sampled_from([None, table(k + 1).values])))
            net.add(Concat(3, tables), [source, other], f"{name}c", (1, 2, 2, 8))
        elif kind == "cpu":
            net.cpu(source, name)
        else:
            net.map(source, name, binary(kind, other, 0.5, 0.75))
    read = {n for layer in net.network().layers for n in layer.inputs}
    read |= {
        s.other
        for st_ in net.network().stages
        for la in st_.layers
        for s in la.steps
        if isinstance(s, Binary)
    }
    crossing = {name for stage in net.stages if stage.cpu for name in stage.cpu.inputs}
    some = draw(st.sets(st.sampled_from(sorted(net.tensors)), max_size=2))
    return net.network(*((net.tensors.keys() - read - net.fed) | crossing | (some - net.fed)))


@settings(deadline=None, max_examples=60)
@given(random_nets())
def test_the_same_bytes(network: Network) -> None:
    expected, fused = run(network), fuse(network)
    found = run(fused)
    assert all((found[name] == expected[name]).all() for name in network.kept)
    layers = fused.layers
    nodes = [node for layer in network.layers for node in layer.nodes]
    assert sorted(node for layer in layers for node in layer.nodes) == sorted(nodes)
    assert all(len(layer.steps) <= 3 for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    means = [layer for layer in layers if isinstance(layer.operation, Mean)]
    assert all(fused.tensors[layer.output].shape == (1, 1, 1, 4) for layer in means)


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_operands_change_sides(kind: str) -> None:
    """The main input's maker is a Pool: the second operand's takes the step, with types and factors swapped."""
    net = Net(x=SHAPE)
    pool = net.add(Pool("max", Window((1, 1))), ["x"], "pool", SHAPE)
    net.map(pool, "y", binary(kind, net.conv("x", "side", 4), 0.0625, 0.5))
    network = net.network("y")
    fused = fuse(network)
    layer = fused.stages[0].layers[-1]
    assert isinstance(layer.operation, Conv) and layer.steps[0].other == "pool"  # type: ignore[union-attr]
    assert (run(fused)["y"] == run(network)["y"]).all() and len(np.unique(run(network)["y"])) > 4


@pytest.mark.parametrize("optimize", [0, 2])
def test_a_tensor_read_again_after_a_cpu_partition(optimize: int) -> None:
    made = networks.convolution()
    made.graph.node[1].CopyFrom(networks.helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"))
    celu = networks.helper.make_node("Celu", ["s"], ["k"], "celu")
    total = networks.helper.make_node("Add", ["k", "c"], ["r"], "sum")
    made.graph.node.insert(2, celu)
    made.graph.node.insert(3, total)
    program = compile_model(made, optimize=optimize)
    assert [p.placement for p in program.partitions] == ["npu", "cpu", "npu"]
    assert verify(program) == []
