"""An element-wise region that is a function of one quantised tensor: a table, whatever it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables, unary
from ommatid.compiler.affine import scaled
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Layer, Map, Operation, Table, View
from ommatid.compiler.model import fixed_shape
from ommatid.isa.program import Quantization

if TYPE_CHECKING:
    from ommatid.compiler.quantized import Walk

Array = np.ndarray[Any, Any]

#: Steps of 16 bits in half a step of 8 bits: where interpolation is further off, 16 bits would be no better.
MOST_STEPS_OFF = 128


def function_of_one(walk: Walk, node: ir.Node, source: ir.Value, quantization: Quantization) -> bool:
    """Make a layer of the region before a QuantizeLinear; False if it is no function of one tensor.

    Raises:
        Unsupported: interpolation in a table of 16-bit numbers is too far off.
    """
    nodes: list[str] = []
    root = root_of(walk, source, nodes)
    if root is None:
        return False
    base = walk.tensors[root]
    wide = base.quantization.kind.bytes == 2
    values = evaluate(walk, source, tables.codes(base.quantization))
    shape = fixed_shape(node.outputs[0])
    if values is None or shape != base.onnx_shape:
        return False
    names = tuple(reversed(nodes)) or (node.name or "",)
    op = walk.ops[names[-1]] if nodes else "Requantize"
    result = node.outputs[0].name or ""
    given = quantization if not wide or quantization.kind.bytes == 2 else _finer(quantization)
    table = tables.to_codes(values, given)
    if wide:
        _check(walk, source, table, given, quantization, names)
    output = result if given == quantization else f"{result}@fine"
    walk.declare(output, shape, walk.order(root), given)
    same = base.quantization == given and tables.changes_nothing(table)
    if not wide:
        walk.root[output] = (root, table)
    operation: Operation = View() if same else Map()
    steps = () if same else (Table(table),)
    walk.add(Layer(names[-1], op, names, operation, (root,), output, steps))
    walk.covered[names[-1]] = [*names, node.name or ""]
    if output != result:
        walk.declare(result, shape, walk.order(root), quantization)
        walk.add(Layer(result, "Requantize", names, scaled(walk, output, quantization), (output,), result))
    return True


def root_of(walk: Walk, value: ir.Value, nodes: list[str]) -> str | None:
    """The tensor that an element-wise region is made of, its nodes added to ``nodes``; None if it is no such region."""
    leaves: set[str] = set()
    if not _roots(walk, value, leaves, nodes, 0) or len(leaves) != 1:
        return None
    return leaves.pop()


def _roots(walk: Walk, value: ir.Value, leaves: set[str], nodes: list[str], depth: int) -> bool:
    """Collect the quantised tensors that an element-wise region is made of; False if it is not one."""
    name = value.name or ""
    if name in walk.deq:
        tensor = walk.deq[name]
        leaves.add(walk.root[tensor][0] if tensor in walk.root else tensor)
        return True
    constant = walk.constant(value)
    if constant is not None:
        return bool(constant.size == 1)
    node = value.producer()
    if node is None or not unary.is_elementwise(node) or depth > 64:
        return False
    if node.name not in nodes:
        nodes.append(node.name or "")
    return all(v is None or _roots(walk, v, leaves, nodes, depth + 1) for v in node.inputs)


def evaluate(walk: Walk, value: ir.Value, codes: Array) -> Array | None:
    """A region's value for each of these codes of its tensor (float64), or None."""
    found = _evaluate(walk, value, codes)
    return None if found is None else np.broadcast_to(found, codes.shape).astype(np.float64)


def _evaluate(walk: Walk, value: ir.Value, codes: Array) -> Array | None:
    name = value.name or ""
    if name in walk.deq:
        tensor = walk.deq[name]
        quantization = walk.tensors[tensor].quantization
        if tensor in walk.root:  # of the root's bytes
            return tables.real_entries(walk.root[tensor][1], quantization)
        return tables.real(codes, quantization)
    constant = walk.constant(value)
    if constant is not None:
        return np.float64(constant.reshape(-1)[0])  # type: ignore[return-value]
    node = value.producer()
    assert node is not None
    arguments: list[Any] = []
    for position, v in enumerate(node.inputs):
        if v is None:
            arguments.append(np.float64(-np.inf if position == 1 else np.inf))
            continue
        part = _evaluate(walk, v, codes)
        if part is None:
            return None
        arguments.append(part)
    return unary.apply(node, arguments)


def _finer(quantization: Quantization) -> Quantization:
    """16 bits that hold what this quantisation of 8 bits does, and round to it."""
    return Quantization(float(np.float32(quantization.scale) / np.float32(tables.STEP)), 0, "int16")


def _check(
    walk: Walk, source: ir.Value, table: Array, given: Quantization, wanted: Quantization,
    names: tuple[str, ...],
) -> None:  # fmt: skip
    off = tables.steps_off(
        lambda codes: evaluate(walk, source, codes), table, given  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    if off <= MOST_STEPS_OFF * (1 if given == wanted else 0.5):
        return
    reason = f"interpolation between 512 numbers of 16 bits is {off:.0f} steps off"
    for name in names:
        walk.reasons.setdefault(name, []).append(reason)
    raise Unsupported(reason)
