"""The rule of a matrix product of two activations: which operand becomes weights, and the order of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import ints, middle
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import MatMul
from ommatid.compiler.quantized import Made, Walk
from ommatid.isa.program import Quantization

MOST_RANK = 6


@dataclass(frozen=True)
class Operand:
    """One matrix of the product: ``lead``, and then rows and columns, are dimensions of its ONNX shape (-1: none)."""

    name: str
    lead: tuple[int, ...]
    row: int
    column: int

    def turned(self) -> Operand:
        """The transposed matrix."""
        return Operand(self.name, self.lead, self.column, self.row)

    def size(self, walk: Walk, dimension: int) -> int:
        """The size of a dimension, 1 if there is none."""
        return walk.tensor(self.name).onnx_shape[dimension] if dimension >= 0 else 1

    def axes(self, walk: Walk, name: str) -> tuple[int, ...]:
        """The dimensions in the memory of ``name``, which is this operand in some order; -1 for those of size 1."""
        order = walk.order(name)
        return tuple(
            order.index(d) if self.size(walk, d) > 1 else -1 for d in (*self.lead, self.row, self.column)
        )


def product(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """MatMul of two activations. Transposes of either are strides; the one that is cheaper to copy becomes weights.

    ``b.T @ a.T`` is the same product, its result transposed: that is better where it saves copies.
    """
    names = [walk.activation(value) for value in node.inputs]
    left, right, batch = _operands(walk, *names)
    if left.size(walk, left.column) != right.size(walk, right.row) or max(len(batch) + 2, 2) > MOST_RANK:
        raise Unsupported(f"operands of shapes {[walk.tensor(name).onnx_shape for name in names]}")
    inner = left.size(walk, left.column)
    given = [walk.tensor(name).quantization for name in names]
    largest, limit = math.prod(_largest(q) for q in given), max(most_sum(q) for q in given)
    if inner * largest >= limit:
        raise Unsupported(
            f"the int{limit.bit_length()} accumulator could overflow: {inner} products of {largest} at most"
        )
    row, column = (len(batch) if left.row >= 0 else -1), len(batch) + (left.row >= 0)
    column = column if right.column >= 0 else -1
    rank = len(batch) + (row >= 0) + (column >= 0)
    if rank == 0:
        raise Unsupported("a product of two vectors")
    wanted = _wanted(node, rank)
    straight, turned = (
        _copies(walk, left, right, wanted, column),
        _copies(walk, right.turned(), left.turned(), wanted, row),
    )
    first, second = (q.kind.bytes for q in given)
    turn = second > first or (second == first and turned < straight)  # 16-bit weights need such activations
    if turn:
        left, right, row, column = right.turned(), left.turned(), column, row
    order = wanted if wanted is not None and wanted[-1] == column else _order(len(batch), row, column, turn)
    sizes = left.size(walk, left.row), inner, right.size(walk, right.column)
    inputs = tuple(_dense(walk, operand) for operand in (left, right))
    scales = [np.float32(walk.tensor(name).quantization.scale) for name in names]
    multiplier = np.float32(np.float32(scales[0] * scales[1]) / np.float32(out.scale))
    operation = MatMul(
        batch, *sizes, left.axes(walk, inputs[0]), right.axes(walk, inputs[1]),
        tuple(order.index(d) if d >= 0 else -1 for d in (*range(len(batch)), row, column)),
        float(multiplier), middle(out),
    )  # fmt: skip
    return Made(operation, inputs, order, macs=math.prod(batch) * math.prod(sizes))


def _operands(walk: Walk, a: str, b: str) -> tuple[Operand, Operand, tuple[int, ...]]:
    """Both matrices, and the sizes of the batch's dimensions; a vector is a row, or as second operand a column."""
    shapes = [walk.tensor(name).onnx_shape for name in (a, b)]
    ranks = [len(shape) for shape in shapes]
    leads = [shape[:-2] for shape in shapes]
    try:
        batch = np.broadcast_shapes(*leads)
    except ValueError:
        raise Unsupported(f"shapes {shapes[0]} and {shapes[1]}") from None
    lead = [tuple(range(-(len(batch) - len(each)), len(each))) for each in leads]
    lead = [tuple(max(d, -1) for d in each) for each in lead]
    left = Operand(a, lead[0], ranks[0] - 2 if ranks[0] > 1 else -1, ranks[0] - 1)
    right = Operand(b, lead[1], max(ranks[1] - 2, 0), ranks[1] - 1 if ranks[1] > 1 else -1)
    return left, right, tuple(int(n) for n in batch)


def most_sum(quantization: Quantization) -> int:
    """What sums of products with this operand must stay below: an accumulator has 32 bits, or 48 for 16-bit work."""
    return 2**47 if quantization.kind.bytes == 2 else 2**31


def _largest(quantization: Quantization) -> int:
    """The greatest distance of a code from the zero point."""
    kind = quantization.kind
    return max(kind.high - quantization.zero_point, quantization.zero_point - kind.low)


def _wanted(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The order in which a Transpose behind the product would find its result in the order of its own, if there is one."""
    values = [node.outputs[0]]
    for _ in range(2):  # behind QuantizeLinear and DequantizeLinear
        values = [
            use.node.outputs[0]
            for value in values
            for use in value.uses()
            if use.node.op_type in ("QuantizeLinear", "DequantizeLinear")
        ] or values
    uses = [use.node for value in values for use in value.uses()]
    if not uses or any(use.op_type != "Transpose" for use in uses):
        return None
    return tuple(ints(uses[0], "perm", list(reversed(range(rank)))))


def _copies(walk: Walk, left: Operand, right: Operand, wanted: tuple[int, ...] | None, last: int) -> int:
    """Bytes that are copied if ``right`` becomes weights and dimension ``last`` is the result's innermost."""
    rows, inner = left.size(walk, left.row), left.size(walk, left.column)
    columns = right.size(walk, right.column)
    innermost = _innermost(walk, left.name)
    cost = inner * columns + (rows * inner if inner > 1 and innermost != left.column else 0)
    natural = right.column > right.row or right.column < 0  # not turned
    misses = wanted[-1] != last if wanted is not None else not natural
    return cost + (rows * columns if misses and rows > 1 and columns > 1 else 0)


def _innermost(walk: Walk, name: str) -> int:
    """The ONNX dimension, of those above 1, that is innermost in memory; -1 if there is none."""
    shape = walk.tensor(name).onnx_shape
    return next((d for d in reversed(walk.order(name)) if shape[d] > 1), -1)


def _order(batch: int, row: int, column: int, turned: bool) -> tuple[int, ...]:
    """The memory order of the result. A turned one is channels last: behind the first dimension come its rows."""
    middle = [*range(min(batch, 1)), row, *range(1, batch)] if turned else [*range(batch), row]
    return tuple(d for d in (*middle, column) if d >= 0)


def _dense(walk: Walk, operand: Operand) -> str:
    """The operand's tensor, brought to ONNX's order if neither dimension of its matrix is innermost in memory."""
    innermost = _innermost(walk, operand.name)
    if innermost in (-1, operand.row, operand.column):
        return operand.name
    return walk.in_order(operand.name, tuple(range(len(walk.tensor(operand.name).onnx_shape))))
