"""ONNX's backend interface: its test suite and other clients run models on the simulated NPU with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ommatid.runtime.session import InferenceSession


class OmmatidRep(BackendRep):
    """A compiled model."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for inputs by position, by name, or the only one.

        Raises:
            RunError: they do not fit the model's inputs.
        """
        names = [port.name for port in self.session.get_inputs()]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        elif isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
            feeds = {names[0]: inputs}
        else:
            feeds = dict(zip(names, inputs, strict=False))
        return tuple(self.session.run(None, {name: np.asarray(value) for name, value in feeds.items()}))


class OmmatidBackend(Backend):
    """The backend; options of ``prepare`` are those of ``ommatid.compile``."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """True where ``prepare`` can take the model: what the NPU cannot run, the host does."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OmmatidRep:
        """Compile a model.

        Raises:
            CompileError, TargetError: it cannot be compiled.
        """
        super().prepare(model, device, **kwargs)
        return OmmatidRep(InferenceSession(model, **kwargs))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The NPU is simulated on the host: its device is ONNX's CPU."""
        return device.split(":")[0] == "CPU"


is_compatible = OmmatidBackend.is_compatible
prepare = OmmatidBackend.prepare
run_model = OmmatidBackend.run_model
supports_device = OmmatidBackend.supports_device
