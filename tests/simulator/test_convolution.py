"""``conv``: exact where its sums are largest; with requantisation, onnxruntime's bits over random shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ommatid.isa.target import load_target
from ommatid.isa.weights import pack_weights
from ommatid.simulator.kernels.multiply import available
from tests.simulator.builder import Scene, put

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("path", available())
@pytest.mark.parametrize("cin", [360, 513])
@pytest.mark.parametrize("value", [0, 255])
def test_conv_is_exact_at_the_limits_of_the_sums(value: int, cin: int, path: str) -> None:
    scene = Scene(0)
    weights = np.full((2, 3, 3, cin), -128, np.int8)
    weights[1, 0, 0, 0] = -127  # makes the sum odd
    src, index = scene.image("src", 3, 3, cin, dense=True)
    scene.sram[index] = value
    acc, where = scene.accumulators(1, 2)
    machine = scene.run(
        "conv", path, **src, **acc, in_h=3, in_w=3, kh=3, kw=3, cin=cin, cout=2, row_mode=1, src_zero=255 - value,
        weights_type=1,
        weights=scene.put(pack_weights(weights, True, scene.target), 16),
    )  # fmt: skip
    centred = 2 * value - 255
    want = weights.astype(np.int64).sum(axis=(1, 2, 3)) * centred
    np.testing.assert_array_equal(machine.acc[0][where[0]], want)


@pytest.mark.parametrize("path", available())
@pytest.mark.parametrize("row_mode", [0, 1])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("value", [-32768, 32767, -1, 255])
def test_sums_of_16_bits_are_exact_and_wrap(
    value: int, dtype: type[np.signedinteger[Any]], row_mode: int, path: str
) -> None:
    """3 x 3 x 15 000 products, more than fit in int32: of each two planes, and of all of a kernel row."""
    scene, cin = Scene(0, replace(load_target(), sram_kib=8192)), 15_000
    weights = np.full((2, 3, 3, cin), np.iinfo(dtype).min, dtype)
    weights[1] = np.iinfo(dtype).max
    weights[1, 0, 0, 0] -= 3
    src, index = scene.image("src", 3, 3, cin, dense=True, kind=2)
    put(scene.sram, index, np.array(value), 2)
    acc, where = scene.accumulators(1, 2, 8)
    held = scene.acc.view(np.int64)
    held[where] = np.int64(1) << 46  # its upper 16 bits do not count
    held[where[0, 0]] |= np.int64(5) << 50
    machine = scene.run(
        "conv", path, **src, **acc, in_h=3, in_w=3, kh=3, kw=3, cin=cin, cout=2, row_mode=row_mode, src_type=2,
        weights_type=1 if dtype == np.int8 else 2, accumulate=1,
        weights=scene.put(pack_weights(weights, row_mode == 1, scene.target), 16),
    )  # fmt: skip
    want = weights.astype(np.int64).sum(axis=(1, 2, 3)) * value + 2**46
    np.testing.assert_array_equal(machine.acc[0].view(np.int64)[where[0]], (want + 2**47) % 2**48 - 2**47)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    """Fields of a window with symmetric padding, and the size of an input that it just covers."""
    names = ("stride_h", "stride_w", "dilation_h", "dilation_w")
    f = {name: draw(st.integers(1, 3)) for name in names}
    f |= {name: draw(st.integers(1, 4)) for name in ("kh", "kw", "out_h", "out_w")}
    for size, k, out, pad, d in (
        ("in_h", "kh", "out_h", "pad_top", "h"),
        ("in_w", "kw", "out_w", "pad_left", "w"),
    ):
        span = (f[out] - 1) * f[f"stride_{d}"] + (f[k] - 1) * f[f"dilation_{d}"] + 1
        f[pad] = draw(st.integers(0, min(3, (span - 1) // 2)))
        f[size] = span - 2 * f[pad]
    return f


def qlinear_conv(x: Array, weights: Array, bias: Array, scales: Any, zeros: Any, f: dict[str, int]) -> Array:
    """onnxruntime's QLinearConv of x [h, w, cin] by weights [cout, kh, kw, cin]: [out_h, out_w, cout]."""
    zero = np.array(zeros).astype(x.dtype)
    constants = {
        "xs": scales[0], "xz": zero[0], "w": weights.transpose(0, 3, 1, 2), "ws": scales[1],
        "wz": np.zeros(len(weights), np.int8), "ys": scales[2], "yz": zero[1], "b": bias,
    }  # fmt: skip
    node = helper.make_node(
        "QLinearConv", ["x", *constants], ["y"], strides=[f["stride_h"], f["stride_w"]],
        dilations=[f["dilation_h"], f["dilation_w"]], pads=[f["pad_top"], f["pad_left"]] * 2,
    )  # fmt: skip
    feed = np.ascontiguousarray(x.transpose(2, 0, 1)[None])
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    info = [
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", feed.shape), ("y", None))
    ]
    held = [
        numpy_helper.from_array(np.ascontiguousarray(v).reshape(np.shape(v)), n) for n, v in constants.items()
    ]
    graph = helper.make_graph([node], "conv", info[:1], info[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": feed})[0])[0].transpose(1, 2, 0)


@pytest.mark.parametrize("path", available())
@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    windows(), st.sampled_from([1, 3, 17, 360]), st.sampled_from([1, 3, 16, 17]), st.sampled_from(["uint8", "int8"]),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_conv_and_map_equal_onnxruntime(
    path: str, f: dict[str, int], cin: int, cout: int, dtype: str, row_mode: bool, seed: int
) -> None:
    scene, kind = Scene(seed), int(dtype == "int8")
    rng, row_mode = scene.rng, row_mode and f["dilation_w"] == 1
    src, at = scene.image("src", f["in_h"], f["in_w"], cin, dense=row_mode)
    weights = rng.integers(-63, 64, (cout, f["kh"], f["kw"], cin), np.int8)  # no CPU's pairwise sums saturate
    bias = rng.integers(-(2**12), 2**12, cout, np.int32)
    zeros = rng.integers(-128 * kind, 256 - 128 * kind, 2)
    x_scale, w_scale = np.float32(rng.uniform(0.001, 0.1)), rng.uniform(0.001, 0.01, cout).astype(np.float32)
    y_scale = np.float32(x_scale * 0.005 * 80 * (cin * f["kh"] * f["kw"]) ** 0.5)
    acc, _ = scene.accumulators(f["out_h"] * f["out_w"], cout)
    scene.acc[:] = scene.run(
        "conv", path, **f, **src, **acc, cin=cin, cout=cout, src_type=kind, src_zero=zeros[0], row_mode=int(row_mode),
        weights_type=1,
        weights=scene.put(pack_weights(weights, row_mode, scene.target), 16),
    ).acc[0]  # fmt: skip
    dst, to = scene.image("dst", f["out_h"], f["out_w"], cout)
    multiplier = (x_scale * w_scale) / y_scale
    machine = scene.run(
        "map", h=f["out_h"], w=f["out_w"], c=cout, source=1, src=acc["acc"], src_pixel=acc["acc_pixel"],
        src_row=acc["acc_pixel"] * f["out_w"], mid_type=kind, mid_zero=zeros[1],
        parameters=scene.put(np.concatenate([bias, multiplier.view(np.int32)]), 4), **dst,
    )  # fmt: skip
    want = qlinear_conv(scene.sram[at].view(dtype), weights, bias, (x_scale, w_scale, y_scale), zeros, f)
    np.testing.assert_array_equal(machine.sram[0][to].view(dtype), want)
