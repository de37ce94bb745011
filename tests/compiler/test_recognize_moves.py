"""Moves that exporters spell out become one operator, and those that move nothing go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, canonical_nodes, operators, reasons, swapped

RNG = np.random.default_rng(0)
X = {"x": [1, 8, 4, 6]}


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)


CONSTANTS: dict[str, Any] = {
    "w": RNG.standard_normal((3, 8, 3, 3)), "w32": RNG.standard_normal((3, 32, 3, 3)), "b": RNG.standard_normal(3),
    "dw": RNG.standard_normal((8, 1, 3, 3)), "channel": RNG.standard_normal(8), "row": RNG.standard_normal((4, 1, 1)),
    "zero": 0.0, "one": 1.0,
    "crd": ints(1, 2, 2, 2, 4, 6), "dcr": ints(1, 2, 2, 2, 4, 6), "up": ints(1, 2, 8, 12), "flat": ints(1, 2, 12, 8),
    "s2d": ints(1, 8, 2, 2, 3, 2), "down": ints(1, 32, 2, 3), "uneven": ints(1, 8, 4, 1, 2, 3),
    "pads": ints(0, 0, 1, 0, 0, 0, 2, 1), "nothing": ints(*[0] * 8), "channels": ints(0, 1, 0, 0, 0, 0, 0, 0),
    "cuts": ints(0, 0, -1, 0, 0, 0, 1, 0), "begin": ints(0), "end": ints(99), "axis": ints(1), "step": ints(1),
    "last": ints(-1), "first": ints(-99), "back": ints(-1), "size": ints(1, 8, 4, 6), "half": ints(4),
}  # fmt: skip
CRD = "a = Reshape(x, crd)\nt = Transpose <perm=[0, 1, 4, 2, 5, 3]> (a)\n"
DCR = "a = Reshape(x, dcr)\nt = Transpose <perm=[0, 3, 4, 1, 5, 2]> (a)\n"
S2D = "a = Reshape(x, s2d)\nt = Transpose <perm=[0, 3, 5, 1, 2, 4]> (a)\n"
UNSHUFFLE = "a = Reshape(x, s2d)\nt = Transpose <perm=[0, 1, 3, 5, 2, 4]> (a)\nr = Reshape(t, down)\n"


@pytest.mark.parametrize("text, result", [
    (CRD + "y = Reshape(t, up)", "DepthToSpace"),
    (DCR + "y = Reshape(t, up)", "DepthToSpace"),
    (S2D + "y = Reshape(t, down)", "SpaceToDepth"),
    (S2D + "r = Reshape(t, down)\ny = Conv <pads=[1, 1, 1, 1]> (r, w32, b)", "Conv"),
    (UNSHUFFLE + "y = Conv <pads=[1, 1, 1, 1], kernel_shape=[3, 3]> (r, w32, b)", "Conv"),
    ("s = SpaceToDepth <blocksize=2> (x)\ny = Conv <pads=[1, 0, 2, 1], strides=[1, 1]> (s, w32)", "Conv"),
    (UNSHUFFLE + "y = Conv <strides=[2, 1], pads=[1, 1, 1, 1]> (r, w32, b)", "Conv"),
    ("a = Transpose <perm=[0, 2, 3, 1]> (x)\ny = Transpose <perm=[0, 2, 1, 3]> (a)", "Transpose"),
    ("a = Transpose <perm=[0, 2, 3, 1]> (x)\nu = Transpose <perm=[0, 3, 1, 2]> (a)\ny = Relu(u)", "Relu"),
    ("r = Relu(x)\na = Transpose(r)\ny = Transpose(a)", "Relu"),
    ("a = Reshape(x, s2d)\ny = Reshape(a, flat)", "Reshape"),
    ("p = Pad(x, pads, zero)\ny = Conv(p, w, b)", "Conv"),
    ("p = Pad(x, pads)\ny = Conv <pads=[1, 2, 0, 1], strides=[2, 2]> (p, w)", "Conv"),
    ("p = Pad(x, pads)\ny = Conv <group=8> (p, dw)", "Conv"),
    ("p = Pad(x, nothing)\ny = Relu(p)", "Relu"),
    ('p = Pad <mode="reflect"> (x, nothing)\ny = Relu(p)', "Relu"),
    ("s = Slice(x, begin, end, axis, step)\ny = Relu(s)", "Relu"),
    ("s = Expand(x, size)\ny = Relu(s)", "Relu"),
    ("c = Cast <to=1> (x)\ny = Relu(c)", "Relu"),
])  # fmt: skip
def test_spellings(text: str, result: str) -> None:
    assert operators(canonical(text, X, CONSTANTS)) == result.split()


@pytest.mark.parametrize("text, mode", [(CRD, b"CRD"), (DCR, b"DCR")])
def test_modes(text: str, mode: bytes) -> None:
    (node,) = canonical(text + "y = Reshape(t, up)", X, CONSTANTS).graph.node
    assert {a.name: a.s or a.i for a in node.attribute} == {"blocksize": 2, "mode": mode}


@pytest.mark.parametrize("op, result", [("Mul", ["Transpose", "Mul"]), ("Add", ["Transpose", "Add"])])
def test_a_constant_over_the_last_axis_stands_behind_the_transpose(op: str, result: list[str]) -> None:
    for nodes in swapped(f"a = {op}(x, channel)\ny = Transpose <perm=[0, 3, 1, 2]> (a)"):
        assert operators(canonical_nodes(nodes, {"x": [1, 4, 6, 8]}, CONSTANTS, 17, "y")) == result


def test_a_normalised_image_in_nhwc() -> None:
    """Keras: what rescales and normalises becomes one function by channel behind the Transpose."""
    text = (
        "a = Mul(x, number)\nb = Sub(a, mean)\nc = Div(b, deviation)\ny = Transpose <perm=[0, 3, 1, 2]> (c)"
    )
    constants = {"number": 1 / 255, "mean": [0.4, 0.5, 0.6], "deviation": [[[[0.2, 0.3, 0.4]]]]}
    assert operators(canonical(text, {"x": [1, 6, 4, 3]}, constants)) == ["Transpose", "BatchNormalization"]


@pytest.mark.parametrize("text, outputs, left, rule, reason", [
    (CRD.replace("0, 1, 4, 2, 5, 3", "0, 1, 4, 3, 5, 2") + "y = Reshape(t, up)", "y", "Reshape Transpose Reshape",
     "pixel_shuffle", "the order [0, 1, 4, 3, 5, 2] is none of a pixel shuffle"),
    (CRD + "y = Reshape(t, flat)", "y", "Reshape Transpose Reshape", "pixel_shuffle", "the result is not of blocks"),
    (S2D.replace("s2d", "uneven") + "y = Reshape(t, size)", "y", "Reshape Transpose Reshape", "pixel_shuffle",
     "the blocks are not square"),
    (CRD + "y = Reshape(t, up)\nz = Relu(t)", "y z", "Reshape Transpose Reshape Relu", "pixel_shuffle",
     "the result of 'n_t' (Transpose) is also read by 'n_z'"),
    ("p = Pad(x, pads, one)\ny = Conv(p, w)", "y", "Pad Conv", "padded_conv", "the padding is not zero"),
    ('p = Pad <mode="edge"> (x, pads)\ny = Conv(p, w)', "y", "Pad Conv", "padded_conv", "the padding is not constant"),
    ("p = Pad(x, cuts)\ny = Conv(p, w)", "y", "Pad Conv", "padded_conv", "a negative padding cuts"),
    ("p = Pad(x, pads)\ny = Conv(p, w)\nz = Relu(p)", "y z", "Pad Conv Relu", "padded_conv",
     "the result of 'n_p' (Pad) is also read by 'n_z'"),
    ('p = Pad(x, pads)\ny = Conv <auto_pad="SAME_UPPER"> (p, w)', "y", "Pad Conv", "padded_conv",
     "the convolution pads by itself"),
    ("s = SpaceToDepth <blocksize=2> (x)\ny = Conv <dilations=[2, 2], pads=[2, 2, 2, 2]> (s, w32)", "y",
     "SpaceToDepth Conv", "blocks_conv", "the convolution is dilated"),
    ("p = Pad(x, cuts)\ny = Relu(p)", "y", "Pad Relu", "", ""),
    ("s = Slice(x, last, first, axis, back)\ny = Relu(s)", "y", "Slice Relu", "", ""),
    ("s = Slice(x, begin, half, axis, step)\ny = Relu(s)", "y", "Slice Relu", "", ""),
])  # fmt: skip
def test_near_misses(
    text: str, outputs: str, left: str, rule: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    assert operators(canonical(text, X, CONSTANTS, outputs=outputs)) == left.split()
    assert not rule or reasons(capsys.readouterr().err, rule) == [reason]


def test_a_grouped_convolution_keeps_its_blocks() -> None:
    constants = CONSTANTS | {"grouped": RNG.standard_normal((4, 16, 1, 1))}
    text = "s = SpaceToDepth <blocksize=2> (x)\ny = Conv <group=2> (s, grouped)"
    assert operators(canonical(text, X, constants)) == ["SpaceToDepth", "Conv"]


def test_another_axis_stays_before_the_transpose() -> None:
    text = "a = Mul(x, row)\ny = Transpose <perm=[0, 3, 1, 2]> (a)"
    assert operators(canonical(text, {"x": [1, 4, 6, 8]}, CONSTANTS)) == ["Mul", "Transpose"]
    text = "a = Mul(x, channel)\ny = Transpose <perm=[0, 3, 2, 1]> (a)"
    assert operators(canonical(text, {"x": [1, 4, 6, 8]}, CONSTANTS)) == ["Mul", "Transpose"]
