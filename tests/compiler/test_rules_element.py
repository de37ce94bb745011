"""Quotients and powers of two activations: every pair of codes within a step of onnxruntime's, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.verifier import verify
from ommatid.runtime.session import InferenceSession
from tests import networks
from tests.compiler.canonical import nodes_of, run

Array = np.ndarray[Any, Any]
Q = tuple[float, int, str]  # scale, zero point, type
U8, I8 = "uint8", "int8"


def quantised(op: str, x: Q, y: Q, out: Q) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A QDQ graph of the operator between all codes of x, down, and all of y, across; and the numbers of these codes."""
    text, constants, feeds = [], {}, {}
    for name, (scale, zero, kind) in {"x": x, "y": y, "z": out}.items():
        constants |= {f"{name}s": np.float32(scale), f"{name}o": np.array(zero, kind)}
        codes = np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1)
        feeds[name] = ((codes - zero) * np.float32(scale)).astype(np.float32)
    for name in "xy":
        text += [
            f"{name}q = QuantizeLinear({name}, {name}s, {name}o)",
            f"{name}d = DequantizeLinear({name}q, {name}s, {name}o)",
        ]
    text += [f"r = {op}(xd, yd)", "q = QuantizeLinear(r, zs, zo)", "z = DequantizeLinear(q, zs, zo)"]
    shapes = {"x": [1, 1, 256, 1], "y": [1, 1, 1, 256]}  # rows and columns of an image
    model = networks.model(nodes_of("\n".join(text)), shapes, {"z": [1, 1, 256, 256]}, constants)
    return model, {name: feeds[name].reshape(shape) for name, shape in shapes.items()}


def steps_off(op: str, x: Q, y: Q, out: Q) -> Array:
    """Differences from onnxruntime, in steps."""
    model, feeds = quantised(op, x, y, out)
    program = compile_model(model, "ommatid-256", cpu=False)
    assert verify(program) == []
    ours, theirs = InferenceSession(program).run(None, feeds)[0], run(model, feeds)[0]
    return np.abs(ours.astype(np.float64) - theirs).reshape(256, 256) / np.float32(out[0])


@pytest.mark.parametrize("x, y, out", [
    ((0.02, 0, U8), (0.01, 0, U8), (0.03, 0, U8)),
    ((0.02, 128, U8), (0.3, 100, U8), (0.004, 121, U8)),
    ((0.7, 3, I8), (0.01, -128, I8), (0.9, 5, I8)),
    ((0.01, 255, U8), (2.0, 255, U8), (0.00005, 0, U8)),
])  # fmt: skip
def test_all_quotients(x: Q, y: Q, out: Q) -> None:
    off = steps_off("Div", x, y, out)
    zero = np.arange(256) == x[1] - np.iinfo(x[2]).min, np.arange(256) == y[1] - np.iinfo(y[2]).min
    off[np.ix_(*zero)] = 0  # onnxruntime makes the lowest code of NaN
    assert off.max() <= 1.001


@pytest.mark.parametrize("x, y, out", [
    ((0.02, 0, U8), (0.02, 128, U8), (0.1, 0, U8)),
    ((0.01, 0, U8), (0.03, 0, U8), (0.4, 0, U8)),
    ((0.2, -128, I8), (0.02, -30, I8), (30.0, -128, I8)),
    ((0.004, 0, U8), (0.05, 20, U8), (0.01, 7, U8)),
])  # fmt: skip
def test_all_powers(x: Q, y: Q, out: Q) -> None:
    assert steps_off("Pow", x, y, out).max() <= 1.001


@pytest.mark.parametrize("op, x, y, reason", [
    ("Pow", (0.02, 1, U8), (0.02, 0, U8), "only of numbers that cannot be negative"),
    ("Pow", (0.02, 0, U8), (5.0, 0, U8), "steps off"),
])  # fmt: skip
def test_what_is_refused(op: str, x: Q, y: Q, reason: str) -> None:
    program = compile_model(quantised(op, x, y, (0.1, 0, U8))[0], "ommatid-256")
    assert reason in "".join(r for p in program.partitions for r in p.reasons)
