"""What became of the user's nodes: each is executed, fused into a layer, folded away, or on the CPU.

Rewrites keep the names of the values that they do not change. Such a value, made both in the graph as imported
and in the one that is compiled, is a *cut*; what lies between cuts in one graph computes what lies between them in
the other. So provenance needs no bookkeeping by the rewrites, and new ones need not know of it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from ommatid.compiler.recipe import EQUALIZED
from ommatid.isa.program import Node

#: Results of these are known once shapes are fixed.
_OF_SHAPES = ("Shape", "Size")
ROUNDINGS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Source:
    """A node of a graph, as plain data; ``fixed``: its results are known when the model is compiled."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: bool = False


def constants_of(proto: onnx.ModelProto) -> tuple[Source, ...]:
    """The Constant nodes, which import makes initialisers; one without a name has that of its value."""
    nodes = [n for n in proto.graph.node if n.op_type == "Constant"]
    return tuple(Source(n.name or n.output[0], n.op_type, (), tuple(n.output), True) for n in nodes)


def sources_of(model: ir.Model, constants: Sequence[Source] = ()) -> tuple[Source, ...]:
    """The nodes of a graph in order, the Constants that they read first."""
    known = set(model.graph.initializers)
    result = [c for c in constants if known.issuperset(c.outputs)]
    for node in model.graph:
        inputs = tuple(_place(v) for v in node.inputs if v is not None)
        outputs = tuple(_place(v) for v in node.outputs)
        fixed = node.op_type in _OF_SHAPES or (bool(inputs) and known.issuperset(inputs))
        if fixed:
            known.update(outputs)
        result.append(Source(node.name or "", node.op_type, inputs, outputs, fixed))
    return tuple(result)


def _place(value: ir.Value) -> str:
    """A value's name; equalised channels are other numbers in the same place."""
    return (value.name or "").removesuffix(EQUALIZED)


def stand_for(before: Sequence[Source], after: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """For each node of the graph ``after``, the nodes of the graph ``before`` whose work it does.

    A node that kept its name does its own. The last one before a cut also does that of the nodes that are gone, and
    a node with a new name does that of the nodes that are gone, or helps the last.
    """
    made = [{value: node for node in graph for value in node.outputs} for graph in (before, after)]
    cuts = made[0].keys() & made[1].keys()
    names = {node.name: at for at, node in enumerate(before)}
    left = {node.name for node in after}
    found: dict[str, dict[str, None]] = {node.name: {} for node in after}
    for node in after:
        if node.name in names:
            found[node.name][node.name] = None
        for value in filter(cuts.__contains__, node.outputs):
            old, new = (_region(graph, value, cuts) for graph in made)
            gone = sorted((n.name for n in old if n.name not in left and not n.fixed), key=names.__getitem__)
            found[node.name].update(dict.fromkeys(gone))
            for other in new:
                if other.name not in names and other.op not in ROUNDINGS:
                    found[other.name].update(dict.fromkeys(gone or [made[0][value].name]))
    for node in after:
        if node.name not in names and node.op in ROUNDINGS:  # ours: part of what it rounds
            maker = made[1].get(node.inputs[0])
            found[node.name] = dict.fromkeys(list(found[maker.name])[:1] if maker else ())
    return {name: tuple(these) for name, these in found.items()}


def _region(made: Mapping[str, Source], value: str, cuts: Container[str]) -> list[Source]:
    """The nodes from which a value is computed, back to the nearest cuts."""
    region: dict[str, Source] = {}
    todo = [made[value]]
    while todo:
        node = todo.pop()
        if node.name not in region:
            region[node.name] = node
            todo += [made[v] for v in node.inputs if v in made and v not in cuts]
    return list(region.values())


def renamed(nodes: Sequence[str], stands: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the compiled graph's nodes as the user's nodes that they stand for."""
    return tuple(dict.fromkeys(name for node in nodes for name in stands.get(node, ())))


def fates(
    sources: Sequence[Source], layers: Sequence[tuple[str, tuple[str, ...]]], host: Sequence[str]
) -> tuple[Node, ...]:
    """What became of every node, given the layers (name, nodes: the user's) and the nodes on the host.

    What is in none of these goes with its neighbour: a rounding with what it rounds, all else with what reads it.
    """
    result = {node.name: Node(node.name, node.op, "folded") for node in sources}
    for layer, nodes in layers:
        for name in nodes:
            executed = name == nodes[0] or name == layer.partition("@")[0] or result[name].fate == "executed"
            where = dict.fromkeys([*result[name].layers, layer])
            result[name] = replace(
                result[name], fate="executed" if executed else "fused", layers=tuple(where)
            )
    for name in host:
        if not result[name].layers:
            result[name] = replace(result[name], fate="cpu")
    readers: dict[str, list[str]] = {}
    for node in sources:
        for value in node.inputs:
            readers.setdefault(value, []).append(node.name)
    makers = {value: node.name for node in sources if not node.fixed for value in node.outputs}
    open_ones = [n for n in sources if result[n.name].fate == "folded" and not n.fixed]
    for node in (n for n in reversed(open_ones) if n.op != "QuantizeLinear"):
        behind = [result[name] for value in node.outputs for name in readers.get(value, ())]
        result[node.name] = _beside(node, behind)
    for node in (n for n in open_ones if n.op == "QuantizeLinear"):
        before = [result[makers[value]] for value in node.inputs if value in makers]
        result[node.name] = _beside(node, before)
    return tuple(result.values())


def _beside(node: Source, neighbours: Sequence[Node]) -> Node:
    """A node that goes with its neighbours; at the network's edges the host converts."""
    layers = tuple(dict.fromkeys(layer for n in neighbours for layer in n.layers))
    host = any(n.fate == "cpu" for n in neighbours) or (not neighbours and node.op in ROUNDINGS)
    return Node(node.name, node.op, "fused" if layers else "cpu" if host else "folded", layers)
