"""Unary functions: the float operators that a table can stand for.

Evaluated in float64, one value at a time with Python's ``math``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Attributes = Callable[[str, float], float]


def _each(function: Callable[[float], float]) -> Callable[[Array], Array]:
    def apply(x: Array) -> Array:
        return np.array([function(float(v)) for v in x])

    return apply


def _sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v))


def _softplus(v: float) -> float:
    return max(v, 0.0) + math.log1p(math.exp(-abs(v)))


def _gelu(v: float) -> float:
    return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))


def _hard_sigmoid(x: Array, a: Attributes) -> Array:
    return np.clip(x * a("alpha", 0.2) + a("beta", 0.5), 0, 1)


def _elu(x: Array, a: Attributes) -> Array:
    return np.where(x > 0, x, a("alpha", 1.0) * _each(math.expm1)(np.minimum(x, 0)))


#: Operator: function of the values (float64) and a getter of float attributes.
UNARY: dict[str, Callable[[Array, Attributes], Array]] = {
    "Relu": lambda x, a: np.maximum(x, 0),
    "LeakyRelu": lambda x, a: np.where(x >= 0, x, x * a("alpha", 0.01)),
    "ThresholdedRelu": lambda x, a: np.where(x > a("alpha", 1.0), x, 0),
    "Elu": _elu,
    "Sigmoid": lambda x, a: _each(_sigmoid)(x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1),
    "Tanh": lambda x, a: _each(math.tanh)(x),
    "Softplus": lambda x, a: _each(_softplus)(x),
    "Softsign": lambda x, a: x / (1 + np.abs(x)),
    "Swish": lambda x, a: x * _each(_sigmoid)(a("alpha", 1.0) * x),
    "Mish": lambda x, a: x * _each(lambda v: math.tanh(_softplus(v)))(x),
    "Gelu": lambda x, a: _each(_gelu)(x),
    "Erf": lambda x, a: _each(math.erf)(x),
    "Exp": lambda x, a: _each(lambda v: math.exp(min(v, 700.0)))(x),
    "Abs": lambda x, a: np.abs(x),
    "Neg": lambda x, a: -x,
    "Floor": lambda x, a: np.floor(x),
    "Ceil": lambda x, a: np.ceil(x),
    "Round": lambda x, a: np.rint(x),
    "Sign": lambda x, a: np.sign(x),
    "Sin": lambda x, a: _each(math.sin)(x),
    "Cos": lambda x, a: _each(math.cos)(x),
    "Sqrt": lambda x, a: np.sqrt(np.maximum(x, 0)),
    "Reciprocal": lambda x, a: 1 / x,
    "Log": lambda x, a: _each(lambda v: math.log(v) if v > 0 else -math.inf)(x),
}

#: Operators of two values, element by element; one of them is constant or of the same quantised tensor.
PAIRS: dict[str, Callable[[Array, Array], Array]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Div": lambda x, y: x / y,
    "Pow": lambda x, y: np.power(x, y),
    "Max": np.maximum,
    "Min": np.minimum,
}

#: Operators whose values are true (1) or false (0).
LOGIC: dict[str, Callable[..., Array]] = {
    "Equal": lambda x, y: x == y,
    "Greater": lambda x, y: x > y,
    "GreaterOrEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessOrEqual": lambda x, y: x <= y,
    "And": lambda x, y: (x != 0) & (y != 0),
    "Or": lambda x, y: (x != 0) | (y != 0),
    "Xor": lambda x, y: (x != 0) ^ (y != 0),
    "Not": lambda x: x == 0,
    "Where": lambda c, x, y: np.asarray(np.where(c != 0, x, y)),
}


def apply(node: ir.Node, arguments: Sequence[Array]) -> Array | None:
    """The node's value from those of its inputs (float64 [n] or scalars), or None if it is no such operator."""

    def attribute(name: str, default: float) -> float:
        return float(node.attributes[name].as_float()) if name in node.attributes else default

    with np.errstate(all="ignore"):
        if node.op_type in PAIRS:
            result = arguments[0]
            for other in arguments[1:]:
                result = PAIRS[node.op_type](result, other)
            return np.asarray(result)
        if node.op_type in LOGIC:
            return np.asarray(LOGIC[node.op_type](*arguments), np.float64)
        if node.op_type == "Clip":
            low = arguments[1] if len(arguments) > 1 else np.float64(attribute("min", -math.inf))
            high = arguments[2] if len(arguments) > 2 else np.float64(attribute("max", math.inf))
            return np.minimum(np.maximum(arguments[0], low), high)
        if (
            node.op_type == "Gelu"
            and "approximate" in node.attributes
            and node.attributes["approximate"].as_string() == "tanh"
        ):
            x = arguments[0]
            return 0.5 * x * (1 + _each(math.tanh)(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        if node.op_type in UNARY:
            return UNARY[node.op_type](arguments[0], attribute)
    return None


def is_elementwise(node: ir.Node) -> bool:
    """Whether ``apply`` knows the node's operator."""
    return node.domain in ("", "ai.onnx") and (
        node.op_type in PAIRS or node.op_type in UNARY or node.op_type in LOGIC or node.op_type == "Clip"
    )
