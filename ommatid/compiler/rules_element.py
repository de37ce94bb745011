"""Rules of quotients and powers of two activations: 16-bit numbers between 8-bit ones, so that one step is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables
from ommatid.compiler.attributes import middle, shape_of
from ommatid.compiler.broadcast import of_rank, repeated, requantised, through_table
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Binary, Layer, Map
from ommatid.compiler.quantized import TRUTH, Made, Walk
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]

#: Of 16-bit numbers.
LARGEST = 32767
#: Steps of the output that a power may be off before it is rounded.
MOST_OFF = 0.9


@dataclass(frozen=True)
class Pair:
    """Two 8-bit tensors in one memory order, at least one of the shape of the result."""

    walk: Walk
    node: ir.Node
    x: str
    y: str
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def through(self, name: str, values: Array, quantization: Quantization, label: str) -> str:
        """A function of one of them, by its values for all codes."""
        codes = tables.to_codes(values.astype(np.float64), quantization)
        return through_table(self.walk, name, codes, quantization, f"{self.node.name}.{label}")

    def product(self, a: str, b: str, quantization: Quantization, label: str) -> str:
        """The product of two tensors at this scale."""
        if self.walk.tensor(a).onnx_shape != self.shape:
            a, b = b, a
        p, q = self.walk.tensor(a).quantization, self.walk.tensor(b).quantization
        factor = np.float32(np.float32(p.scale) * np.float32(q.scale)) / np.float32(quantization.scale)
        output = self.walk.declare(f"{self.node.name}@{label}", self.shape, self.order, quantization)
        step = Binary("mul", b, middle(p), middle(q), middle(quantization), float(factor), 0.0, 0.0)
        self.walk.add(Layer(output, self.node.op_type, (self.node.name or "",), Map(), (a,), output, (step,)))
        return output

    def sum(self, a: str, b: str, out: Quantization) -> Made:
        """The sum of two tensors at the scale of the output."""
        step = Binary("add", b, middle(out), middle(out), middle(out), 1.0, 1.0, float(-out.zero_point))
        return Made(Map(), (a,), self.order, (step,))


def _pair(walk: Walk, node: ir.Node, out: Quantization) -> tuple[Pair, Array, Array]:
    """Both operands, and the real values of their codes."""
    shape = shape_of(node.outputs[0])
    names = [of_rank(walk, walk.activation(value), len(shape)) for value in node.inputs]
    given = [walk.tensor(name).quantization for name in names]
    if len(shape) > 4 or any(q.kind.bytes == 2 for q in (*given, out)):
        raise Unsupported("of two activations only in 8 bits, of up to four dimensions")
    full = [walk.tensor(name).onnx_shape == shape for name in names]
    if not any(full):
        names[0], full[0] = repeated(walk, names[0], shape), True
    order = walk.order(names[0] if full[0] else names[1])
    x, y = (walk.in_order(name, order) for name in names)
    values = [tables.real(tables.codes(q), q) for q in given]
    return Pair(walk, node, x, y, shape, order), values[0], values[1]


def quotient(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Div by a number, or of one tensor: part of a table. By an activation: a product with reciprocals of 16 bits."""
    # With d the distance of the divisor's code from zero, at most 255, a reciprocal is rint(32767 / d): off by less
    # than 1 / 256 of itself, and the product of less than a step. What is divided by zero becomes the greatest number
    # of the output, or the least; zero by zero becomes zero.
    pair, _, y = _pair(walk, node, out)
    scales = [np.float64(np.float32(walk.tensor(name).quantization.scale)) for name in (pair.x, pair.y)]
    inverse = Quantization(float(np.float32(1 / (LARGEST * scales[1]))), 0, "int16")
    beyond = Quantization(float(np.float32(512 * out.scale / scales[0])), 0, "uint8")
    with np.errstate(divide="ignore"):
        reciprocals = pair.through(pair.y, np.where(y == 0, 0, 1 / y), inverse, "inverse")
    zeros = pair.through(pair.y, (y == 0) * beyond.scale, beyond, "zeros")
    parts = (pair.product(pair.x, reciprocals, out, "quotient"), pair.product(pair.x, zeros, out, "by_zero"))
    return pair.sum(*parts, out)


def power(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Pow to numbers, or of one tensor: part of a table. To an activation, of no negative numbers: by 16-bit logarithms."""
    # Exp(y * Log(x)), less than ``MOST_OFF`` steps off at the greatest output; powers of zero are chosen.
    pair, x, y = _pair(walk, node, out)
    if x.min() < 0:
        raise Unsupported("to an activation only of numbers that cannot be negative")
    greatest = (out.kind.high - out.zero_point) * float(np.float32(out.scale))
    if greatest <= 0:
        raise Unsupported("its output cannot be positive")
    logarithms = np.log(np.where(x > 0, x, 1))
    reach = max(abs(np.log(2 * greatest)), abs(np.log(out.scale / 4)))
    log = Quantization(float(np.float32(np.abs(logarithms).max() / LARGEST)), 0, "int16")
    exponent = Quantization(float(np.float32(reach / LARGEST)), 0, "int16")
    step = tables.STEP * exponent.scale  # from an entry of the table of powers to the next
    powers = Quantization(float(np.float32(greatest * (1 + 2 * step) / LARGEST)), 0, "int16")
    off = (np.abs(y).max() * log.scale + exponent.scale + step**2 / 4) / 2 * greatest / out.scale
    if off > MOST_OFF:
        raise Unsupported(f"an activation up to {np.abs(y).max():.3g} as exponent: {off:.2f} steps off")
    raised = pair.product(pair.through(pair.x, logarithms, log, "log"), pair.y, exponent, "exponent")
    codes = tables.codes(exponent)
    raised = pair.through(raised, np.exp(tables.real(codes, exponent)), powers, "exp")
    raised = requantised(walk, raised, out, f"{node.name}.power")
    of_zero = pair.through(pair.y, np.where(y > 0, 0, np.where(y == 0, 1, np.inf)), out, "of_zero")
    masks = [
        pair.through(pair.x, which, TRUTH, label) for which, label in ((x > 0, "more"), (x == 0, "zero"))
    ]
    parts = (pair.product(raised, masks[0], out, "more"), pair.product(masks[1], of_zero, out, "none"))
    return pair.sum(*parts, out)
