"""Results: layer by layer on onnxruntime's own inputs, and end to end (design 3.8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import TensorReport, layerwise
from ommatid.runtime import compile as tried
from ommatid.runtime.session import InferenceSession
from tests.workloads import NINE, images, input_name, quantized

EVIDENCE = 0.9  # the share of tensors that must count as evidence
SQNR_DB = 35  # end to end


def layer_by_layer(program: Program, model: onnx.ModelProto, feeds: list[Any]) -> list[TensorReport]:
    assert verify(program) == []
    assert [p.placement for p in program.partitions] == ["npu"]  # so are all MACs and activation bytes
    reports = layerwise(program, model, feeds)
    differ = [r.name for r in reports if r.exact and r.equal < 1]
    assert not differ, "bits differ from onnxruntime's QLinear kernels"
    assert not [(r.name, r.max_steps) for r in reports if r.max_steps > 1]
    assert np.mean([r.evidence for r in reports]) >= EVIDENCE
    return reports


def end_to_end(
    program: Program, model: onnx.ModelProto, feeds: list[Any], layers: list[TensorReport]
) -> None:
    """The output, and the last tensor that counts as evidence: a softmax of random weights is too flat to measure."""
    whole = {placed.tensor.name for placed in program.placed}  # what lies inside a cascade never is
    evidence = [r.name for r in layers if r.evidence and r.name in whole]
    reports = layerwise(program, model, feeds, mode="entire", names=[*evidence[-3:], layers[-1].name])
    measured, output = next(r for r in reversed(reports) if r.name in evidence), reports[-1]
    for r in (measured, output):
        print(f"{r.name}: {r.sqnr_db:.1f} dB, {100 * r.equal:.3f}% of elements equal end to end")
    assert output.name == layers[-1].name and measured.sqnr_db >= SQNR_DB


def grouped(names: Iterable[str]) -> list[object]:
    """Parameters of one network in one worker, so that it is quantised once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


FIVE = ("resnet50", "squeezenet", "inception_v2", "detector")


@pytest.mark.long
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", grouped(FIVE))
def test_five_inputs(name: str, activations: str) -> None:
    model = quantized(name, activations)
    feeds = [{input_name(model): x} for x in images(name, 5)]
    apart = compile_model(model, optimize=0)  # so that every convolution's output exists
    reports = layer_by_layer(apart, model, feeds)
    multiplications = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert sum(r.exact for r in reports) == len(multiplications)
    program = tried.compile_model(model)
    end_to_end(program, model, feeds, reports)
    ours, theirs = (InferenceSession(p).run(None, feeds[0]) for p in (program, apart))
    assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]


@pytest.mark.long
@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-1k", "ommatid-4k"])
@pytest.mark.parametrize("name", grouped((*NINE, "detector")))
def test_every_architecture_on_every_target(name: str, target: str) -> None:
    """Five inputs once, unless they were above; then one. VGG-19: one."""
    model = quantized(name, "uint8")
    count = 5 if target == "ommatid-1k" and name not in (*FIVE, "vgg19") else 1
    feeds = [{input_name(model): x} for x in images(name, count)]
    program = compile_model(model, target)
    reports = layer_by_layer(program, model, feeds)
    end_to_end(program, model, feeds[:1], reports)
