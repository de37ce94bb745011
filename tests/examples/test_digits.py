"""The networks in examples/digits keep what they learnt in 8 bits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def measure() -> Any:
    """The example's module."""
    spec = importlib.util.spec_from_file_location("measure", DIGITS / "measure.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer"])
def test_little_is_lost(name: str) -> None:
    float32, npu = measure().top1(name, 0)
    assert float32 > 95
    assert npu > float32 - 1  # of one split; `make accuracy` prints the mean of five


def test_files_are_small() -> None:
    files = sorted(DIGITS.glob("*.onnx"))
    assert [file.stem for file in files] == ["depthwise", "residual", "transformer"]
    assert all(file.stat().st_size < 300_000 for file in files)
