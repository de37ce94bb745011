"""Functions that exporters spell out become one operator; what is nearly one does not, and the reason is given."""

from __future__ import annotations

import math

import pytest

from tests.compiler.canonical import canonical, canonical_nodes, operators, reasons, swapped

X = {"x": [2, 3, 5]}
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "zero": 0.0, "six": 6.0, "sixth": [1 / 6],
    "root_two": math.sqrt(2), "root_half": math.sqrt(0.5), "k": math.sqrt(2 / math.pi), "cubic": 0.044715,
    "cube_of": 3.0, "square_of": 2.0, "wide": [[[[1.0]]]], "several": [1 / 6] * 5,
}  # fmt: skip
SWISH = "s = Sigmoid(x)\ny = Mul(x, s)"
SOFTPLUS = "e = Exp(x)\na = Add(e, one)\nl = Log(a)"
MISH = "l = Softplus(x)\nt = Tanh(l)\ny = Mul(x, t)"
RELU6 = "a = Add(x, three)\nc = Clip(a, zero, six)\n"
GELU = "d = Div(x, root_two)\ne = Erf(d)\na = Add(e, one)\n"
CUBE = "c = Pow(x, cube_of)\nm = Mul(c, cubic)\ni = Add(x, m)\nr = Mul(i, k)\nt = Tanh(r)\na = Add(t, one)\n"
SQUARE = "q = Mul(x, x)\nm = Mul(q, cubic)\nw = Mul(x, k)\nu = Add(m, one)\nr = Mul(w, u)\nt = Tanh(r)\na = Add(t, one)\n"


@pytest.mark.parametrize("text, result, opset", [
    (SWISH, "Swish", 24),
    (SOFTPLUS + "\ny = Relu(l)", "Softplus Relu", 17),
    (MISH, "Mish", 18),
    (SOFTPLUS + "\nt = Tanh(l)\ny = Mul(x, t)", "Mish", 18),
    (RELU6 + "y = Div(c, six)", "HardSigmoid", 17),
    (RELU6 + "y = Mul(c, sixth)", "HardSigmoid", 17),
    (RELU6 + "p = Mul(x, c)\ny = Div(p, six)", "HardSwish", 17),
    (RELU6 + "p = Mul(x, c)\ny = Mul(p, sixth)", "HardSwish", 17),
    (RELU6 + "h = Div(c, six)\ny = Mul(x, h)", "HardSwish", 17),
    ("h = HardSigmoid <alpha=0.16666667, beta=0.5> (x)\ny = Mul(x, h)", "HardSwish", 17),
    (GELU + "p = Mul(x, a)\ny = Mul(p, half)", "Gelu", 20),
    (GELU + "p = Mul(x, a)\ny = Div(p, two)", "Gelu", 20),
    (GELU + "b = Mul(a, half)\ny = Mul(x, b)", "Gelu", 20),
    (GELU + "h = Mul(x, half)\ny = Mul(h, a)", "Gelu", 20),
    (GELU.replace("Div(x, root_two)", "Mul(x, root_half)") + "h = Mul(x, half)\ny = Mul(h, a)", "Gelu", 20),
    (CUBE + "h = Mul(x, half)\ny = Mul(h, a)", "Gelu", 20),
    (CUBE + "p = Mul(x, a)\ny = Mul(p, half)", "Gelu", 20),
    (CUBE.replace("c = Pow(x, cube_of)", "q = Mul(x, x)\nc = Mul(x, q)") + "b = Mul(a, half)\ny = Mul(x, b)", "Gelu", 20),
    (SQUARE + "h = Mul(x, half)\ny = Mul(h, a)", "Gelu", 20),
])  # fmt: skip
def test_spellings(text: str, result: str, opset: int) -> None:
    for nodes in swapped(text):
        proto = canonical_nodes(nodes, X, NUMBERS, 17, "y")
        assert operators(proto) == result.split()
        assert proto.opset_import[0].version == opset


def test_approximation_is_kept_apart() -> None:
    exact, tanh = (canonical(t + "p = Mul(x, a)\ny = Mul(p, half)", X, NUMBERS) for t in (GELU, CUBE))
    assert exact.graph.node[0].attribute[0].s == b"none" and tanh.graph.node[0].attribute[0].s == b"tanh"


@pytest.mark.parametrize("text, outputs, rule, reason", [
    (SWISH + "\nz = Relu(s)", "y z", "swish", "the result of 'n_s' (Sigmoid) is also read by 'n_z'"),
    (SWISH, "y s", "swish", "'s' is an output of the network"),
    (MISH + "\nz = Relu(t)", "y z", "mish", "the result of 'n_t' (Tanh) is also read by 'n_z'"),
    (MISH.replace("Mul(x, t)", "Mul(l, t)"), "y", "", ""),
    (RELU6.replace("three", "four") + "p = Mul(x, c)\ny = Div(p, six)", "y", "hard_swish", "4 is not 3"),
    (RELU6.replace("six", "four") + "p = Mul(x, c)\ny = Mul(p, sixth)", "y", "hard_swish", "4 is not 6"),
    (RELU6 + "p = Mul(a, c)\ny = Mul(p, sixth)", "y", "hard_swish", "'x' is not x, which is 'n_a' (Add)"),
    (RELU6.replace("three", "wide") + "p = Mul(x, c)\ny = Mul(p, sixth)", "y", "hard_swish", "1 is not 3"),
    (RELU6 + "p = Mul(x, c)\ny = Mul(p, several)", "y", "hard_swish", "'several' is no number"),
    ("h = HardSigmoid(x)\ny = Mul(x, h)", "y", "hard_swish", "alpha and beta are 0.2 and 0.5"),
    (GELU.replace("one", "two") + "p = Mul(x, a)\ny = Mul(p, half)", "y", "gelu", "2 is not 1"),
    (GELU.replace("root_two", "two") + "p = Mul(x, a)\ny = Mul(p, half)", "y", "gelu", "0.5 is not 0.707107"),
    (GELU + "p = Mul(e, a)\ny = Mul(p, half)", "y", "gelu", "'x' is not x, which is 'n_e' (Erf)"),
    (GELU + "p = Mul(x, a)\ny = Mul(p, half)\nz = Relu(e)", "y z", "gelu", "the result of 'n_e' (Erf) is also read by 'n_z'"),
    (CUBE.replace("cube_of", "square_of") + "h = Mul(x, half)\ny = Mul(h, a)", "y", "gelu_tanh", "2 is not 3"),
    (CUBE.replace("cubic", "half") + "h = Mul(x, half)\ny = Mul(h, a)", "y", "gelu_tanh", "0.5 is not 0.044715"),
])  # fmt: skip
def test_near_misses(
    text: str,
    outputs: str,
    rule: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    found = operators(canonical(text, X, NUMBERS, outputs=outputs))
    assert not {"Swish", "Mish", "HardSwish", "Gelu"} & set(found)
    assert not rule or reasons(capsys.readouterr().err, rule) == [reason]


def test_a_constant_that_changes_the_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RELU6 + "p = Mul(x, c)\ny = Mul(p, wide_sixth)"
    monkeypatch.setenv("OMMATID_DEBUG", "2")
    assert "HardSwish" not in operators(canonical(text, X, NUMBERS | {"wide_sixth": [[[[1 / 6]]]]}))
    assert reasons(capsys.readouterr().err, "hard_swish") == ["a constant changes the shape of x"]


def test_silent_without_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    canonical(SWISH, X, NUMBERS, outputs="y s")
    assert capsys.readouterr().err == ""
