"""Rewrites as rows: a pattern in ONNX's own text and what to write in its place; a near miss says why it is none.

A pattern's lines are nodes, ``y = Mul(x, s)``, the result last. A name that two lines make is made by either.
Names of ``NUMBERS`` are constants of that value, names that begin with "constant" are constants, others that no
line makes are any other values. Operands of commutative
operators may be swapped, and a node may have more inputs and attributes than its line. What the result is
computed from may be used for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.attributes import ints
from ommatid.compiler.model import fixed_shape, used

Array = np.ndarray[Any, Any]

NUMBERS = {
    "zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6, "minus_half": -0.5,
    "root_two": math.sqrt(2), "root_half": math.sqrt(0.5), "root_two_over_pi": math.sqrt(2 / math.pi), "cubic": 0.044715,
}  # fmt: skip

COMMUTATIVE = ("Add", "Mul")


class NotFired(Exception):
    """Why a rewrite did not fire. ``near``: so much of its pattern is there that the reason is worth telling."""

    def __init__(self, reason: str, near: bool = True) -> None:
        super().__init__(reason)
        self.near = near


def need(condition: bool, reason: str) -> None:
    """Raise ``NotFired`` unless the condition holds."""
    if not condition:
        raise NotFired(reason)


# --- what a rewrite reads and writes ----------------------------------------------------------------------


def constant(value: ir.Value | None) -> Array | None:
    """A constant's numbers, None of any other value."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def label(value: ir.Value) -> str:
    """What to call a value in a reason: the node that makes it."""
    node = value.producer()
    return f"{node.name!r} ({node.op_type})" if node is not None else f"{value.name!r}"


@dataclass(frozen=True)
class Match:
    """Where a pattern was found: the graph's values by their names in the pattern, and its nodes, the last first."""

    model: ir.Model
    values: dict[str, ir.Value]
    nodes: tuple[ir.Node, ...]

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def node(self, name: str) -> ir.Node:
        """The node that makes a value of the pattern."""
        node = self.values[name].producer()
        assert node is not None
        return node

    def shape(self, name: str) -> tuple[int, ...]:
        """A value's dimensions."""
        shape = fixed_shape(self.values[name])
        need(shape is not None, f"the shape of {name} is not known")
        return shape or ()

    def constant(self, name: str) -> Array:
        """A constant's numbers."""
        array = constant(self.values[name])
        if array is None:
            raise NotFired(f"{name}, which is {label(self.values[name])}, is not constant")
        return array

    def number(self, name: str) -> float:
        """A constant of one element."""
        array = self.constant(name)
        need(array.size == 1, f"{name} has {array.size} elements, not one")
        return float(array.reshape(-1)[0])

    def axes(self, name: str) -> tuple[int, ...]:
        """The axes of a reduction with kept dimensions, sorted, none negative."""
        node = self.node(name)
        need(
            "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1,
            f"{name} drops dimensions",
        )
        rank = len(fixed_shape(node.inputs[0]) or ()) if node.inputs[0] is not None else 0
        given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = given.reshape(-1).tolist() if given is not None else ints(node, "axes", list(range(rank)))
        return tuple(sorted(int(a) % max(rank, 1) for a in axes))


@dataclass(frozen=True)
class New:
    """A node to be written. Inputs are values of the graph, arrays (constants), other nodes to be written, or None."""

    op: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]


def new(op: str, *inputs: ir.Value | Array | New | None, **attributes: Any) -> New:
    """A node to be written."""
    return New(op, inputs, attributes)


Result = New | ir.Value


def check_results(old: ir.Node, results: Sequence[Result]) -> None:
    """Raise ``NotFired`` where a value of the graph cannot take the name of one of the network's outputs."""
    for output, result in zip(old.outputs, results, strict=False):
        if isinstance(result, ir.Value) and output.is_graph_output():
            free = result.producer() is not None and not result.is_graph_output()
            need(free, "its result is an output of the network, and so is its input")


