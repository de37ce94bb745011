"""The host's part of a run: quantising inputs, dequantising outputs, CPU partitions in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry
from ommatid.isa.program import Partition, Quantization, Tensor

Array = np.ndarray[Any, Any]


def quantize(real: Array, quantization: Quantization) -> Array:
    """QuantizeLinear: a float32 array as int8 or uint8, rounded half to even."""
    info = np.iinfo(quantization.dtype)
    numbers = (np.float32(n) for n in (quantization.scale, quantization.zero_point, info.min, info.max))
    steps, codes = np.ascontiguousarray(real, np.float32), np.empty(real.shape, quantization.dtype)
    _codes(steps.reshape(-1), *numbers, codes.reshape(-1))
    return codes


@entry
def _codes(real: Any, scale: Any, zero: Any, low: Any, high: Any, codes: Any) -> None:
    """Element by element, in float32: NumPy runs through an image, larger than the CPU's cache, six times."""
    for i in range(len(real)):
        step = np.rint(real[i] / scale) + zero
        # as in onnxruntime, NaN becomes the lowest code: a conversion of NaN would depend on the CPU
        codes[i] = min(step, high) if step > low else low


def dequantize(q: Array, quantization: Quantization) -> Array:
    """DequantizeLinear: int8 or uint8 as float32."""
    steps = (q.astype(np.int32) - quantization.zero_point).astype(np.float32)
    return np.asarray(steps * np.float32(quantization.scale))


def to_memory(onnx_array: Array, tensor: Tensor) -> Array:
    """An ONNX tensor as its bytes lie in memory."""
    order = np.argsort(tensor.to_onnx)
    return onnx_array.reshape(tensor.onnx_shape).transpose(order).reshape(tensor.shape)


def to_onnx(memory: Array, tensor: Tensor) -> Array:
    """The ONNX tensor of bytes as they lie in memory."""
    return np.array(
        memory.reshape(tensor.shape).transpose(tensor.to_onnx).reshape(tensor.onnx_shape), order="C"
    )


class CpuPartition:
    """A CPU partition: an ONNX Runtime session, made at its first use."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._session: Any = None

    def run(self, values: dict[str, Array]) -> dict[str, Array]:
        """Its outputs by name, from values by name."""
        if self._session is None:
            import onnx
            import onnxruntime

            from ommatid.compiler.exact_session import exact_options

            options = exact_options(onnx.load_model_from_string(self.partition.model))
            self._session = onnxruntime.InferenceSession(
                self.partition.model, options, providers=["CPUExecutionProvider"]
            )
        feeds = {name: values[name] for name in self.partition.inputs}
        return dict(
            zip(self.partition.outputs, self._session.run(list(self.partition.outputs), feeds), strict=True)
        )
