"""A model as onnxruntime takes it, its large weights apart: a message that holds them is copied many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.exact_session import has_int8

Array = np.ndarray[Any, Any]
#: Types of weights that stand apart, and how large these are at least.
_TYPES = (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8)
LARGE_BYTES = 4096


@dataclass
class Form:
    """A message, and the weights (by name) of which it holds the name, the type and the shape alone; changed in place.

    The arrays may be those of a model, and are not written to.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array]

    def numbers(self) -> Callable[[str], Array]:
        """A function that gives the constants of now by their names."""
        tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        return lambda name: (
            self.weights[name] if name in self.weights else onnx.numpy_helper.to_array(tensors[name])
        )

    def add(self, name: str, array: Array) -> None:
        """Add a constant (any type and shape): apart, if it is large."""
        tensor: Any = ir.tensor(array, name=name)
        if _is_large(tensor):
            self.weights[name] = array
            tensor = _stand_in(name, tensor)
        self.proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))

    def put_back(self, names: Iterable[str]) -> None:
        """Put these weights, which stand apart, into the message."""
        tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for name in names:
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(self.weights.pop(name), name))

    def model(self) -> ir.Model:
        """The model of this form; its large weights are the same arrays."""
        result = ir.from_proto(self.proto)
        for name, array in self.weights.items():
            result.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return result


def form_of(model: ir.Model) -> Form:
    """The form of a model, which stays as it is, at the version that onnxruntime takes.

    What nodes of the graph itself do not read stays in the message: onnxruntime drops it before it looks for its weights.
    """
    read = {value for node in model.graph for value in node.inputs if value is not None}
    large = [v for v in model.graph.initializers.values() if v in read and _is_large(v.const_value)]
    held = [value.const_value for value in large]
    try:
        for value in large:
            value.const_value = _stand_in(value.name or "", value.const_value)
        proto = ir.to_proto(model)
    finally:
        for value, tensor in zip(large, held, strict=True):
            value.const_value = tensor
    proto.ir_version = min(proto.ir_version, 10)
    return Form(proto, {v.name or "": v.const_value.numpy() for v in large if v.const_value is not None})


def unsigned(form: Form) -> Form:
    """The same numbers with large weights of int8, of one reader each, as uint8: onnxruntime would make these of them,
    element by element.

    All stays as it is where activations have int8, or a node holds a graph that may read weights.
    """
    nodes, outputs = form.proto.graph.node, [output.name for output in form.proto.graph.output]
    if has_int8(form.proto) or any(attribute.HasField("g") for node in nodes for attribute in node.attribute):
        return form
    proto, weights, numbers = onnx.ModelProto(), dict(form.weights), form.numbers()
    proto.CopyFrom(form.proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    uses = Counter([*(name for node in nodes for name in node.input), *outputs])
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        name, _, zero = (*node.input, "")[:3]
        codes = weights.get(name)
        if codes is None or codes.dtype != np.int8 or uses[name] > 1 or not zero:
            continue
        weights[name] = codes.view(np.uint8) ^ 0x80
        tensors[name].data_type = onnx.TensorProto.UINT8
        node.input[2] = f"{name}__zero"
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(numbers(zero).view(np.uint8) ^ 0x80, node.input[2])
        )
    read = {name for node in proto.graph.node for name in node.input}
    return Form(proto, {name: array for name, array in weights.items() if name in read})


def _is_large(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.dtype in _TYPES and tensor.nbytes > LARGE_BYTES


def _stand_in(name: str, tensor: Any) -> ir.ExternalTensor:
    """Of a tensor the name, the type and the shape."""
    return ir.ExternalTensor("memory", None, None, tensor.dtype, shape=tensor.shape, name=name)
