"""What brings tensors to one shape: dimensions of 1 in front, repetition, bytes complemented, pieces joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables
from ommatid.compiler.affine import scaled
from ommatid.compiler.attributes import shape_of
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Concat, Layer, Map, Operation, Slice, Step, Table, View
from ommatid.compiler.quantized import Made, Walk
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]

#: A Gather, Tile or Expand of more pieces runs on the CPU: each is an instruction or more.
MOST_PIECES = 256
#: Every bit of a byte turned.
COMPLEMENT = np.arange(256, dtype=np.uint8) ^ 255


def of_rank(walk: Walk, name: str, rank: int) -> str:
    """The tensor with dimensions of 1 in front, as ONNX's broadcasting puts them there."""
    tensor = walk.tensor(name)
    more = rank - len(tensor.onnx_shape)
    if more <= 0:
        return name
    order = (*range(more), *(d + more for d in walk.order(name)))
    return walk.reshaped(name, (1,) * more + tensor.onnx_shape, order)


def repeated(walk: Walk, name: str, shape: Sequence[int]) -> str:
    """The tensor with its dimensions of 1 repeated to ``shape`` (of its rank).

    Raises:
        Unsupported: too many repetitions.
    """
    have = walk.tensor(name).onnx_shape
    for axis, (a, b) in enumerate(zip(have, shape, strict=True)):
        if a == 1 and b > 1:
            name = joined(walk, [name] * b, axis)
    return name


def tiled(walk: Walk, name: str, repeats: Sequence[int]) -> str:
    """The tensor ``repeats[d]`` times along each dimension d.

    Raises:
        Unsupported: too many repetitions.
    """
    for axis, times in enumerate(repeats):
        if times > 1:
            name = joined(walk, [name] * times, axis)
    return name


def joined(walk: Walk, names: Sequence[str], axis: int) -> str:
    """Tensors of one scale and memory order, one after the other along an ONNX axis.

    Raises:
        Unsupported: too many of them.
    """
    if len(names) == 1:
        return names[0]
    if len(names) > MOST_PIECES:
        raise Unsupported(f"{len(names)} pieces (at most {MOST_PIECES})")
    first, order = walk.tensor(names[0]), walk.order(names[0])
    shape = list(first.onnx_shape)
    shape[axis] = sum(walk.tensor(name).onnx_shape[axis] for name in names)
    place = order.index(axis)
    if len(order) > 4:
        parts = [walk.reshaped(name, *_around(walk.tensor(name).shape, place)) for name in names]
        return walk.reshaped(joined(walk, parts, 1), shape, order)
    output = f"{names[0]}@joined{axis}.{len(walk.layers)}.{len(walk.constants)}"
    walk.declare(output, shape, order, first.quantization)
    if all(name in walk.constants for name in names):
        walk.constants[output] = np.concatenate([walk.constants[n] for n in names], place)
    else:
        walk.add(Layer(output, "Concat", (), Concat(place, (None,) * len(names)), tuple(names), output))
    return output


