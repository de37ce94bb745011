"""Attention: the scale of the scores goes into the projection that makes Q or K, and costs nothing.

Between the projection and the MatMul of the scores only moves stand. Which channels reach which MatMul is found
by sending the channels' own numbers through the moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from ommatid.compiler.model import evaluate, fixed_shape
from ommatid.compiler.rewrite import (
    Array,
    Match,
    NotFired,
    Result,
    Rewrite,
    constant,
    label,
    need,
    new,
    new_constant,
    on,
    rewrite,
)  # fmt: skip

MOVES = ("Reshape", "Transpose", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Flatten")


@rewrite(
    """
    m = MatMul(q, k)
    y = Mul(m, constant)
    """
)
def scaled_scores(match: Match) -> Result:
    """A number times a MatMul of two activations is the MatMul of a number times the first."""
    number = match.number("constant")
    need(
        constant(match["q"]) is None and constant(match["k"]) is None, "an operand of the MatMul is constant"
    )
    return new("MatMul", new("Mul", match["q"], np.full(1, number, np.float32)), match["k"])


@on("Mul")
def scaled_projection(model: ir.Model, node: ir.Node) -> Callable[[], None]:
    """A number times channels of a linear layer, or a vector times all of them, goes into weights and biases."""
    value, factor = node.inputs if constant(node.inputs[1]) is not None else reversed(node.inputs)
    array, result = constant(factor), node.outputs[0]
    shape = fixed_shape(result)
    if value is None or array is None or not shape:
        raise NotFired("neither operand is constant", near=False)
    base = _before_moves(value) if array.size == 1 else value
    weights = _parameters(base)
    need(
        array.size in (1, shape[-1]) and array.shape[-1:] in ((), (array.size,)),
        "no vector over the last axis",
    )
    need(fixed_shape(value) == shape, "the constant changes the shape")
    need(not result.is_graph_output(), "its result is an output of the network")
    channels = _channels(model, base, value, node)

    def act() -> None:
        scale = np.ones((fixed_shape(base) or ())[-1], np.float64)
        scale[channels] = array.reshape(-1)
        for user, position in weights:
            old = np.asarray(constant(user.inputs[position]), np.float64)
            fresh = new_constant(model, f"{user.name}__scaled", (old * scale).astype(np.float32))
            user.replace_input_with(position, fresh)
        result.replace_all_uses_with(value)
        model.graph.remove(node, safe=True)

    return act


def _before_moves(value: ir.Value) -> ir.Value:
    """The value that moves made this one of."""
    while (node := value.producer()) is not None and node.op_type in MOVES:
        need(
            all(constant(v) is not None for v in node.inputs[1:] if v is not None),
            f"{label(value)} is no fixed move",
        )
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def _parameters(base: ir.Value) -> list[tuple[ir.Node, int]]:
    """The constants (node, input) of the linear layer that makes a value: last axes are its channels."""
    node, found = base.producer(), []
    if node is not None and node.op_type == "Add":
        bias = next((i for i, v in enumerate(node.inputs) if constant(v) is not None), None)
        product = node.inputs[1 - bias] if bias is not None else None
        if bias is None or product is None or len(product.uses()) != 1 or product.is_graph_output():
            raise NotFired(f"{label(base)} is no linear layer of its own", near=False)
        found.append((node, bias))
        node = product.producer()
    if node is None or node.op_type != "MatMul":
        raise NotFired(f"{label(base)} is no linear layer", near=False)
    need(constant(node.inputs[1]) is not None, f"the weights of {node.name!r} are not constant")
    size = (fixed_shape(base) or (0,))[-1]
    found.append((node, 1))
    for user, position in found:
        array = constant(user.inputs[position])
        need(
            array is not None and array.shape[-1:] == (size,),
            f"a constant of {user.name!r} is not by channel",
        )
    return found


def _channels(model: ir.Model, base: ir.Value, value: ir.Value, reader: ir.Node) -> Array:
    """The channels of ``base`` that reach ``reader`` by ``value``, if they reach nothing else."""
    shape = fixed_shape(base)
    need(shape is not None, f"the shape of {label(base)} is not known")
    numbers = np.broadcast_to(np.arange((shape or (0,))[-1], dtype=np.float32), shape or ())
    own, others = np.array([], np.int64), np.array([], np.int64)
    for leaf, user, array in _leaves(model, base, numbers):
        found = np.unique(array).astype(np.int64)
        if leaf is value and user is reader:
            own = np.union1d(own, found)
        else:
            others = np.union1d(others, found)
    need(not np.intersect1d(own, others).size, f"its channels of {label(base)} are also read elsewhere")
    return own


def _leaves(
    model: ir.Model, value: ir.Value, numbers: Array
) -> Iterator[tuple[ir.Value, ir.Node | None, Array]]:
    """(value, reader that is no move or None for an output of the network, numbers) behind a value."""
    if value.is_graph_output():
        yield value, None, numbers
    for use in value.uses():
        node = use.node
        fixed = all(constant(v) is not None for v in node.inputs[1:] if v is not None)
        if node.op_type not in MOVES or use.idx != 0 or not fixed:
            yield value, node, numbers
            continue
        results = evaluate(model, node, {value.name or "": numbers})
        for output, array in zip(node.outputs, results, strict=True):
            yield from _leaves(model, output, array)


ATTENTION: tuple[Rewrite, ...] = (scaled_scores, scaled_projection)
