"""The operator table: what runs on the NPU, by which rule. Documents and checks derive from it."""

from __future__ import annotations

from ommatid.compiler import (
    movers,
    rules_element,
    rules_matrix,
    rules_norm,
    rules_reduce,
    rules_shape,
    rules_topk,
    rules_vector,
    unary,
)
from ommatid.compiler.quantized import Mover, Rule

RULES: dict[str, Rule] = {
    "Conv": rules_matrix.conv,
    "ConvTranspose": rules_matrix.conv_transpose,
    "Gemm": rules_matrix.gemm,
    "MatMul": rules_matrix.matmul,
    "Add": rules_vector.add,
    "Sum": rules_vector.add,
    "Sub": rules_vector.add,
    "Mul": rules_vector.mul,
    "Div": rules_element.quotient,
    "Pow": rules_element.power,
    "Where": rules_vector.where,
    "MaxPool": rules_vector.pool,
    "AveragePool": rules_vector.pool,
    "GlobalAveragePool": rules_reduce.sum_or_mean,
    "ReduceMean": rules_reduce.sum_or_mean,
    "ReduceSum": rules_reduce.sum_or_mean,
    "GlobalMaxPool": rules_reduce.greatest_or_least,
    "ReduceMax": rules_reduce.greatest_or_least,
    "ReduceMin": rules_reduce.greatest_or_least,
    "Max": rules_reduce.greatest_of_several,
    "Min": rules_reduce.greatest_of_several,
    "LRN": rules_vector.lrn,
    "Softmax": rules_vector.softmax,
    "LayerNormalization": rules_norm.layer_norm,
    "RMSNormalization": rules_norm.rms_norm,
    "Concat": rules_shape.concat,
    "Pad": rules_shape.pad,
    "Resize": rules_shape.resize,
    "Upsample": rules_shape.resize,
}

MOVERS: dict[str, Mover] = {
    "Reshape": movers.reshape,
    "Flatten": movers.reshape,
    "Squeeze": movers.reshape,
    "Unsqueeze": movers.reshape,
    "Transpose": movers.transpose,
    "Split": movers.split,
    "Slice": movers.slice_,
    "Gather": movers.gather,
    "Tile": movers.tile,
    "Expand": movers.expand,
    "DepthToSpace": movers.depth_to_space,
    "SpaceToDepth": movers.space_to_depth,
    "Dropout": movers.dropout,
    "Identity": movers.reshape,
}

#: Operators whose results are bytes or indices as they are found in a quantised tensor.
FINDERS: dict[str, Mover] = {
    "ArgMax": rules_topk.arg,
    "ArgMin": rules_topk.arg,
    "TopK": rules_topk.top_k,
}

#: Affine functions by channel, computed in one pass: these operators with constant second operands.
AFFINE = ("BatchNormalization", "PRelu", "Add", "Sub", "Mul", "Div")


def table() -> list[tuple[str, str, str]]:
    """Rows (operator, placement, rule) of every operator that the NPU takes, by name."""
    rows = {name: (name, "NPU", (rule.__doc__ or "").strip()) for name, rule in RULES.items()}
    for name, mover in MOVERS.items():
        rows[name] = (name, "NPU, free where bytes can stay", (mover.__doc__ or "").strip())
    rows |= {name: (name, "NPU", (finder.__doc__ or "").strip()) for name, finder in FINDERS.items()}
    for name in (*unary.UNARY, "Clip"):
        rows.setdefault(
            name, (name, "NPU", "A table, of 16 bits interpolated; chains of such operators are one table.")
        )
    for name in unary.LOGIC:
        rows.setdefault(
            name,
            (name, "NPU", "With numbers, or of one tensor: part of a table, or the condition of a Where."),
        )
    for name in ("BatchNormalization", "PRelu"):
        rows.setdefault(
            name, (name, "NPU", "An affine function by channel; folded into a convolution where legal.")
        )
    return [rows[name] for name in sorted(rows)]
