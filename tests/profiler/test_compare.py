"""The comparison itself: it finds what differs, and only that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program import Program, Quantization
from ommatid.profiler.compare import TensorReport, against_float, layerwise
from tests import networks

SAMPLES = [networks.inputs(seed, size=24) for seed in range(3)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, onnx.ModelProto]:
    path: Path = tmp_path_factory.mktemp("pair") / "qdq.onnx"
    program = compile_model(networks.convolution(size=24), calibration=SAMPLES, save_qdq=str(path))
    return program, onnx.load(path)


def broken(program: Program, layer: int) -> Program:
    """The program with one layer's weights zeroed."""
    symbols = program.symbols
    constants = program.constants.copy()
    for symbol in symbols[(symbols["layer"] == layer) & (symbols["memory"] == 0)]:
        constants[symbol["address"] : symbol["address"] + symbol["bytes"]] = 0
    return dataclasses.replace(program, constants=constants)


@pytest.mark.parametrize("mode", ["single", "entire"])
def test_equal(pair: tuple[Program, onnx.ModelProto], mode: str) -> None:
    reports = layerwise(*pair, SAMPLES, mode)
    assert len(reports) == 2
    for report in reports:
        assert report.equal == 1 and report.max_steps == 0 and report.evidence and report.exact
        assert report.mode == mode and report.reference == "qdq"


def test_a_fault_is_found_where_it_is(pair: tuple[Program, onnx.ModelProto]) -> None:
    program, qdq = pair
    single = layerwise(broken(program, 0), qdq, SAMPLES, "single")
    assert [report.equal == 1 for report in single] == [False, True]
    entire = layerwise(broken(program, 0), qdq, SAMPLES, "entire")
    assert [report.equal == 1 for report in entire] == [False, False]


def test_numbers_are_those_of_the_formulas(pair: tuple[Program, onnx.ModelProto]) -> None:
    import onnxruntime

    from ommatid.runtime.session import InferenceSession

    program, _ = pair
    model = networks.convolution(size=24)
    session = InferenceSession(program)
    ours = np.concatenate([session.run(None, feeds)[0] for feeds in SAMPLES]).astype(np.float64)
    float_session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    real = np.concatenate([float_session.run(None, feeds)[0] for feeds in SAMPLES]).astype(np.float64)
    report = next(r for r in against_float(program, model, SAMPLES) if r.name == "y")
    error = ours - real
    assert report.sqnr_db == pytest.approx(10 * np.log10((real**2).sum() / (error**2).sum()), abs=1e-3)
    assert report.max_abs_error == pytest.approx(np.abs(error).max(), rel=1e-5)
    cosine = (ours * real).sum() / np.sqrt((ours**2).sum() * (real**2).sum())
    assert report.cosine == pytest.approx(cosine, abs=1e-9)


def test_codes_beyond_the_range_of_float32_are_compared() -> None:
    report, quantization = TensorReport("t", "single", "qdq"), Quantization(1.04e34, 0, "int16")
    codes = np.array([-32768, -32767, 5], np.int16)
    report.add_codes(codes, codes, quantization)
    report.add_codes(codes, np.array([-32767, -32767, 5], np.int16), quantization)
    assert report.max_steps == 1 and report.equal == pytest.approx(5 / 6)
    assert report.max_abs_error == pytest.approx(1.04e34) and 90 < report.sqnr_db < 110


def test_what_does_not_vary_is_no_evidence(pair: tuple[Program, onnx.ModelProto]) -> None:
    constant = [{"x": np.zeros((1, 3, 24, 24), np.float32)}]
    assert not any(report.evidence for report in layerwise(*pair, constant, "single"))


def test_a_view_that_opens_a_partition_is_compared_once_the_host_has_written_it(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,24,6] x) => (float[1,12,12] y) '
        "<int64 axis = {2}, int64[3] shape = {1, 12, 12}> "
        "{ a = Relu(x) c = CumSum(a, axis) r = Reshape(c, shape) y = Softmax(r) }"
    )
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 24, 6)).astype(np.float32)} for _ in range(2)]
    path = tmp_path / "qdq.onnx"
    program = compile_model(model, calibration=feeds, save_qdq=str(path))
    assert [p.placement for p in program.partitions] == ["npu", "cpu", "npu"]
    for mode in ("single", "entire"):
        reports = layerwise(program, onnx.load(path), feeds, mode)
        assert len(reports) >= 2 and all(report.max_steps <= 1 for report in reports), reports
