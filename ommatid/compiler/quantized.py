"""The quantised graph: walks a QDQ model and turns it into layers, Q by Q.

A value between DequantizeLinear and QuantizeLinear is real; what stands there is one layer if a rule knows
it: a *table* of one quantised tensor, an *affine* function of it by channel, or an operator of ``RULES``
followed by nothing but clamps. Operators that only move bytes pass quantised tensors through. Every node that
no rule takes goes to the CPU with its reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.affine import LINEAR, affine, scaled_16_bits
from ommatid.compiler.clamps import clamp_steps, strip_clamps
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Layer, Map, Operation, Step, Transpose, View
from ommatid.compiler.model import fixed_shape, used
from ommatid.compiler.regions import function_of_one
from ommatid.isa.elements import NUMBER
from ommatid.isa.program import Quantization, Tensor

Array = np.ndarray[Any, Any]

#: Operators of whose results more than the first may be read.
SEVERAL = {"Split", "TopK", "Dropout"}

#: Operators that want ONNX's own order: they work along the last axis, whatever the rank.
LAST_AXIS = {"MatMul", "LayerNormalization", "RMSNormalization"}


#: Of a tensor of ones (true) and zeros (false).
TRUTH = Quantization(1.0, 0, "uint8")


@dataclass(frozen=True)
class Made:
    """What a rule makes of a node: an operation, its input tensors, memory shape order of the output."""

    operation: Operation
    inputs: tuple[str, ...]
    order: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    macs: int = 0


Rule = Callable[["Walk", ir.Node, Quantization], Made]
Mover = Callable[["Walk", ir.Node], None]


@dataclass
class Walk:
    """State of the walk. ``deq`` maps a real value's name to the quantised tensor that it is."""

    model: ir.Model
    rules: dict[str, Rule]
    movers: dict[str, Mover]
    move_indices: Mover
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    deq: dict[str, str] = field(default_factory=dict)
    root: dict[str, tuple[str, Array]] = field(
        default_factory=dict
    )  # tensor: (tensor, table) it is a table of
    unflattened: dict[str, str] = field(default_factory=dict)  # flattened tensor: the one of four dimensions
    indices: dict[str, str] = field(default_factory=dict)  # value of integers: the index tensor that it is
    fed: set[str] = field(default_factory=set)
    constants: dict[str, Array] = field(
        default_factory=dict
    )  # tensor: its bits in memory order (uint8 or int16)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    covered: dict[str, list[str]] = field(default_factory=dict)  # layer: names of its ONNX nodes
    done_q: set[str] = field(default_factory=set)
    ops: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.ops = {node.name or "": node.op_type for node in self.model.graph}

    # --- constants and tensors -----------------------------------------------------------------------

    def constant(self, value: ir.Value | None) -> Array | None:
        """A constant's numbers: an initialiser, or the DequantizeLinear of one."""
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.numpy()
        node = value.producer()
        if node is not None and node.op_type == "DequantizeLinear":
            parts = [self.constant(v) for v in node.inputs]
            if (
                parts[0] is None
                or parts[1] is None
                or node.inputs[0] is None
                or node.inputs[0].producer() is not None
            ):
                return None
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
            zero = (
                parts[2]
                if len(parts) > 2 and parts[2] is not None
                else np.zeros_like(parts[1], parts[0].dtype)
            )
            return dequantised(parts[0], parts[1], zero, axis)
        return None

    def quantization_of(self, node: ir.Node) -> Quantization:
        """The scale and zero point of a QuantizeLinear or DequantizeLinear of an activation.

        Raises:
            Unsupported: not constant, not per tensor, or of a type that is not known.
        """
        scale = self.constant(node.inputs[1])
        zero = self.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or scale.size != 1:
            raise Unsupported("activations must be quantised per tensor, by a constant scale")
        dtype = "uint8" if zero is None else str(zero.dtype)
        if dtype not in NUMBER:
            raise Unsupported(f"activations of type {dtype} are not supported; use {', '.join(NUMBER)}")
        point = int(zero.item()) if zero is not None else 0
        if dtype == "int16" and point != 0:
            raise Unsupported(f"activations of type int16 with zero point {point}: only 0")
        return Quantization(float(np.float32(scale.item())), point, dtype)

    def tensor(self, name: str) -> Tensor:
        """A quantised tensor by name."""
        return self.tensors[name]

    def declare(
        self, name: str, shape: Sequence[int], order: Sequence[int], quantization: Quantization
    ) -> str:
        """Make a quantised tensor of an ONNX shape whose memory order is ``order`` of its dimensions."""
        memory = tuple(int(shape[d]) for d in order)
        back = tuple(int(i) for i in np.argsort(order))
        self.tensors[name] = Tensor(name, memory, quantization, tuple(int(d) for d in shape), back)
        return name

    def order(self, name: str) -> tuple[int, ...]:
        """The memory order of a tensor's ONNX dimensions."""
        return tuple(int(i) for i in np.argsort(self.tensors[name].to_onnx))

    def activation(self, value: ir.Value | None) -> str:
        """The quantised tensor that a real value is; a quantised constant becomes one.

        Raises:
            Unsupported: it is none.
        """
        if value is not None and value.name not in self.deq and self._declare_constant(value):
            return value.name or ""
        if value is None or value.name not in self.deq:
            what = "nothing" if value is None else f"{value.name!r}"
            raise Unsupported(f"input {what} is not a quantised tensor")
        return self.deq[value.name or ""]

    def _declare_constant(self, value: ir.Value) -> bool:
        """Make a tensor of a constant that is quantised as activations are; its bytes stand in the program."""
        name, node = value.name or "", value.producer()
        if node is None or node.op_type != "DequantizeLinear" or self.constant(value) is None:
            return False
        if name not in self.constants:
            data = self.constant(node.inputs[0])
            assert data is not None
            self.declare_constant(name, data, self.quantization_of(node))
        return True

    def declare_constant(self, name: str, data: Array, quantization: Quantization) -> str:
        """Make a tensor of constant codes (in ONNX's order)."""
        order = default_order(data.ndim)
        self.declare(name, data.shape, order, quantization)
        held = np.ascontiguousarray(data.transpose(order))
        self.constants[name] = held if held.itemsize == 2 else held.view(np.uint8)
        return name

    def reshaped(self, name: str, shape: Sequence[int], order: Sequence[int]) -> str:
        """The same bytes as a tensor of another ONNX shape, its dimensions in memory in this order."""
        tensor, label = self.tensors[name], "x".join(map(str, shape))
        view = f"{name}@{label}.{''.join(map(str, order))}"
        if view not in self.tensors:
            self.declare(view, shape, order, tensor.quantization)
            if name in self.constants:
                self.constants[view] = self.constants[name].reshape(self.tensors[view].shape)
            else:
                self.add(Layer(view, "View", (), View(), (name,), view))
        return view

    def in_order(self, name: str, order: Sequence[int]) -> str:
        """The tensor with its bytes in this order of ONNX dimensions; adds a transposition if need be."""
        tensor, have = self.tensors[name], self.order(name)
        order = tuple(order)
        if have == order:
            return name
        shape = tensor.onnx_shape
        wanted = f"{name}@{''.join(map(str, order))}"
        if wanted in self.tensors:
            return wanted
        self.declare(wanted, shape, order, tensor.quantization)
        if name in self.constants:
            self.constants[wanted] = np.ascontiguousarray(
                self.constants[name].transpose([have.index(d) for d in order])
            )
            return wanted
        real = [d for d in have if shape[d] != 1]
        if real == [d for d in order if shape[d] != 1]:
            self.add(Layer(wanted, "View", (), View(), (name,), wanted))
        else:
            perm = tuple(have.index(d) for d in order)
            self.add(Layer(wanted, "Transpose", (), Transpose(perm), (name,), wanted))
        if name in self.root:
            self.root[wanted] = self.root[name]
        return wanted

    def add(self, layer: Layer) -> None:
        """Append a layer."""
        self.layers.append(layer)

    # --- the walk ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Visit every node in topological order."""
        for node in self.model.graph:
            try:
                self._visit(node)
            except Unsupported as problem:
                self.reasons.setdefault(node.name or "", []).append(str(problem))

    def _visit(self, node: ir.Node) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(f"operator of domain {node.domain!r}")
        if node.op_type == "DequantizeLinear":
            self._visit_dequantize(node)
        elif node.op_type == "QuantizeLinear":
            if node.name not in self.done_q:
                self._visit_quantize(node)
        elif node.op_type in self.movers and node.inputs[0] is not None and node.inputs[0].name in self.deq:
            if node.op_type not in SEVERAL and any(used(output) for output in node.outputs[1:]):
                raise Unsupported("only its first output is computed")
            self.movers[node.op_type](self, node)
        elif node.inputs and node.inputs[0] is not None and node.inputs[0].name in self.indices:
            self.move_indices(self, node)
        elif not (node.op_type in (*self.rules, *self.movers, *LINEAR) or unary.is_elementwise(node)):
            raise Unsupported(f"no rule for operator {node.op_type}")

    def _visit_dequantize(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        if source is None or self.constant(source) is not None:
            return
        if source.name not in self.tensors:  # written by the host or by a CPU partition
            quantization = self.quantization_of(node)
            shape = fixed_shape(source)
            if shape is None:
                raise Unsupported("its shape is not known")
            self.declare(source.name or "", shape, fed_order(source, len(shape)), quantization)
            self.fed.add(source.name or "")
        self.deq[result.name or ""] = source.name or ""

    def _visit_quantize(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        quantization = self.quantization_of(node)
        shape = fixed_shape(result)
        if shape is None:
            raise Unsupported("its shape is not known")
        if source.producer() is None and source.const_value is None:  # the host quantises inputs
            self.declare(result.name or "", shape, fed_order(result, len(shape)), quantization)
            self.fed.add(result.name or "")
            self.covered.setdefault("", []).append(node.name or "")
            return
        if self.constant(source) is not None:
            return
        makers = (scaled_16_bits, function_of_one, affine)
        if any(make(self, node, source, quantization) for make in makers):
            return
        self._anchored(node, source, quantization)

    # --- an operator with clamps behind it -------------------------------------------------------------

    def _anchored(self, node: ir.Node, source: ir.Value, quantization: Quantization) -> None:
        clamps, inner = strip_clamps(self, source)
        anchor = inner.producer()
        if anchor is None:
            raise Unsupported("it quantises what no operator computes")
        if anchor.op_type not in self.rules or anchor.domain not in ("", "ai.onnx"):
            raise Unsupported(f"{anchor.op_type} runs on the CPU")
        if any(used(value) for value in anchor.outputs[1:]):
            self.reasons.setdefault(anchor.name or "", []).append("only its first output is computed")
            raise Unsupported(f"{anchor.op_type} runs on the CPU")
        for value in (inner, *(c.outputs[0] for c in clamps)):
            if len(value.uses()) != 1 or value.is_graph_output():
                self.reasons.setdefault(anchor.name or "", []).append(
                    "its real-valued result is used elsewhere"
                )
                raise Unsupported("its input is also used without being quantised")
        try:
            made = self.rules[anchor.op_type](self, anchor, quantization)
        except Unsupported as problem:
            self.reasons.setdefault(anchor.name or "", []).append(str(problem))
            raise Unsupported(f"{anchor.op_type} runs on the CPU") from None
        shape = fixed_shape(inner)
        assert shape is not None
        output = self.declare(node.outputs[0].name or "", shape, made.order, quantization)
        steps = (*made.steps, *clamp_steps(self, clamps, quantization))
        names = (anchor.name or "", *(c.name or "" for c in reversed(clamps)))
        layer = Layer(names[0], anchor.op_type, names, made.operation, made.inputs, output, steps, made.macs)
        if (
            steps
            and not isinstance(made.operation, Map)
            and type(made.operation).__name__ not in ("Conv", "MatMul", "Mean")
        ):
            middle = self.declare(f"{output}@raw", shape, made.order, quantization)
            self.add(replace(layer, output=middle, steps=()))
            layer = Layer(f"{names[0]}@clamp", anchor.op_type, names, Map(), (middle,), output, steps)
        self.add(layer)
        self.covered[layer.name] = [*names, node.name or ""]


def default_order(rank: int) -> tuple[int, ...]:
    """Channels last for images (rank 4), ONNX's own order for the rest."""
    return (0, 2, 3, 1) if rank == 4 else tuple(range(rank))


def fed_order(value: ir.Value, rank: int) -> tuple[int, ...]:
    """The order in which the host writes a quantised tensor: that of images unless all that read it want ONNX's own.

    Before a Transpose it is the order that becomes that of images behind it.
    """
    readers = [use.node for dequantised in value.uses() for use in dequantised.node.outputs[0].uses()]
    if readers and {node.op_type for node in readers} <= LAST_AXIS:
        return tuple(range(rank))
    if len(readers) == 1 and readers[0].op_type == "Transpose" and "perm" in readers[0].attributes:
        perm = readers[0].attributes["perm"].as_ints()
        return tuple(perm[d] for d in default_order(rank))
    return default_order(rank)


def dequantised(q: Array, scale: Array, zero: Array, axis: int) -> Array:
    """DequantizeLinear in float64, by tensor or along ``axis``."""
    if scale.size > 1:
        shape = [1] * q.ndim
        shape[axis] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (q.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
