"""Resize as products, and of crops: the same numbers, and on the NPU within a step of onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from tests import networks
from tests.compiler.canonical import canonical, nodes_of, operators

X: dict[str, Any] = {"x": [1, 2, 6, 5]}
CONSTANTS: dict[str, Any] = {
    "larger": np.array([1, 2, 9, 11], np.int64), "rows": np.array([1, 2, 13, 5], np.int64),
    "smaller": np.array([1, 1, 0.6, 0.45]), "one": np.array([3], np.int64), "two": np.array([7, 4], np.int64),
    "inner": np.array([0, 0, 0.2, 0.1, 1, 1, 0.7, 0.8]), "outer": np.array([0, 0, -0.3, 0.2, 1, 1, 0.9, 1.4]),
    "beyond": np.array([0, 0, 1.5, 0, 1, 1, 2, 1]), "same": np.array([1, 2, 6, 5], np.int64),
}  # fmt: skip
ROWS, COLUMNS = "Transpose MatMul Transpose", "MatMul"


@pytest.mark.parametrize("text, result", [
    ('y = Resize <mode="cubic"> (x, , , same)', "Resize"),
    ('y = Resize <mode="cubic"> (x, , smaller)', f"{ROWS} {COLUMNS}"),
    ('y = Resize <mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1> (x, , smaller)', f"{ROWS} {COLUMNS}"),
    ('y = Resize <mode="cubic", coordinate_transformation_mode="align_corners", axes=[2, 3]> (x, , , two)', f"{ROWS} {COLUMNS}"),
    ('y = Resize <mode="linear", antialias=1> (x, , smaller)', f"{ROWS} {COLUMNS}"),
    ('y = Resize <mode="cubic", antialias=1, axes=[3]> (x, , , one)', COLUMNS),
    ('y = Resize <mode="cubic", coordinate_transformation_mode="tf_crop_and_resize"> (x, outer, , larger)', "Resize"),
    ('y = Resize <mode="linear"> (x, , smaller)', "Resize"),
])  # fmt: skip
def test_many_taps(text: str, result: str) -> None:
    """``canonical`` asserts equal numbers."""
    assert operators(canonical(text, X, CONSTANTS, 18)) == result.split()


@pytest.mark.parametrize("text", [
    'y = Resize <mode="cubic"> (x, , , rows)',
    'y = Resize <mode="linear", coordinate_transformation_mode="tf_crop_and_resize"> (x, inner, , larger)',
    'y = Resize <mode="nearest", coordinate_transformation_mode="tf_crop_and_resize"> (x, inner, , larger)',
    """y = Resize <mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=2.0>
     (x, outer, , larger)""",
    'y = Resize <mode="linear", keep_aspect_ratio_policy="not_larger", axes=[2, 3]> (x, , , two)',
])  # fmt: skip
def test_on_the_npu(text: str, tmp_path: Any) -> None:
    program, x = _compiled(text, save_qdq=str(tmp_path / "q"))
    assert [p.placement for p in program.partitions] == ["npu"] and verify(program) == []
    reports = layerwise(program, onnx.load(tmp_path / "q"), [{"x": x}])
    assert reports and all(r.max_steps <= 1 for r in reports)


def test_a_crop_of_nothing_is_refused() -> None:
    program, _ = _compiled(
        'y = Resize <mode="linear", coordinate_transformation_mode="tf_crop_and_resize"> (x, beyond, , larger)'
    )
    assert "its crop lies outside the image" in program.partitions[0].reasons


def _compiled(text: str, **options: Any) -> Any:
    x = np.random.default_rng(0).standard_normal(X["x"]).astype(np.float32)
    text = " ".join(text.split())
    used = {
        n: (a if a.dtype.kind == "i" else a.astype(np.float32)) for n, a in CONSTANTS.items() if n in text
    }
    model = networks.model(nodes_of(text), X, {"y": None}, used, 18)
    return compile_model(model, "ommatid-256", calibration=[{"x": x}], **options), x
