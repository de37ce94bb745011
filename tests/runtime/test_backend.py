"""ONNX's backend interface, on some of the standard's own cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.backend.backend import OnnxRuntimeBackend

import ommatid
from ommatid.runtime import backend
from tests import networks
from tests.compiler.canonical import run
from tests.node_cases import PATHS, cases_in, cases_of

#: Of the standard's cases, so that several workers share them.
PARTS = 8

CASES = (
    ("Add", "test_add"),
    ("Relu", "test_relu"),
    ("Concat", "test_concat_2d_axis_0"),
    ("GlobalAveragePool", "test_globalaveragepool"),
    ("CumSum", "test_cumsum_1d"),
    ("Equal", "test_equal"),
)


def test_devices() -> None:
    assert (
        backend.supports_device("CPU")
        and backend.supports_device("CPU:0")
        and not backend.supports_device("CUDA")
    )


def test_feeds_by_position_by_name_and_alone() -> None:
    prepared = backend.prepare(networks.convolution(), calibration=[networks.inputs()])
    x = networks.inputs()["x"]
    results = [prepared.run(feeds)[0] for feeds in ([x], {"x": x}, x)]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("op, name", CASES)
def test_cases_of_the_standard(op: str, name: str) -> None:
    case = next(c for c in cases_of(op) if c.name == name)
    for inputs, outputs in case.data_sets:
        results = backend.run_model(case.model, inputs)
        for ours, theirs in zip(results, outputs, strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            room = 0.05 * max(1.0, float(np.abs(theirs).max(initial=0))) if theirs.dtype.kind == "f" else 0
            assert np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0) <= room


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("part", range(PARTS))
def test_on_the_cpu_all_cases_pass_that_onnxruntime_passes(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path))
    passed, neither = 0, []
    for path in PATHS[part::PARTS]:
        for case in cases_in(path):
            for inputs, outputs in case.data_sets:
                if _passes(lambda m, x: backend.run_model(m, x, npu=False), case.model, inputs, outputs):
                    passed += 1
                    continue
                neither.append(case.name)
                assert not _passes(OnnxRuntimeBackend.run_model, case.model, inputs, outputs), case.name
    print(f"{passed} cases pass on the CPU; neither here nor in onnxruntime's backend: {len(neither)}")
    assert passed > 100


def _passes(run: Callable[..., Any], model: Any, inputs: Any, outputs: Any) -> bool:
    """Whether a backend gives what the standard says; that it raises is no pass."""
    try:
        results = run(model, inputs)
    except Exception:
        return False
    return _same(list(results), list(outputs))


def _same(ours: Any, theirs: Any) -> bool:
    """Equal as the standard's runner has it: type, shape, and numbers within its tolerance; sequences of such."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(theirs, list | tuple):
        alike = isinstance(ours, list | tuple) and len(ours) == len(theirs)
        return alike and all(_same(a, b) for a, b in zip(ours, theirs, strict=True))
    a, b = np.asarray(ours), np.asarray(theirs)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if b.dtype.kind in "OUS":
        return bool((a == b).all())
    wide = np.complex128 if b.dtype.kind == "c" else np.float64
    return bool(np.allclose(a.astype(wide), b.astype(wide), 1e-3, 1e-7, equal_nan=True))


def test_on_the_cpu_a_network_stays_in_float(tmp_path: Path) -> None:
    model, feeds = networks.convolution(), networks.inputs()
    program = ommatid.compile(model, npu=False)
    assert [p.placement for p in program.partitions] == ["cpu"] and not len(program.instructions)
    assert set(program.partitions[0].reasons) == {"the whole network is placed on the CPU"}
    program.save(tmp_path / "m.omm")
    session = ommatid.InferenceSession(tmp_path / "m.omm")
    assert np.array_equal(session.run(None, feeds)[0], run(model, feeds)[0])


def test_on_the_cpu_a_dynamic_shape_is_that_of_the_first_inputs() -> None:
    model = networks.convolution(batch="n")
    prepared = backend.prepare(model, npu=False)
    for batch in (2, 3):
        x = networks.inputs(batch=batch)["x"]
        np.testing.assert_allclose(prepared.run([x])[0], run(model, {"x": x})[0], rtol=1e-6)