def write(model: ir.Model, old: ir.Node, results: Sequence[Result]) -> None:
    """Put ``results`` in the place of those of ``old``'s outputs that are read."""
    taken = {v.name or "" for n in model.graph for v in n.outputs}
    written: dict[int, ir.Value] = {}
    for output, result in zip(old.outputs, results, strict=False):
        if not used(output):
            continue
        name, is_output = output.name or "", output.is_graph_output()
        if isinstance(result, New):
            fresh = _write(model, old, result, name, taken, written)
            fresh.shape, fresh.type = output.shape, output.type
        else:
            fresh = result
        ir.convenience.replace_all_uses_with(output, fresh, replace_graph_outputs=True)
        if is_output or isinstance(result, New):
            output.name, fresh.name = f"{name}__replaced", name
    if id(results[0]) in written:
        written[id(results[0])].producer().name = old.name  # type: ignore[union-attr]
    model.graph.remove(old, safe=True)


def _write(
    model: ir.Model, old: ir.Node, node: New, name: str, taken: set[str], written: dict[int, ir.Value]
) -> ir.Value:
    """Write a node, once however often it is read, and what it reads."""
    if id(node) in written:
        return written[id(node)]
    inputs: list[ir.Value | None] = []
    for part in node.inputs:
        if isinstance(part, New):
            inputs.append(_write(model, old, part, name, taken, written))
        elif isinstance(part, np.ndarray | np.generic):  # NumPy makes numbers of arrays without dimensions
            inputs.append(new_constant(model, f"{name}__constant", np.asarray(part)))
        else:
            inputs.append(part)
    made = ir.node(node.op, inputs, node.attributes, name=f"{old.name}__{node.op}")
    made.outputs[0].name = _free(f"{name}__{node.op}", taken)
    taken.add(made.outputs[0].name)
    model.graph.insert_before(old, made)
    written[id(node)] = made.outputs[0]
    return made.outputs[0]


def _free(name: str, taken: Container[str]) -> str:
    """The name, or one like it that is free."""
    base, k = name, 1
    while name in taken:
        name, k = f"{base}_{k}", k + 1
    return name


def new_constant(model: ir.Model, name: str, array: Array) -> ir.Value:
    """An initialiser; its name is made unique."""
    name = _free(name, model.graph.initializers)
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape)))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    model.graph.register_initializer(value)
    return value


# --- the rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rewrite:
    """A rewrite: its name, operators at whose nodes it is tried, the opset of what it writes, and the function.

    ``plan`` gives what to do at a node, or raises ``NotFired``; it changes nothing itself.
    """

    name: str
    operators: tuple[str, ...]
    opset: int
    plan: Callable[[ir.Model, ir.Node], Callable[[], None]]


def on(*operators: str) -> Callable[[Callable[[ir.Model, ir.Node], Callable[[], None]]], Rewrite]:
    """A rewrite of nodes of these operators, as a function that gives what to do."""
    return lambda function: Rewrite(function.__name__, operators, 0, function)


def rewrite(
    pattern: str, opset: int = 0
) -> Callable[[Callable[[Match], Result | tuple[Result, ...]]], Rewrite]:
    """A rewrite of a pattern, as a function of the match that gives what to write in its place: one for each output."""
    parsed = Pattern(pattern)

    def decorate(function: Callable[[Match], Result | tuple[Result, ...]]) -> Rewrite:
        def plan(model: ir.Model, node: ir.Node) -> Callable[[], None]:
            match = parsed.match(model, node)
            made = function(match)
            results = made if isinstance(made, tuple) else (made,)
            check_results(node, results)
            need(not any(used(v) for v in node.outputs[len(results) :]), "its other outputs are read")

            def act() -> None:
                write(model, match.nodes[0], results)
                for inner in match.nodes[1:]:
                    if inner.graph is not None and not any(o.uses() for o in inner.outputs):
                        model.graph.remove(inner, safe=True)

            return act

        return Rewrite(function.__name__, parsed.operators, opset, plan)

    return decorate


# --- matching ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What of a pattern is matched so far; ``score`` counts the comparisons that held."""

    values: dict[str, ir.Value]
    nodes: tuple[ir.Node, ...] = ()
    score: int = 0


