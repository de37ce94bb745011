"""Quantised weights of convolutions: as which int8 codes they are taken, and when their sums do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ommatid.compiler.front import FrontOptions, build_network, check_nodes
from ommatid.compiler.layers import Conv
from tests.compiler.test_wide import Qdq

Array = np.ndarray[Any, Any]
F32 = np.float32


def convolution(codes: Array, zero: Array | None, bias: Array | None = None) -> Any:
    """A QDQ model of a convolution of one pixel by these codes [cout, cin] with one scale, bias in steps of its sums."""
    g = Qdq()
    x = g.quantised(g.input("x", (1, codes.shape[1], 1, 1)), 1.0, "uint8")
    parts = [g.constant("w_q", codes[:, :, None, None]), g.constant("w_scale", np.array(1, F32))]
    parts += [] if zero is None else [g.constant("w_zero", zero)]
    inputs = [x, g.op("DequantizeLinear", parts, "w")]
    inputs += [] if bias is None else [g.constant("b", bias.astype(F32))]
    g.quantised(g.op("Conv", inputs, "y"), 1e7, "uint8")
    return g.model("y_dq")


@pytest.mark.parametrize(
    "dtype, zero", [("int8", None), ("int8", 0), ("int8", 3), ("uint8", None), ("uint8", 128)]
)
def test_weights_are_codes_less_their_zero_point(dtype: str, zero: int | None) -> None:
    codes = np.array([[0, 1, 127], [100, 64, 5]], dtype)
    point = None if zero is None else np.array(zero, dtype)
    network = build_network(convolution(codes, point), FrontOptions())
    (made,) = [layer.operation for stage in network.stages for layer in stage.layers]
    assert isinstance(made, Conv) and made.weights.dtype == np.int8
    np.testing.assert_array_equal(made.weights.reshape(2, 3), codes.astype(int) - (zero or 0))


@pytest.mark.parametrize("codes, dtype, zero", [(128, "uint8", None), (255, "uint8", 100), (-128, "int8", 3)])
def test_weights_that_do_not_fit_int8(codes: int, dtype: str, zero: int | None) -> None:
    point = None if zero is None else np.array(zero, dtype)
    assert "do not fit int8" in refused(convolution(np.array([[codes, 1]], dtype), point))


@pytest.mark.parametrize("inner, weight, bias, fits", [
    (66_000, 127, 0, True), (66_400, 127, 0, False), (66_400, -127, 0, False), (66_400, 126, 0, True),
    (60_000, 127, 2e8, True), (60_000, 127, 3e8, False), (60_000, -127, -3e8, False), (60_000, -127, 3e8, True),
])  # fmt: skip
def test_sums_of_32_bits_cannot_overflow(inner: int, weight: int, bias: float, fits: bool) -> None:
    """inner * 255 * weight + bias within int32, or the host computes it."""
    assert (abs(inner * 255 * weight + bias) < 2**31) == fits
    model = convolution(np.full((1, inner), weight, np.int8), np.array(0, np.int8), np.array([bias]))
    assert ("the int32 accumulator of output channel 0 could overflow" in refused(model)) != fits


def refused(model: Any) -> str:
    """Why the convolution runs on the host; empty: it does not."""
    return "; ".join(row.rule for row in check_nodes(model, FrontOptions())[0] if row.placement == "cpu")
