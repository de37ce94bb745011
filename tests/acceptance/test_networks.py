"""Twelve architectures as exporters write them: all on the NPU, verified, equal to onnxruntime (design 3.8)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.model import import_model
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.qdq import QUANTISED
from ommatid.isa.program import Program
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from ommatid.runtime import compile as tried
from ommatid.runtime.session import InferenceSession
from tests.acceptance.test_equal_to_onnxruntime import grouped
from tests.networks.architectures import ARCHITECTURES
from tests.workloads import pictures, statically_quantized

Array = np.ndarray[Any, Any]
EVIDENCE = 0.9  # the share of tensors that must count as evidence

#: What an operator of a last partition on the CPU may be: it computes nothing.
NO_ARITHMETIC = {"Cast", "DequantizeLinear", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def feeds(model: onnx.ModelProto, count: int) -> list[dict[str, Array]]:
    """Photographs in the form that the network's only input takes; NHWC is of bytes, 0 to 255."""
    port = model.graph.input[0]
    shape = tuple(d.dim_value for d in port.type.tensor_type.shape.dim)
    if shape[1] == 3:
        return [{port.name: x} for x in pictures(shape, count)]
    images = pictures((shape[0], shape[3], *shape[1:3]), count)
    return [{port.name: (64 * x + 115).clip(0, 255).transpose(0, 2, 3, 1)} for x in images]


@functools.cache
def quantized(name: str, activations: str) -> onnx.ModelProto:
    """The canonical network, quantised by onnxruntime."""
    source = ARCHITECTURES[name]()
    proto = ir.to_proto(canonicalize(import_model(source)))
    proto.ir_version = min(proto.ir_version, 10)
    return statically_quantized(proto, feeds(source, 5), activations, QUANTISED)


def assert_placed(program: Program) -> None:
    """One partition of the NPU, and behind it at most one of operators that compute nothing."""
    assert [p.placement for p in program.partitions] in (["npu"], ["npu", "cpu"])
    for partition in program.partitions[1:]:
        operators = {node.op_type for node in onnx.load_from_string(partition.model).graph.node}
        assert operators <= NO_ARITHMETIC, partition.reasons


@pytest.mark.long
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", grouped(ARCHITECTURES))
def test_equal_to_onnxruntime(name: str, activations: str) -> None:
    model = quantized(name, activations)
    apart = compile_model(model, optimize=0)  # so that every convolution's output exists
    assert verify(apart) == []
    assert_placed(apart)
    reports = layerwise(apart, model, feeds(model, 5))
    assert not [r.name for r in reports if r.exact and r.equal < 1], "bits differ from onnxruntime's kernels"
    assert not [(r.name, r.max_steps) for r in reports if r.max_steps > 1]
    multiplications = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert sum(r.exact for r in reports) == len(multiplications)
    evidence = np.mean([r.evidence for r in reports])
    assert evidence >= EVIDENCE
    print(
        f"{name}, {activations}: {len(reports)} tensors within a step, {len(multiplications)} of them equal"
    )
    program = tried.compile_model(model)
    assert verify(program) == []
    assert_placed(program)
    ours, theirs = (InferenceSession(p).run(None, feeds(model, 1)[0]) for p in (program, apart))
    assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]
