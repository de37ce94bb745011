"""ONNX's backend interface, on some of the standard's own cases."""

from __future__ import annotations

import numpy as np
import pytest

from ommatid.runtime import backend
from tests import networks
from tests.node_cases import cases_of

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
