"""Normalisations that exporters spell out become one operator, with its scale and shift, over any axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, canonical_nodes, operators, reasons, swapped

RNG = np.random.default_rng(0)
X = {"x": [2, 3, 4, 5]}
CONSTANTS = {
    "two": 2.0, "half": 0.5, "minus_half": -0.5, "one": 1.0, "eps": 1e-5, "negative": -1e-5, "epsilons": np.full(5, 1e-5),
    "scale": RNG.standard_normal(5), "shift": RNG.standard_normal(5), "number": 1.5,
    "scale_c": RNG.standard_normal((3, 1, 1)), "shift_c": RNG.standard_normal((1, 3, 1, 1)),
    "scale_h": RNG.standard_normal((4, 1)), "each": RNG.standard_normal((4, 5)),
}  # fmt: skip
LAYER = """m = ReduceMean <axes=[-1]> (x)
c = Sub(x, m)
q = Pow(c, two)
v = ReduceMean <axes=[-1]> (q)
e = Add(v, eps)
d = Sqrt(e)
"""
RMS = LAYER.split("\n", 2)[2].replace("c,", "x,")
CHANNELS = LAYER.replace("[-1]", "[1]")


@pytest.mark.parametrize("text", [
    LAYER + "y = Div(c, d)",
    LAYER.replace("Pow(c, two)", "Mul(c, c)") + "y = Div(c, d)",
    LAYER.replace("Sqrt(e)", "Pow(e, half)") + "y = Div(c, d)",
    LAYER + "i = Reciprocal(d)\ny = Mul(c, i)",
    LAYER + "i = Div(one, d)\ny = Mul(c, i)",
    LAYER.replace("d = Sqrt(e)\n", "") + "i = Pow(e, minus_half)\ny = Mul(c, i)",
    LAYER.replace("x,", "f,").replace("(x)", "(f)").replace("m =", "f = Cast <to=1> (x)\nm =", 1) + "y = Div(c, d)",
    LAYER + "n = Div(c, d)\ny = Mul(n, scale)",
    LAYER + "n = Div(c, d)\ns = Mul(scale, n)\ny = Add(s, shift)",
    LAYER + "n = Div(c, d)\ns = Add(n, shift)\ny = Mul(s, scale)",
    LAYER + "n = Div(c, d)\ns = Mul(n, number)\ny = Add(s, number)",
    LAYER.replace("[-1]", "[2, 3]") + "n = Div(c, d)\ns = Mul(n, each)\ny = Add(s, shift)",
])  # fmt: skip
def test_layer_norm(text: str) -> None:
    for nodes in swapped(text):
        proto = canonical_nodes(nodes, X, CONSTANTS, 17, "y")
        found = [op for op in operators(proto) if op != "Reshape"]  # around one over several axes
        assert found == ["LayerNormalization"] and proto.opset_import[0].version == 17


@pytest.mark.parametrize("text", [
    CHANNELS + "y = Div(c, d)",
    CHANNELS + "n = Div(c, d)\ns = Mul(n, scale_c)\ny = Add(s, shift_c)",
    CHANNELS + "n = Div(c, d)\ns = Mul(n, number)\ny = Add(s, shift_c)",
])  # fmt: skip
def test_over_the_channels_of_an_image(text: str) -> None:
    for nodes in swapped(text):
        assert operators(canonical_nodes(nodes, X, CONSTANTS, 17, "y")) == [
            "Transpose",
            "LayerNormalization",
            "Transpose",
        ]


def test_transposes_around_meet() -> None:
    """ConvNeXt: channels last for the normalisation, and back."""
    inner = LAYER.replace("x,", "t,").replace("(x)", "(t)")
    text = (
        f"t = Transpose <perm=[0, 2, 3, 1]> (x)\n{inner}n = Div(c, d)\ny = Transpose <perm=[0, 3, 1, 2]> (n)"
    )
    assert operators(canonical(text, X, CONSTANTS)) == ["Transpose", "LayerNormalization", "Transpose"]
    text = f"{CHANNELS}n = Div(c, d)\ny = Transpose <perm=[0, 2, 3, 1]> (n)"
    assert operators(canonical(text, X, CONSTANTS)) == ["Transpose", "LayerNormalization"]


@pytest.mark.parametrize("text", [
    RMS + "y = Div(x, d)",
    RMS.replace("Pow(x, two)", "Mul(x, x)") + "i = Reciprocal(d)\ny = Mul(x, i)",
    RMS + "i = Div(one, d)\ny = Mul(x, i)",
    RMS + "n = Div(x, d)\ny = Mul(scale, n)",
])  # fmt: skip
def test_rms_norm(text: str) -> None:
    for nodes in swapped(text):
        proto = canonical_nodes(nodes, X, CONSTANTS, 17, "y")
        assert operators(proto) == ["RMSNormalization"] and proto.opset_import[0].version == 23


def test_a_shift_is_not_part_of_rms_norm() -> None:
    assert operators(canonical(RMS + "n = Div(x, d)\ny = Add(n, shift)", X, CONSTANTS)) == [
        "RMSNormalization",
        "Add",
    ]


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_axes_as_attribute_and_as_input(opset: int) -> None:
    text = LAYER + "y = Div(c, d)"
    if opset >= 18:
        text = text.replace(" <axes=[-1]> (x)", "(x, last)").replace(" <axes=[-1]> (q)", "(q, last)")
    assert operators(canonical(text, X, CONSTANTS | {"last": np.array([-1])}, opset)) == [
        "LayerNormalization"
    ]


@pytest.mark.parametrize("text, outputs, rule, reason", [
    (LAYER.replace("[-1]", "[2]", 1) + "y = Div(c, d)", "y", "", ""),
    (LAYER.replace("[-1]", "[1, 2]") + "y = Div(c, d)", "y", "layer_norm", "axes [1, 2] are neither one nor the last"),
    (LAYER.replace("v, eps", "v, epsilons") + "y = Div(c, d)", "y", "layer_norm", "constant_epsilon has 5 elements, not one"),
    (LAYER.replace("e = Add(v, eps)\nd = Sqrt(e)", "e = Sqrt(v)\nd = Add(e, eps)") + "y = Div(c, d)", "y", "", ""),
    (LAYER + "y = Div(c, d)\nz = Relu(d)", "y z", "layer_norm", "the result of 'n_d' (Sqrt) is also read by 'n_z'"),
    (LAYER + "y = Div(c, d)", "y m", "", ""),
    (LAYER + "y = Div(x, d)", "y", "", ""),
    (LAYER.replace("Pow(c, two)", "Abs(c)") + "y = Div(c, d)", "y", "layer_norm", "'n_q' (Abs) is not Pow or Mul"),
])  # fmt: skip
def test_near_misses(
    text: str, outputs: str, rule: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    found = operators(canonical(text, X, CONSTANTS, outputs=outputs))
    assert "LayerNormalization" not in found  # of what is centred already, it may be RMSNormalization
    assert not rule or reason in reasons(capsys.readouterr().err, rule)


@pytest.mark.parametrize(
    "last, rule", [("Mul(n, scale_h)", "scaled_norm"), ("Add(n, scale_h)", "shifted_norm")]
)
def test_a_constant_over_another_axis_stays(
    last: str, rule: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    found = operators(canonical(LAYER + f"n = Div(c, d)\ny = {last}", X, CONSTANTS))
    assert found == ["LayerNormalization", last[:3]]
    reason = "a constant of shape [4, 1] is not one number for each of the axes normalised"
    assert reasons(capsys.readouterr().err, rule) == [reason]


def test_a_scale_of_what_is_read_elsewhere_stays() -> None:
    text = LAYER + "n = Div(c, d)\ny = Mul(n, scale)\nz = Relu(n)"
    assert operators(canonical(text, X, CONSTANTS, outputs="y z")) == ["LayerNormalization", "Mul", "Relu"]
