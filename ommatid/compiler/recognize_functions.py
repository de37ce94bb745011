"""Functions of one value that exporters spell out: h-swish, swish, mish, gelu and their parts.

Their own operator is one table on the NPU, and one rounding where the parts would be several.
"""

from __future__ import annotations

import math

from ommatid.compiler.attributes import number
from ommatid.compiler.rewrite import Match, Result, Rewrite, need, new, rewrite


def _of_x(match: Match, op: str, **attributes: object) -> Result:
    """An operator of x alone; no constant may have changed the shape."""
    result = match.nodes[0].outputs[0]
    need(
        result.shape is not None and match.shape("x") == tuple(result.shape),
        "a constant changes the shape of x",
    )
    return new(op, match["x"], **attributes)


@rewrite(
    """
    s = Add(x, three)
    c = Clip(s, zero, six)
    y = Div(c, six)
    y = Mul(c, sixth)
    """
)
def hard_sigmoid(match: Match) -> Result:
    """Clip(x + 3, 0, 6) / 6 is HardSigmoid."""
    return _of_x(match, "HardSigmoid", alpha=1 / 6, beta=0.5)


@rewrite(
    """
    s = Add(x, three)
    c = Clip(s, zero, six)
    p = Mul(x, c)
    h = HardSigmoid(x)
    y = Mul(x, h)
    y = Div(p, six)
    y = Mul(p, sixth)
    """
)
def hard_swish(match: Match) -> Result:
    """x * Clip(x + 3, 0, 6) / 6 is HardSwish; the division may have become part of a HardSigmoid."""
    if "h" in match:
        slope, shift = number(match.node("h"), "alpha", 0.2), number(match.node("h"), "beta", 0.5)
        need(
            math.isclose(slope, 1 / 6, rel_tol=1e-4) and shift == 0.5,
            f"alpha and beta are {slope:.6g} and {shift:.6g}",
        )
    return _of_x(match, "HardSwish")


@rewrite(
    """
    s = Sigmoid(x)
    y = Mul(x, s)
    """,
    opset=24,
)
def swish(match: Match) -> Result:
    """x * Sigmoid(x) is Swish."""
    return _of_x(match, "Swish")


@rewrite(
    """
    e = Exp(x)
    a = Add(e, one)
    y = Log(a)
    """
)
def softplus(match: Match) -> Result:
    """Log(Exp(x) + 1) is Softplus."""
    return _of_x(match, "Softplus")


@rewrite(
    """
    s = Softplus(x)
    t = Tanh(s)
    y = Mul(x, t)
    """,
    opset=18,
)
def mish(match: Match) -> Result:
    """x * Tanh(Softplus(x)) is Mish."""
    return _of_x(match, "Mish")


@rewrite(
    """
    r = Div(x, root_two)
    r = Mul(x, root_half)
    e = Erf(r)
    a = Add(e, one)
    b = Mul(a, half)
    b = Div(a, two)
    h = Mul(x, half)
    h = Div(x, two)
    p = Mul(x, a)
    y = Mul(p, half)
    y = Div(p, two)
    y = Mul(h, a)
    y = Mul(x, b)
    """,
    opset=20,
)
def gelu(match: Match) -> Result:
    """x * (1 + Erf(x / sqrt(2))) / 2 is Gelu, wherever the half stands."""
    return _of_x(match, "Gelu", approximate="none")


@rewrite(
    """
    q = Mul(x, x)
    q = Pow(x, two)
    k = Pow(x, three)
    k = Mul(x, q)
    c = Mul(k, cubic)
    i = Add(x, c)
    n = Mul(q, cubic)
    m = Add(n, one)
    i = Mul(x, m)
    r = Mul(i, root_two_over_pi)
    w = Mul(x, root_two_over_pi)
    r = Mul(w, m)
    t = Tanh(r)
    a = Add(t, one)
    b = Mul(a, half)
    h = Mul(x, half)
    p = Mul(x, a)
    y = Mul(p, half)
    y = Mul(h, a)
    y = Mul(x, b)
    """,
    opset=20,
)
def gelu_tanh(match: Match) -> Result:
    """x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2 is Gelu's approximation."""
    return _of_x(match, "Gelu", approximate="tanh")


FUNCTIONS: tuple[Rewrite, ...] = (hard_swish, hard_sigmoid, swish, softplus, mish, gelu, gelu_tanh)
