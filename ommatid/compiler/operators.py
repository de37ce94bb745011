"""The operator table: what runs on the NPU, by which rule. Documents and checks derive from it."""

from __future__ import annotations

from ommatid.compiler import movers, rules, unary
from ommatid.compiler.quantized import Mover, Rule

RULES: dict[str, Rule] = {
    "Conv": rules.conv,
    "ConvTranspose": rules.conv_transpose,
    "Gemm": rules.gemm,
    "MatMul": rules.matmul,
    "Add": rules.add,
    "Sum": rules.add,
    "Sub": rules.add,
    "Mul": rules.mul,
    "MaxPool": rules.pool,
    "AveragePool": rules.pool,
    "GlobalAveragePool": rules.mean,
    "ReduceMean": rules.mean,
    "LRN": rules.lrn,
    "Softmax": rules.softmax,
    "Concat": rules.concat,
    "Pad": rules.pad,
    "Resize": rules.resize,
    "Upsample": rules.resize,
}

MOVERS: dict[str, Mover] = {
    "Reshape": movers.reshape,
    "Flatten": movers.reshape,
    "Squeeze": movers.reshape,
    "Unsqueeze": movers.reshape,
    "Transpose": movers.transpose,
    "Split": movers.split,
    "Slice": movers.slice_,
    "Dropout": movers.reshape,
    "Identity": movers.reshape,
}

#: Affine functions by channel, computed in one pass: these operators with constant second operands.
AFFINE = ("BatchNormalization", "PRelu", "Add", "Sub", "Mul", "Div")


def table() -> list[tuple[str, str, str]]:
    """Rows (operator, placement, rule) of every operator that the NPU takes, by name."""
    rows = {name: (name, "NPU", (rule.__doc__ or "").strip()) for name, rule in RULES.items()}
    for name, mover in MOVERS.items():
        rows[name] = (name, "NPU, free where bytes can stay", (mover.__doc__ or "").strip())
    for name in (*unary.UNARY, "Clip"):
        rows.setdefault(
            name, (name, "NPU", "A table of 256 entries; chains of such operators are one table.")
        )
    for name in ("Div", "Pow", "Max", "Min"):
        rows.setdefault(name, (name, "NPU", "With a constant number, or of one tensor: part of a table."))
    for name in ("BatchNormalization", "PRelu"):
        rows.setdefault(
            name, (name, "NPU", "An affine function by channel; folded into a convolution where legal.")
        )
    return [rows[name] for name in sorted(rows)]
