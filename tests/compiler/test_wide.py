"""Activations of 16 bits in QDQ models: integers as written here plainly, conversions, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ommatid.compiler import tables
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.regions import MOST_STEPS_OFF
from ommatid.isa.program import Program, Quantization
from ommatid.isa.verifier import verify
from ommatid.runtime.host import quantize
from ommatid.runtime.session import InferenceSession

Array = np.ndarray[Any, Any]
F32 = np.float32
TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}


class Qdq:
    """A QDQ model in the making: ``quantised`` follows a real value by QuantizeLinear and DequantizeLinear."""

    def __init__(self, opset: int = 21, domain: str = "") -> None:
        self.opset, self.domain = opset, domain
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, Sequence[int]] = {}

    def input(self, name: str, shape: Sequence[int]) -> str:
        self.inputs[name] = shape
        return name

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], f"{kind} {output}", **attributes))
        return output

    def quantised(self, name: str, scale: float, dtype: str, zero: int = 0) -> str:
        scales = [
            self.constant(f"{name}_scale", np.array(scale, F32)), self.constant(f"{name}_zero", np.array(zero, dtype)),
        ]  # fmt: skip
        self.op("QuantizeLinear", [name, *scales], f"{name}_q")
        return self.op("DequantizeLinear", [f"{name}_q", *scales], f"{name}_dq")

    def weights(self, name: str, values: Array, scales: Array) -> str:
        """int8 [cout, ...] by channel."""
        self.constant(f"{name}_q", values)
        parts = [
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero", np.zeros(len(scales), np.int8)),
        ]
        return self.op("DequantizeLinear", [f"{name}_q", *parts], name, axis=0)

    def model(self, *outputs: str) -> onnx.ModelProto:
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                node.domain = self.domain
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def on_npu(model: onnx.ModelProto, optimize: int = 2, **options: Any) -> Program:
    """The program, all of it on the NPU."""
    program = compile_model(model, optimize=optimize, **options)
    assert [p.placement for p in program.partitions] == ["npu"], [p.reasons for p in program.partitions]
    assert verify(program) == []
    return program


def reasons(model: onnx.ModelProto) -> list[str]:
    """Why nodes run on the CPU; what they compute is right all the same."""
    program = compile_model(model)
    return [reason for p in program.partitions for reason in p.reasons]


def codes(program: Program, feeds: dict[str, Array], scale: float) -> Array:
    """The codes of the only output."""
    (y,) = InferenceSession(program).run(None, feeds)
    return np.rint(np.asarray(y, np.float64) / float(F32(scale))).astype(np.int64)


def requantised(total: Array, multiplier: Array, low: int = -32768, high: int = 32767) -> Array:
    """Sums (int64) as codes: one float32 product, clamped, rounded half to even."""
    t = total.astype(F32) * multiplier.astype(F32)
    return np.rint(np.clip(t, F32(low), F32(high))).astype(np.int64)


def q16(real: Array, scale: float) -> Array:
    return quantize(real, Quantization(scale, 0, "int16")).astype(np.int64)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("optimize", [0, 2])
@pytest.mark.parametrize("group", [1, 8])
def test_a_convolution_is_its_integers(group: int, optimize: int) -> None:
    x = RNG.normal(0, 1, (1, 8, 9, 10)).astype(F32)
    weights = RNG.integers(-128, 128, (16 if group == 1 else 8, 8 // group, 3, 3)).astype(np.int8)
    scales = RNG.uniform(0.001, 0.01, len(weights)).astype(F32)
    bias = RNG.integers(-(2**21), 2**21, len(weights)).astype(np.int32)
    s_x, s_y = float(F32(1.1e-4)), float(F32(4e-4))
    g = Qdq()
    inputs = [g.quantised(g.input("x", x.shape), s_x, "int16"), g.weights("w", weights, scales)]
    g.constant("b", (bias * (F32(s_x) * scales).astype(np.float64)).astype(F32))
    g.quantised(g.op("Conv", [*inputs, "b"], "y", pads=[1] * 4, group=group), s_y, "int16")
    found = codes(on_npu(g.model("y_dq"), optimize), {"x": x}, s_y)
    padded = np.pad(q16(x, s_x), [(0, 0), (0, 0), (1, 1), (1, 1)])[0]
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # [c, h, w, 3, 3]
    wide = weights.astype(np.int64)
    sums = "chwij,ocij->ohw" if group == 1 else "chwij,cij->chw"
    total = np.einsum(sums, views, wide if group == 1 else wide[:, 0])
    rounded = np.rint(g.constants["b"].astype(np.float64) / (F32(s_x) * scales).astype(np.float64)).astype(
        np.int64
    )
    multiplier = (F32(s_x) * scales).astype(F32) / F32(s_y)
    wanted = requantised(total + rounded[:, None, None], multiplier[:, None, None])
    assert len(np.unique(wanted)) > 500 and abs(total).max() > 2**22
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize(
    "left, right", [("int16", "int16"), ("int16", "int8"), ("uint8", "int16"), ("int8", "uint8")]
)
@pytest.mark.parametrize("out", ["int16", "int8"])
def test_a_product_of_activations_is_its_integers(left: str, right: str, out: str) -> None:
    shapes = {"a": (3, 20, 33), "b": (3, 33, 17)}
    kinds, zeros = {"a": left, "b": right}, {"uint8": 131, "int8": -7, "int16": 0}
    step = {"uint8": 0.03, "int8": 0.03, "int16": 1.3e-4}
    feeds = {name: RNG.normal(0, 1, shape).astype(F32) for name, shape in shapes.items()}
    s_y = float(F32(step[out] * 4))
    g = Qdq()
    names = [g.quantised(g.input(n, s), step[kinds[n]], kinds[n], zeros[kinds[n]]) for n, s in shapes.items()]
    g.quantised(g.op("MatMul", names, "y"), s_y, out)
    found = codes(on_npu(g.model("y_dq")), feeds, s_y)
    a, b = (
        quantize(feeds[n], Quantization(float(F32(step[k])), zeros[k], k)).astype(np.int64) - zeros[k]
        for n, k in kinds.items()
    )
    multiplier = F32(F32(step[left]) * F32(step[right])) / F32(s_y)
    info = np.iinfo(out)
    np.testing.assert_array_equal(found, requantised(a @ b, np.asarray(multiplier), info.min, info.max))


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub"])
def test_pairs_are_their_integers(op: str) -> None:
    shape = (1, 6, 5, 7)
    feeds = {n: RNG.normal(0, 1, shape).astype(F32) for n in "ab"}
    scales = {"a": 1.2e-4, "b": 0.9e-4, "y": 3.1e-4}
    g = Qdq()
    names = [g.quantised(g.input(n, shape), scales[n], "int16") for n in "ab"]
    g.quantised(g.op(op, names, "y"), scales["y"], "int16")
    found = codes(on_npu(g.model("y_dq")), feeds, scales["y"])
    a, b = (q16(feeds[n], float(F32(scales[n]))) for n in "ab")
    s = {n: F32(v) for n, v in scales.items()}
    if op == "Mul":
        wanted = requantised(a * b, np.asarray(F32(s["a"] * s["b"]) / s["y"]))
    else:
        r_b = s["b"] / s["y"] * (1 if op == "Add" else -1)
        inner = (b.astype(np.float64) * r_b).astype(F32)  # exact in float64, so rounded once
        t = (a.astype(np.float64) * (s["a"] / s["y"]) + inner.astype(np.float64)).astype(F32)
        wanted = np.rint(np.clip(t, F32(-32768), F32(32767))).astype(np.int64)
    assert abs(found - wanted).max() <= (op != "Mul")  # the sum in float64 is rounded once more
    assert (found == wanted).mean() > 0.999


@pytest.mark.parametrize("optimize", [0, 2])
def test_a_function_is_its_interpolated_table(optimize: int) -> None:
    x = RNG.uniform(-8, 8, (1, 3, 40, 40)).astype(F32)
    s_x, s_y = float(F32(8 / 32767)), float(F32(1 / 32767))
    g = Qdq()
    g.quantised(g.op("Sigmoid", [g.quantised(g.input("x", x.shape), s_x, "int16")], "y"), s_y, "int16")
    found = codes(on_npu(g.model("y_dq"), optimize), {"x": x}, s_y)
    entries = np.rint(1 / (1 + np.exp(-s_x * np.arange(-32768, 32769, 128.0))) / s_y).astype(np.int64)
    u = q16(x, s_x) + 32768
    low, high, fraction = entries[u >> 7], entries[(u >> 7) + 1], u & 127
    np.testing.assert_array_equal(found, low + (((high - low) * fraction + 64) >> 7))
    assert abs(found - 1 / (1 + np.exp(-x.astype(np.float64))) / s_y).max() < 2


@pytest.mark.parametrize(
    "first, second", [("int8", "int16"), ("int16", "int8"), ("uint8", "int16"), ("int16", "int16")]
)
def test_a_change_of_type_is_one_rounding(first: str, second: str) -> None:
    zeros = {"int8": 5, "uint8": 120, "int16": 0}
    scales = {"int8": 0.05, "uint8": 0.04, "int16": 1.7e-4}
    x = RNG.normal(0, 2, (1, 5, 30, 30)).astype(F32)
    s_x, s_y = scales[first], scales[second] * (1 if first != second else 0.7)
    g = Qdq()
    g.quantised(g.quantised(g.input("x", x.shape), s_x, first, zeros[first]), s_y, second, zeros[second])
    found = codes(on_npu(g.model("x_dq_dq")), {"x": x}, s_y)
    given = quantize(x, Quantization(float(F32(s_x)), zeros[first], first)).astype(np.float64) - zeros[first]
    info = np.iinfo(second)
    exact = given * float(F32(s_x)) / float(F32(s_y))
    wanted = np.clip(np.rint(exact), info.min - zeros[second], info.max - zeros[second])
    tie = abs(exact - np.floor(exact) - 0.5) < 2e-3  # the factor is a float32
    np.testing.assert_array_equal(found[~tie], wanted[~tie])
    assert abs(found - wanted).max() <= 1 and len(np.unique(found)) > 100


def test_8_and_16_bits_in_one_network() -> None:
    """int8 to a convolution, its result of 16 bits, a function to 8 bits, and a sum of both."""
    x = RNG.normal(0, 1, (1, 4, 12, 12)).astype(F32)
    weights = RNG.integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    g = Qdq()
    a = g.quantised(g.input("x", x.shape), 0.03, "int8", 3)
    g.op("Conv", [a, g.weights("w", weights, np.full(4, 0.003, F32))], "c", pads=[1] * 4)
    c = g.quantised("c", 4e-4, "int16")
    t = g.quantised(g.op("Tanh", [c], "t"), 1 / 127, "int8")
    g.quantised(g.op("Add", [c, t], "y"), 4e-4, "int16")
    model = g.model("y_dq")
    found = InferenceSession(on_npu(model)).run(None, {"x": x})[0]
    apart = InferenceSession(on_npu(model, 0)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, apart)
    import onnxruntime

    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert abs(found - wanted).max() <= 1 / 127 + 2 * 4e-4  # a tie of the 8-bit tensor may fall either way
    assert (abs(found - wanted) <= 1.01 * 4e-4).mean() > 0.97


@pytest.mark.parametrize("opset, domain", [(21, ""), (17, "com.microsoft"), (21, "com.microsoft")])
def test_quantisers_of_either_domain(opset: int, domain: str) -> None:
    x = RNG.normal(0, 1, (1, 3, 6, 6)).astype(F32)
    g = Qdq(opset, domain)
    a = g.quantised(g.input("x", x.shape), 1e-4, "int16")
    g.quantised(g.op("MaxPool", [a], "y", kernel_shape=[2, 2]), 1e-4, "int16")
    found = codes(on_npu(g.model("y_dq")), {"x": x}, 1e-4)
    views = np.lib.stride_tricks.sliding_window_view(q16(x, float(F32(1e-4))), (2, 2), (2, 3))
    np.testing.assert_array_equal(found, views.max(axis=(4, 5)))


@pytest.mark.parametrize("opset, domain", [(21, ""), (17, "com.microsoft")])
def test_a_part_on_the_host_reads_and_writes_16_bits(opset: int, domain: str) -> None:
    x = RNG.normal(0, 1, (1, 3, 6, 6)).astype(F32)
    g = Qdq(opset, domain)
    a = g.quantised(g.op("Relu", [g.quantised(g.input("x", x.shape), 1e-4, "int16")], "r"), 1e-4, "int16")
    moved = g.op("Transpose", [a], "t", perm=[0, 2, 3, 1])
    f = g.quantised(g.op("Floor", [moved], "f"), 1e-4, "int16")
    g.quantised(g.op("Relu", [f], "y"), 1e-4, "int16")
    program = compile_model(g.model("y_dq"))
    assert [p.placement for p in program.partitions] == ["npu", "cpu", "npu"]
    assert any("interpolation between 512 numbers" in reason for reason in program.partitions[1].reasons)
    (found,) = InferenceSession(program).run(None, {"x": x})
    real = np.maximum(q16(x, float(F32(1e-4))), 0).transpose(0, 2, 3, 1) * np.float64(F32(1e-4))
    np.testing.assert_allclose(found, q16(np.floor(real).astype(F32), float(F32(1e-4))) * 1e-4, atol=1e-7)


def small(kind: Callable[[Qdq, str], str], dtype: str = "int16", zero: int = 0) -> onnx.ModelProto:
    """A model of one operator of an input of 16 bits."""
    g = Qdq()
    result = kind(g, g.quantised(g.input("x", (1, 4, 5, 5)), 1e-3, dtype, zero))
    g.quantised(result, 1e-3, dtype, zero)
    return g.model(f"{result}_dq")


def test_what_is_refused() -> None:
    def relu(g: Qdq, x: str) -> str:
        return g.op("Relu", [x], "y")

    assert "activations of type int16 with zero point 7: only 0" in reasons(small(relu, zero=7))
    assert any("activations of type uint16 are not supported" in r for r in reasons(small(relu, "uint16")))
    stepped = reasons(small(lambda g, x: g.op("Floor", [x], "y")))
    assert any("interpolation between 512 numbers of 16 bits is" in r for r in stepped)

    def compared(g: Qdq, x: str) -> str:
        g.op("Greater", [x, g.constant("half", np.array(0.5, F32))], "more")
        other = g.quantised(g.input("z", (1, 4, 5, 5)), 1e-3, "int16")
        return g.op("Where", ["more", x, other], "y")

    assert any("a comparison of 16-bit numbers" in r for r in reasons(small(compared)))


@pytest.mark.parametrize("inner, fits", [(65_000, True), (131_073, False)])
def test_accumulators_of_48_bits_cannot_overflow(inner: int, fits: bool) -> None:
    """inner * 32768 * 32768 below 2 ** 47, or the host computes it."""
    g = Qdq()
    names = [g.quantised(g.input(n, s), 1e-4, "int16") for n, s in (("a", (2, inner)), ("b", (inner, 3)))]
    g.quantised(g.op("MatMul", names, "y"), 0.1, "int16")
    found = reasons(g.model("y_dq"))
    assert any("the int48 accumulator could overflow" in reason for reason in found) != fits


def test_interpolation_is_judged_between_entries() -> None:
    q = Quantization(1e-4, 0, "int16")
    at = tables.codes(q)
    smooth = tables.to_codes(np.sin(tables.real(at, q)), q)
    assert tables.steps_off(lambda c: np.sin(tables.real(c, q)), smooth, q) < 2
    kink = tables.to_codes(np.maximum(tables.real(at, q), 64e-4), q)
    off = tables.steps_off(lambda c: np.maximum(tables.real(c, q), 64e-4), kink, q)
    assert off == pytest.approx(32) and off < MOST_STEPS_OFF


def test_tables_compose_where_bytes_come_first() -> None:
    eight, sixteen = Quantization(0.1, 3, "int8"), Quantization(1e-3, 0, "int16")
    wide = tables.to_codes(tables.real(tables.codes(eight), eight), sixteen)
    halved = tables.to_codes(tables.real(tables.codes(sixteen), sixteen) / 2, sixteen)
    both = tables.then(wide, halved)
    assert both is not None and tables.number(both) == 2
    np.testing.assert_array_equal(both, tables.look_up(halved, wide))
    assert tables.then(halved, halved) is None and tables.number(halved) == 3
