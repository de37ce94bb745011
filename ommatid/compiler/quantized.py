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
from ommatid.compiler.layers import Layer, Map, Operation, Step, Table, Transpose, View
from ommatid.compiler.model import fixed_shape, used
from ommatid.isa.program import Quantization, Tensor

Array = np.ndarray[Any, Any]

#: Operators of an affine function by channel, where their second operands are constant.
LINEAR = ("Add", "Sub", "Mul", "Div", "BatchNormalization", "PRelu")

#: Operators of whose results more than the first may be read.
SEVERAL = {"Split", "TopK", "Dropout"}

#: Operators that want ONNX's own order: they work along the last axis, whatever the rank.
LAST_AXIS = {"MatMul", "LayerNormalization", "RMSNormalization"}


#: Of a tensor of ones (true) and zeros (false).
TRUTH = Quantization(1.0, 0, "uint8")


class Unsupported(Exception):
    """A rule's reasons why a node cannot run on the NPU."""


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
    constants: dict[str, Array] = field(default_factory=dict)  # tensor: its bytes in memory order
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
            Unsupported: not constant, not per tensor, or not of 8 bits.
        """
        scale = self.constant(node.inputs[1])
        zero = self.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or scale.size != 1:
            raise Unsupported("activations must be quantised per tensor, by a constant scale")
        dtype = "uint8" if zero is None else str(zero.dtype)
        if dtype not in ("int8", "uint8"):
            raise Unsupported(f"activations of type {dtype} are not supported; use int8 or uint8")
        return Quantization(
            float(np.float32(scale.item())), int(zero.item()) if zero is not None else 0, dtype
        )

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
        """Make a tensor of constant codes (int8 or uint8, in ONNX's order)."""
        order = default_order(data.ndim)
        self.declare(name, data.shape, order, quantization)
        self.constants[name] = np.ascontiguousarray(data.transpose(order)).view(np.uint8)
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
        if self._table(node, source, quantization) or self._affine(node, source, quantization):
            return
        self._anchored(node, source, quantization)

    # --- a table of one quantised tensor ---------------------------------------------------------------

    def _table(self, node: ir.Node, source: ir.Value, quantization: Quantization) -> bool:
        nodes: list[str] = []
        found = self.function_of_one(source, nodes)
        if found is None:
            return False
        root, values = found
        table = unary.to_bytes(values, quantization)
        base = self.tensors[root]
        shape = fixed_shape(node.outputs[0])
        if shape != base.onnx_shape:
            return False
        output = self.declare(node.outputs[0].name or "", shape, self.order(root), quantization)
        self.root[output] = (root, table)
        same = base.quantization == quantization and bool((table == np.arange(256)).all())
        names = tuple(reversed(nodes)) or (node.name or "",)
        op = self.ops[names[-1]] if nodes else "Requantize"
        operation: Operation = View() if same else Map()
        steps = () if same else (Table(table),)
        self.add(Layer(names[-1], op, names, operation, (root,), output, steps))
        self.covered[names[-1]] = [*names, node.name or ""]
        return True

    def function_of_one(self, value: ir.Value, nodes: list[str]) -> tuple[str, Array] | None:
        """(tensor, the value for each of its 256 bytes, float64) of an element-wise region, its nodes added to
        ``nodes``; None if there is another tensor in it."""
        leaves: set[str] = set()
        if not self._roots(value, leaves, nodes, 0) or len(leaves) != 1:
            return None
        root = leaves.pop()
        values = self._evaluate(value, root)
        return None if values is None else (root, np.broadcast_to(values, (256,)).astype(np.float64))

    def _roots(self, value: ir.Value, leaves: set[str], nodes: list[str], depth: int) -> bool:
        """Collect the quantised tensors that an element-wise region is made of; False if it is not one."""
        name = value.name or ""
        if name in self.deq:
            tensor = self.deq[name]
            leaves.add(self.root[tensor][0] if tensor in self.root else tensor)
            return True
        constant = self.constant(value)
        if constant is not None:
            return bool(constant.size == 1)
        node = value.producer()
        if node is None or not unary.is_elementwise(node) or depth > 64:
            return False
        if node.name not in nodes:
            nodes.append(node.name or "")
        return all(v is None or self._roots(v, leaves, nodes, depth + 1) for v in node.inputs)

    def _evaluate(self, value: ir.Value, root: str) -> Array | None:
        """The value for each of the 256 bytes of ``root`` (float64), or None."""
        name = value.name or ""
        if name in self.deq:
            tensor = self.deq[name]
            table = self.root[tensor][1] if tensor in self.root else None
            return unary.real_values(self.tensors[tensor].quantization, table)
        constant = self.constant(value)
        if constant is not None:
            return np.float64(constant.reshape(-1)[0])  # type: ignore[return-value]
        node = value.producer()
        assert node is not None
        present = list(node.inputs)
        arguments: list[Any] = []
        for position, v in enumerate(present):
            if v is None:
                arguments.append(np.float64(-np.inf if position == 1 else np.inf))
                continue
            part = self._evaluate(v, root)
            if part is None:
                return None
            arguments.append(part)
        return unary.apply(node, arguments)

    # --- an affine function by channel -----------------------------------------------------------------

    def _affine(self, node: ir.Node, source: ir.Value, quantization: Quantization) -> bool:
        clamps, inner = self._strip_clamps(source)
        nodes: list[str] = []
        found = self._linear(inner, nodes)
        if found is None or not nodes:
            return False
        root, slope, shift, negative = found
        base = self.tensors[root]
        if fixed_shape(node.outputs[0]) != base.onnx_shape:
            return False
        channels = base.shape[-1]
        scale_in, scale_out = (
            np.float64(np.float32(base.quantization.scale)),
            np.float64(np.float32(quantization.scale)),
        )
        affine = np.stack([
            np.broadcast_to(np.asarray(part, np.float64) * factor, (channels,))
            for part, factor in ((shift, 1 / scale_out), (slope, scale_in / scale_out), (negative, scale_in / scale_out))
        ]).astype(np.float32)  # fmt: skip
        output = self.declare(node.outputs[0].name or "", base.onnx_shape, self.order(root), quantization)
        steps = self._clamp_steps(clamps, quantization)
        names = (*reversed(nodes), *(c.name or "" for c in reversed(clamps)))
        mid = (quantization.zero_point, quantization.dtype)
        self.add(Layer(names[0], self.ops[names[0]], names, Map(affine, mid), (root,), output, steps))
        self.covered[names[0]] = [*names, node.name or ""]
        return True

    def _linear(self, value: ir.Value, nodes: list[str]) -> tuple[str, Any, Any, Any] | None:
        """(tensor, slope, shift, slope of negatives) by channel of a chain of scalings and shifts, or None."""
        if value.name in self.deq:
            return self.deq[value.name or ""], 1.0, 0.0, 1.0
        node = value.producer()
        if node is None or node.op_type not in LINEAR:
            return None
        if any(used(output) for output in node.outputs[1:]):
            return None
        turned = node.op_type in ("Add", "Mul") and self.constant(node.inputs[0]) is not None
        first = node.inputs[1] if turned else node.inputs[0]
        if first is None:
            return None
        inner = self._linear(first, nodes)
        if inner is None:
            return None
        root, slope, shift, negative = inner
        constants = [self._by_channel(v, root) for v in node.inputs if v is not first]
        if any(c is None for c in constants):
            return None
        nodes.insert(0, node.name or "")
        c: Any = constants[0]
        if node.op_type == "PRelu":
            return (root, slope, shift, np.asarray(c)) if nodes == [node.name] else None
        if np.any(np.asarray(negative) != np.asarray(slope)):
            return None
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, variance = (np.asarray(k, np.float64) for k in constants)
            epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
            factor = gamma / np.sqrt(variance + epsilon)
            return root, slope * factor, (shift - mean) * factor + beta, slope * factor
        if node.op_type in ("Add", "Sub"):
            return root, slope, shift + (c if node.op_type == "Add" else -c), slope
        factor = c if node.op_type == "Mul" else 1 / c
        return root, slope * factor, shift * factor, slope * factor

    def _by_channel(self, value: ir.Value | None, name: str) -> Array | None:
        """A constant as one number for each channel of the tensor's memory, or one for all; None if it is neither."""
        array = self.constant(value)
        if array is None:
            return None
        if array.size == 1:
            return array.reshape(1).astype(np.float64)
        tensor = self.tensors[name]
        rank, axis = len(tensor.onnx_shape), self.order(name)[-1]
        node_is_vector = (
            array.ndim == 1
            and value is not None
            and any(u.node.op_type == "BatchNormalization" for u in value.uses())
        )
        if node_is_vector:
            return array.astype(np.float64) if axis == 1 and array.size == tensor.shape[-1] else None
        padded = (1,) * (rank - array.ndim) + array.shape
        if (
            len(padded) != rank
            or any(d != 1 for i, d in enumerate(padded) if i != axis)
            or padded[axis] != tensor.onnx_shape[axis]
        ):
            return None
        return array.reshape(-1).astype(np.float64)

    # --- an operator with clamps behind it -------------------------------------------------------------

    def _anchored(self, node: ir.Node, source: ir.Value, quantization: Quantization) -> None:
        clamps, inner = self._strip_clamps(source)
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
        steps = (*made.steps, *self._clamp_steps(clamps, quantization))
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

    def _strip_clamps(self, value: ir.Value) -> tuple[list[ir.Node], ir.Value]:
        """The Relu and Clip nodes behind an operator's result (last first), and that result."""
        clamps: list[ir.Node] = []
        node = value.producer()
        while node is not None and node.op_type in ("Relu", "Clip") and value.name not in self.deq:
            if (
                any(self.constant(v) is None for v in node.inputs[1:] if v is not None)
                or node.inputs[0] is None
            ):
                break
            clamps.append(node)
            value = node.inputs[0]
            node = value.producer()
        return clamps, value

    def _clamp_steps(self, clamps: list[ir.Node], quantization: Quantization) -> tuple[Step, ...]:
        """Clamps before a rounding are the same as clamps of the codes after it."""
        if not clamps:
            return ()
        values = unary.real_values(quantization)
        for node in reversed(clamps):
            arguments: list[Any] = [values]
            for position, v in enumerate(node.inputs[1:], 1):
                constant = self.constant(v)
                arguments.append(
                    np.float64(constant.item())
                    if constant is not None
                    else np.float64(np.inf if position == 2 else -np.inf)
                )
            result = unary.apply(node, arguments)
            assert result is not None
            values = result
        table = unary.to_bytes(values, quantization)
        return () if bool((table == np.arange(256)).all()) else (Table(table),)


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