def _around(memory: tuple[int, ...], place: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A memory shape as three dimensions, those before and behind one made one each, and their order."""
    return (math.prod(memory[:place]), memory[place], math.prod(memory[place + 1 :])), (0, 1, 2)


def picked(walk: Walk, name: str, axis: int, indices: Sequence[int]) -> str:
    """The tensor with these indices along an ONNX axis, in this order.

    Raises:
        Unsupported: they are too many pieces.
    """
    return joined(walk, [_run(walk, name, axis, run) for run in _runs(indices)], axis)


def _runs(indices: Sequence[int]) -> list[range]:
    """Indices as runs of one positive step, each as long as possible."""
    runs: list[range] = []
    for i in indices:
        last = runs[-1] if runs else None
        if last is not None and len(last) == 1 and i > last[0]:
            runs[-1] = range(last[0], i + 1, i - last[0])
        elif last is not None and len(last) > 1 and i - last[-1] == last.step:
            runs[-1] = range(last.start, i + 1, last.step)
        else:
            runs.append(range(i, i + 1))
    return runs


def _run(walk: Walk, name: str, axis: int, run: range) -> str:
    tensor, order = walk.tensor(name), walk.order(name)
    shape = list(tensor.onnx_shape)
    if run == range(shape[axis]):
        return name
    shape[axis] = len(run)
    place = order.index(axis)
    if len(order) > 4:
        part = _run(walk, walk.reshaped(name, *_around(tensor.shape, place)), 1, run)
        return walk.reshaped(part, shape, order)
    output = f"{name}@{axis}[{run.start}:{run.stop}:{run.step}]"
    if output not in walk.tensors:
        walk.declare(output, shape, order, tensor.quantization)
        starts, steps = (
            tuple(value if d == place else fill for d in range(len(order)))
            for value, fill in ((run.start, 0), (run.step, 1))
        )
        walk.add(Layer(output, "Slice", (), Slice(starts, steps), (name,), output))
    return output


def through_table(walk: Walk, name: str, table: Array, quantization: Quantization, label: str) -> str:
    """The tensor with every element looked up in ``table``, which gives it this scale."""
    output = f"{name}@{label}"
    if tables.changes_nothing(table) and walk.tensor(name).quantization == quantization:
        return name
    if output not in walk.tensors:
        walk.declare(output, walk.tensor(name).onnx_shape, walk.order(name), quantization)
        if name in walk.constants:
            walk.constants[output] = tables.look_up(table, walk.constants[name])
        else:
            walk.add(Layer(output, "Map", (), Map(), (name,), output, (Table(table),)))
    return output


def requantised(walk: Walk, name: str, quantization: Quantization, label: str) -> str:
    """The tensor at another scale: a table of bytes, a pass over 16-bit numbers."""
    given = walk.tensor(name).quantization
    if given.kind.bytes == 1:
        table = tables.to_codes(tables.real(tables.codes(given), given), quantization)
        return through_table(walk, name, table, quantization, label)
    return given_to(walk, name, quantization, label)


def given_to(
    walk: Walk, name: str, quantization: Quantization, label: str, slope: float = 1.0, shift: float = 0.0
) -> str:
    """slope * real + shift of the tensor, at this scale."""
    output = f"{name}@{label}"
    if output not in walk.tensors and (walk.tensor(name).quantization, slope, shift) != (
        quantization,
        1.0,
        0.0,
    ):
        walk.declare(output, walk.tensor(name).onnx_shape, walk.order(name), quantization)
        operation = scaled(walk, name, quantization, slope, shift)
        walk.add(Layer(output, "Map", (), operation, (name,), output))
    return output if output in walk.tensors else name


def turned(walk: Walk, name: str) -> str:
    """The tensor with every bit of its codes turned: the order of numbers is reversed, the least becomes the greatest."""
    quantization = walk.tensor(name).quantization
    if quantization.kind.bytes == 1:
        return through_table(walk, name, COMPLEMENT, quantization, "turned")
    return given_to(walk, name, quantization, "turned", -1.0, -float(np.float32(quantization.scale)))


def rescaled(walk: Walk, node: ir.Node, made: Made, out: Quantization, back: bool = False) -> Made:
    """A View of a tensor at the scale of the output, its codes turned back first if they were ``turned``."""
    given = walk.tensor(made.inputs[0]).quantization
    if given.kind.bytes == 1:
        table = tables.to_codes(tables.real(tables.codes(given), given), out)
        table = table[COMPLEMENT] if back else table
        return made if tables.changes_nothing(table) else replace(made, steps=(Table(table),))
    if not back and given == out:
        return made
    slope, shift = (-1.0, -float(np.float32(given.scale))) if back else (1.0, 0.0)
    seen = walk.reshaped(made.inputs[0], shape_of(node.outputs[0]), made.order)
    return Made(scaled(walk, seen, out, slope, shift), (seen,), made.order)


def at_scale(walk: Walk, value: ir.Value | None, quantization: Quantization, label: str) -> str:
    """What one more rounding makes of a value: an activation, or any constant, at another scale.

    Raises:
        Unsupported: it is neither.
    """
    constant = walk.constant(value)
    if constant is not None:
        codes = tables.to_codes(constant.astype(np.float64), quantization)
        return walk.declare_constant(f"{label}@constant", codes.view(quantization.dtype), quantization)
    return requantised(walk, walk.activation(value), quantization, label)


def collapsed(walk: Walk, full: str, other: str) -> tuple[str, str]:
    """Two tensors of one memory order as at most four dimensions: neighbours that are both repeated, or both
    not, are made one. Where more are left, the second is repeated in memory.

    Raises:
        Unsupported: too many repetitions, or too many elements.
    """
    shapes: list[list[int]] = []
    for a, b in zip(walk.tensor(full).shape, walk.tensor(other).shape, strict=True):
        last = shapes[-1] if shapes else None
        if (
            last is not None
            and (a == 1 or last == [1, 1] or (a == b) == (last[0] == last[1]))
            and last[0] * a <= 65535
        ):
            last[0], last[1] = last[0] * a, last[1] * b
        else:
            shapes.append([a, b])
    whole = walk.tensor(full).onnx_shape
    if len(shapes) > 4 and walk.tensor(other).onnx_shape != whole:
        return collapsed(walk, full, walk.in_order(repeated(walk, other, whole), walk.order(full)))
    if len(shapes) > 4:
        raise Unsupported(f"operands of shape {whole}")
    natural = tuple(range(len(shapes)))
    return tuple(walk.reshaped(n, [s[i] for s in shapes], natural) for i, n in enumerate((full, other)))  # type: ignore[return-value]


def seen_as(
    walk: Walk, node: ir.Node, out: Quantization, operation: Operation, source: str, shape: Sequence[int],
    order: tuple[int, ...], steps: tuple[Step, ...] = (), result: Sequence[int] = (), macs: int = 0,
) -> Made:  # fmt: skip
    """The operation on ``source`` seen as a dense tensor of another shape; its result (of ``result``, or the same
    shape) is then seen as the node's, its dimensions in memory in ``order``."""
    label, result = node.name or "", tuple(result) or tuple(shape)
    image = walk.reshaped(source, shape, tuple(range(len(shape))))
    seen = walk.declare(f"{label}@seen", result, tuple(range(len(result))), out)
    walk.add(Layer(seen, node.op_type, (label,), operation, (image,), seen, steps, macs))
    return Made(View(), (seen,), order)


def contiguous(order: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether dimensions stand next to each other in memory, in their order."""
    places = [order.index(d) for d in dims]
    return all(b == a + 1 for a, b in pairwise(places))


def volume(shape: Sequence[int], dims: Sequence[int]) -> int:
    """Elements that some dimensions of a shape span."""
    return math.prod(shape[d] for d in dims)
