"""The small model, quantised and compiled once, beside onnxruntime on the same quantised model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program
from tests import networks


@dataclass(frozen=True)
class Both:
    """A program, and onnxruntime on the QDQ model that it was made from."""

    program: Program
    qdq: onnx.ModelProto
    reference: Any


def both(model: onnx.ModelProto, folder: Path) -> Both:
    """Compile a model with calibration data; judge by its QDQ form."""
    path = folder / "qdq.onnx"
    samples = [networks.inputs(seed) for seed in range(4)]
    program = compile_model(model, calibration=samples, save_qdq=str(path))
    options = exact_options(onnx.load(path))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Both(program, onnx.load(path), session)


@pytest.fixture(scope="session")
def npu(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A network that runs on the NPU alone."""
    return both(networks.convolution(), tmp_path_factory.mktemp("npu"))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A network with a part on the host."""
    return both(networks.with_host_part(), tmp_path_factory.mktemp("mixed"))
