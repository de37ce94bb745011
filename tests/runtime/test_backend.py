"""ONNX's backend interface, on some of the standard's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.backend.test.loader import load_model_tests

from ommatid.runtime import backend
from tests import networks

CASES = (
    "test_add",
    "test_relu",
    "test_concat_2d_axis_0",
    "test_averagepool_2d_default",
    "test_cumsum_1d",
    "test_equal",
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


@pytest.mark.parametrize("name", CASES)
def test_cases_of_the_standard(name: str) -> None:
    case = next(c for c in load_model_tests(kind="node") if c.name == name)
    for inputs, outputs in case.data_sets or [_data(case)]:
        results = backend.run_model(_model(case), inputs)
        for ours, theirs in zip(results, outputs, strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            room = 0.05 * max(1.0, float(np.abs(theirs).max(initial=0))) if theirs.dtype.kind == "f" else 0
            assert np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0) <= room


def _model(case: Any) -> Any:
    import onnx

    return case.model if case.model is not None else onnx.load(f"{case.model_dir}/model.onnx")


def _data(case: Any) -> tuple[list[Any], list[Any]]:
    import glob

    import onnx

    folder = f"{case.model_dir}/test_data_set_0"
    read = [
        [onnx.numpy_helper.to_array(onnx.load_tensor(p)) for p in sorted(glob.glob(f"{folder}/{kind}_*.pb"))]
        for kind in ("input", "output")
    ]
    return read[0], read[1]