class Pattern:
    """A parsed pattern."""

    def __init__(self, text: str) -> None:
        lines = [onnx.parser.parse_node(line) for line in text.strip().splitlines()]
        self.result = lines[-1].output[0]
        self.makers: dict[str, list[onnx.NodeProto]] = {}
        for line in lines:
            self.makers.setdefault(line.output[0], []).append(line)
        self.operators = tuple(line.op_type for line in self.makers[self.result])

    def match(self, model: ir.Model, node: ir.Node) -> Match:
        """Where the pattern is found with its result at a node.

        Raises:
            NotFired: it is not there; of all ways to match it, the reason of the one that went furthest.
        """
        search = _Search(self)
        for found in search.result(node):
            elsewhere = next(filter(None, (_used_elsewhere(n, found.nodes) for n in found.nodes[1:])), None)
            if elsewhere is None:
                return Match(model, found.values, found.nodes)
            search.miss(found, elsewhere)
            search.matched = True
        near = search.matched or len(search.best.nodes) >= max(3, len(self.makers) / 2)
        raise NotFired(search.reason, near)


def _used_elsewhere(node: ir.Node, nodes: Sequence[ir.Node]) -> str | None:
    for value in node.outputs:
        if value.is_graph_output():
            return f"{value.name!r} is an output of the network"
        for use in value.uses():
            if use.node not in nodes:
                return f"the result of {node.name!r} ({node.op_type}) is also read by {use.node.name!r}"
    return None


class _Search:
    """Matches a pattern backwards from its result, and remembers why it failed where most of it had matched."""

    def __init__(self, pattern: Pattern) -> None:
        self.makers, self.name = pattern.makers, pattern.result
        self.best, self.reason, self.matched = _Found({}, score=-1), "", False

    def miss(self, found: _Found, reason: str) -> None:
        """Remember the reason, if no way went further."""
        if found.score > self.best.score:
            self.best, self.reason = found, reason

    def result(self, node: ir.Node) -> Iterator[_Found]:
        """All ways in which the pattern matches with its result at a node."""
        for maker in self.makers[self.name]:
            if node.op_type == maker.op_type:
                yield from self._node(maker, node, _Found({self.name: node.outputs[0]}))

    def _value(self, name: str, value: ir.Value | None, found: _Found) -> Iterator[_Found]:
        if value is None:
            return self.miss(found, f"{name} is missing")
        problem = self._problem(name, value, found)
        if problem:
            return self.miss(found, problem)
        found = replace(found, score=found.score + 1)
        if name in NUMBERS or name in found.values:
            yield found
            return None
        found = replace(found, values={**found.values, name: value})
        node = value.producer()
        if name not in self.makers or node is None:
            yield found
            return None
        for maker in self.makers[name]:
            if maker.op_type == node.op_type:
                yield from self._node(maker, node, found)
        return None

    def _problem(self, name: str, value: ir.Value, found: _Found) -> str:
        """Why a value is not the one of this name in the pattern; empty: it is, as far as can be seen from itself."""
        held = value.const_value
        if name in NUMBERS:
            if held is None or held.size != 1:
                return f"{label(value)} is no number"
            array = held.numpy()
            close = math.isclose(array.item(), NUMBERS[name], rel_tol=1e-4)
            return "" if close else f"{array.item():.6g} is not {NUMBERS[name]:.6g}"
        if name in found.values:
            same = found.values[name] is value
            return "" if same else f"{label(value)} is not {name}, which is {label(found.values[name])}"
        if name in self.makers:
            node, wanted = value.producer(), list(dict.fromkeys(m.op_type for m in self.makers[name]))
            fits = node is not None and node.domain in ("", "ai.onnx") and node.op_type in wanted
            return "" if fits else f"{label(value)} is not {' or '.join(wanted)}"
        if name.startswith("constant") != (held is not None):
            return f"{label(value)} is {'not ' if held is None else ''}constant"
        return ""

    def _node(self, maker: onnx.NodeProto, node: ir.Node, found: _Found) -> Iterator[_Found]:
        inputs = list(node.inputs)
        if len(inputs) < len(maker.input):
            return self.miss(found, f"{node.name!r} ({node.op_type}) has {len(inputs)} inputs")
        if node not in found.nodes:
            found = replace(found, nodes=(*found.nodes, node))
        for order in (inputs, inputs[::-1]) if node.op_type in COMMUTATIVE else (inputs,):
            yield from self._inputs(list(zip(maker.input, order, strict=False)), found)
        return None

    def _inputs(self, pairs: list[tuple[str, ir.Value | None]], found: _Found) -> Iterator[_Found]:
        if not pairs:
            yield found
            return
        for further in self._value(*pairs[0], found):
            yield from self._inputs(pairs[1:], further)
