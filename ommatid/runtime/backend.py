"""ONNX's backend interface: its test suite and other clients run models on the simulated NPU with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ommatid.runtime.session import InferenceSession


class OmmatidRep(BackendRep):
    """A model, compiled when it first runs: its first inputs are calibration data and fix shapes, if nothing else does."""

    def __init__(self, model: onnx.ModelProto, options: dict[str, Any]) -> None:
        initializers = {tensor.name for tensor in model.graph.initializer}
        self.names = [value.name for value in model.graph.input if value.name not in initializers]
        tensors = {v.name: v.type.tensor_type for v in model.graph.input if v.type.HasField("tensor_type")}
        self._tensors = set(tensors)
        self._dynamic = {
            n for n, t in tensors.items() if not all(d.HasField("dim_value") for d in t.shape.dim)
        }
        self._model = model
        self._options = options
        self._session: InferenceSession | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for inputs by position, by name, or the only one.

        Raises:
            CompileError, TargetError: the model cannot be compiled.
            RunError: the inputs do not fit it.
        """
        feeds = self._feeds(inputs)
        if self._session is None:
            shapes = {name: feeds[name].shape for name in self._dynamic & set(feeds)}
            seen = {"calibration": [feeds]} if self._options.get("npu", True) else {}
            options = {**seen, "shapes": shapes, **self._options}
            self._session = InferenceSession(self._model, **options)
        return tuple(self._session.run(None, feeds))

    def _feeds(self, inputs: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            several = isinstance(inputs, Sequence) and not isinstance(inputs, str)
            inputs = dict(zip(self.names, inputs if several else [inputs], strict=False))
        return {name: np.asarray(value) if name in self._tensors else value for name, value in inputs.items()}


class OmmatidBackend(Backend):
    """The backend; options of ``prepare`` are those of ``ommatid.compile``: ``npu=False`` runs all on the host."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """True where ``prepare`` can take the model: what the NPU cannot run, the host does."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OmmatidRep:
        """A model that is ready to run.

        Raises:
            onnx.checker.ValidationError: it is not a valid model.
        """
        super().prepare(model, device, **kwargs)
        return OmmatidRep(model, kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The NPU is simulated on the host: its device is ONNX's CPU."""
        return device.split(":")[0] == "CPU"


is_compatible = OmmatidBackend.is_compatible
prepare = OmmatidBackend.prepare
run_model = OmmatidBackend.run_model
supports_device = OmmatidBackend.supports_device
