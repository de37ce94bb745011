"""The scale of attention goes into the projections; where it cannot, it stays and the reason is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, canonical_nodes, operators, reasons, swapped

RNG = np.random.default_rng(0)
X = {"x": [1, 6, 8]}
CONSTANTS: dict[str, Any] = {
    "w": RNG.standard_normal((8, 24)), "b": RNG.standard_normal(24), "scale": 0.3, "root": [0.6], "three": 3.0,
    "vector": RNG.standard_normal(24), "mask": RNG.standard_normal((1, 1, 6, 6)),
    "split": np.array([1, 6, 3, 2, 4]), "i0": np.array(0), "i1": np.array(1), "i2": np.array(2), "parts": np.array([8] * 3),
    "heads": np.array([1, 6, 2, 4]), "sizes": np.array([1, 6, 8]),
}  # fmt: skip
QKV = "p = MatMul(x, w)\np2 = Add(b, p)\n"
GATHERED = (
    QKV
    + """r = Reshape(p2, split)
t = Transpose <perm=[2, 0, 3, 1, 4]> (r)
q = Gather <axis=0> (t, i0)
k = Gather <axis=0> (t, i1)
v = Gather <axis=0> (t, i2)
kt = Transpose <perm=[0, 1, 3, 2]> (k)
"""
)
SPLIT = (
    QKV
    + """q0, k0, v0 = Split <axis=2> (p2, parts)
q1 = Reshape(q0, heads)
k1 = Reshape(k0, heads)
v1 = Reshape(v0, heads)
q = Transpose <perm=[0, 2, 1, 3]> (q1)
kt = Transpose <perm=[0, 2, 3, 1]> (k1)
v = Transpose <perm=[0, 2, 1, 3]> (v1)
"""
)
END = "u = Softmax(m)\ny = MatMul(u, v)"


@pytest.mark.parametrize("begin", [GATHERED, SPLIT])
@pytest.mark.parametrize("scores", [
    "s = Mul(q, scale)\nm = MatMul(s, kt)\n",
    "s = Mul(kt, scale)\nm = MatMul(q, s)\n",
    "s = Mul(q, root)\ns2 = Mul(kt, root)\nm = MatMul(s, s2)\n",
    "s = Div(q, three)\nm = MatMul(s, kt)\n",
    "s = MatMul(q, kt)\nm = Mul(s, scale)\n",
    "s = MatMul(q, kt)\nm = Div(s, three)\n",
    "s = Mul(q, scale)\na = MatMul(s, kt)\nm = Add(a, mask)\n",
])  # fmt: skip
def test_the_scale_goes_into_the_projection(begin: str, scores: str) -> None:
    for nodes in swapped(begin + scores + END):
        found = operators(canonical_nodes(nodes, X, CONSTANTS, 17, "y"))
        assert not {"Mul", "Div"} & set(found)
        assert found.count("Add") == 1 + scores.count("mask")  # the bias, and the mask


def test_layer_scale_goes_into_weights_and_bias() -> None:
    for nodes in swapped(QKV + "y0 = Mul(p2, vector)\ny = Relu(y0)"):
        assert operators(canonical_nodes(nodes, X, CONSTANTS, 17, "y")) == ["MatMul", "Add", "Relu"]


@pytest.mark.parametrize("text, outputs, rule, node, reason", [
    (GATHERED + "s = Mul(q, scale)\nm = MatMul(s, kt)\nz = Relu(q)\n" + END, "y z", "scaled_projection", "n_s",
     "its channels of 'n_p2' (Add) are also read elsewhere"),
    (GATHERED.replace("i1", "i0") + "s = Mul(q, scale)\nm = MatMul(s, kt)\n" + END, "y", "scaled_projection", "n_s",
     "its channels of 'n_p2' (Add) are also read elsewhere"),
    (GATHERED + "s = Mul(q, scale)\nm = MatMul(s, kt)\n" + END, "y p2", "scaled_projection", "n_s",
     "its channels of 'n_p2' (Add) are also read elsewhere"),
    (QKV + "y = Mul(p2, vector)", "y", "scaled_projection", "n_y", "its result is an output of the network"),
])  # fmt: skip
def test_near_misses(
    text: str, outputs: str, rule: str, node: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    assert "Mul" in operators(canonical(text, X, CONSTANTS, outputs=outputs))
    assert reasons(capsys.readouterr().err, rule, node) == [reason]


def test_what_no_linear_layer_makes_stays() -> None:
    text = "s = Mul(x, scale)\nt = Transpose <perm=[0, 2, 1]> (x)\ny = MatMul(s, t)"
    assert operators(canonical(text, X, CONSTANTS)).count("Mul") == 1
