"""A model as onnxruntime takes it, its large weights apart: a message that holds them is copied many times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

Array = np.ndarray[Any, Any]
#: Types of weights that stand apart, and how large these are at least.
_TYPES = (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8)
LARGE_BYTES = 4096


@dataclass(frozen=True)
class Form:
    """A message, and the weights (by name) of which it holds the name, the type and the shape alone."""

    proto: onnx.ModelProto
    weights: dict[str, Array]

    def add(self, name: str, array: Array) -> None:
        """Add a constant: apart, if it is large."""
        tensor: Any = ir.tensor(array, name=name)
        if _is_large(tensor):
            self.weights[name] = array
            tensor = _stand_in(name, tensor)
        self.proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))

    def put_back(self, names: Iterable[str]) -> None:
        """Put weights into the message."""
        tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for name in names:
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(self.weights.pop(name), name))

    def model(self) -> ir.Model:
        """As ``form_of`` takes it."""
        result = ir.from_proto(self.proto)
        for name, array in self.weights.items():
            result.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return result


def form_of(model: ir.Model) -> Form:
    """The form of a model, at the version that onnxruntime takes. The weights are the model's own.

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


def _is_large(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.dtype in _TYPES and tensor.nbytes > LARGE_BYTES


def _stand_in(name: str, tensor: Any) -> ir.ExternalTensor:
    """Of a tensor the name, the type and the shape."""
    return ir.ExternalTensor("memory", None, None, tensor.dtype, shape=tensor.shape, name=name)
