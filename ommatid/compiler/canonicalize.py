"""Canonicalisation of float models, before quantisation: what exporters spell out becomes one operator again.

``STAGES`` lists the rewrites, each stage applied until none of it fires. ``OMMATID_DEBUG=2`` prints for every near
miss why a rewrite did not fire, and ``ommatid check`` says it of nodes that the NPU cannot take.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.attributes import ints
from ommatid.compiler.elementary import ELEMENTARY
from ommatid.compiler.elementary_norm import SPELLED_OUT, flat_norm
from ommatid.compiler.elementary_pairs import PAIRS
from ommatid.compiler.elementary_pool import POOLS
from ommatid.compiler.elementary_resize import RESIZES
from ommatid.compiler.errors import CompileError
from ommatid.compiler.fold_affine import AFFINE, LATE
from ommatid.compiler.model import fold, name_nodes
from ommatid.compiler.recognize_attention import ATTENTION
from ommatid.compiler.recognize_functions import FUNCTIONS
from ommatid.compiler.recognize_moves import MOVES
from ommatid.compiler.recognize_norms import NORMS
from ommatid.compiler.rewrite import Match, NotFired, Result, Rewrite, need, new, rewrite

OPSET = 17


@rewrite("y = Sum(x)")
def sum_of_several(match: Match) -> Result:
    """Sum of several is a chain of Adds."""
    first, *others = match.nodes[0].inputs
    if not others:
        raise NotFired("it has one input", near=False)
    result = first
    for value in others:
        result = new("Add", result, value)  # type: ignore[assignment]
    assert result is not None
    return result


@rewrite("y = AveragePool(x)")
def global_pool(match: Match) -> Result:
    """AveragePool over the whole image is GlobalAveragePool."""
    node = match.node("y")
    if tuple(ints(node, "kernel_shape", [])) != match.shape("x")[2:]:
        raise NotFired("the window is not the image", near=False)
    need(not any(ints(node, "pads", [])), "it pads")
    need(all(size == 1 for size in match.shape("y")[2:]), "there are several windows")  # auto_pad adds them
    return new("GlobalAveragePool", match["x"])


@rewrite(
    """
    p = Mul(x, gate)
    y = Add(x, p)
    """
)
def gated_residual(match: Match) -> Result:
    """x + x * gate is x * (gate + 1) where the gate is smaller than x: one pass over x, not two."""
    sizes = [math.prod(match.shape(name)) for name in ("x", "gate")]
    need(match["gate"].const_value is None, "the gate is constant")
    need(0 < sizes[1] < sizes[0], "the gate is not smaller than x")
    return new("Mul", match["x"], new("Add", match["gate"], np.ones(1, np.float32)))


#: In order: rewrites of the second stage would take apart what those of the first look for.
STAGES: tuple[tuple[Rewrite, ...], ...] = (
    (
        *FUNCTIONS,
        *NORMS,
        *MOVES,
        *ATTENTION,
        *SPELLED_OUT,
        *AFFINE,
        *ELEMENTARY,
        gated_residual,
        sum_of_several,
        global_pool,
        *PAIRS,
        *POOLS,
        *RESIZES,
    ),
    (*LATE, flat_norm),
)


def canonicalize(model: ir.Model, explain: Callable[[str, str], None] | None = None) -> ir.Model:
    """The model at opset 17 or above with every rewrite applied until none fires.

    ``explain`` is called with a node's name and why a rewrite did not fire there, for every near miss.

    Raises:
        CompileError: the model's operators cannot be raised to that opset.
    """
    model = raise_opset(model, OPSET)
    name_nodes(model)
    reasons: dict[tuple[Rewrite, str], str] = {}
    refused: set[int] = set()  # opsets to which the model cannot be raised
    for stage in STAGES:
        while (wanted := _apply(model, stage, refused, reasons)) >= 0:
            if wanted:
                try:
                    model = raise_opset(model, wanted)
                except CompileError:
                    refused.add(wanted)
            fold(model)
            name_nodes(model)
    left = {node.name: node.op_type for node in model.graph}
    for (row, name), reason in reasons.items():
        if left.get(name) in row.operators:
            (explain or _print)(name, f"{row.name} did not fire: {reason}")
    return model


def _apply(
    model: ir.Model, stage: Sequence[Rewrite], refused: set[int], reasons: dict[tuple[Rewrite, str], str]
) -> int:
    """Try every rewrite at every node once: the opset that one needs, 0 if only others fired, -1 if none."""
    opset, result = model.graph.opset_imports.get("") or 0, -1
    nodes = list(model.graph)
    known = {None, *nodes}  # what is written here gets its shape behind this round
    for node in nodes:
        for row in stage if node.domain in ("", "ai.onnx") else ():
            if node.op_type not in row.operators or node.graph is None:
                continue
            if any(v is not None and v.producer() not in known for v in node.inputs):
                continue
            try:
                act = row.plan(model, node)
                if row.opset in refused:
                    raise NotFired(f"the model cannot be raised to opset {row.opset}")
                if row.opset > opset:
                    result = max(result, row.opset)
                    break
                act()
            except NotFired as why:
                if why.near:
                    reasons[row, node.name or ""] = str(why)
            else:
                result = max(result, 0)
                break
    return result


def _print(node: str, reason: str) -> None:
    if os.environ.get("OMMATID_DEBUG") == "2":
        print(f"{node}: {reason}", file=sys.stderr)


def raise_opset(model: ir.Model, opset: int) -> ir.Model:
    """The model at this opset at least, by ONNX's own converter; weights take no part in it."""
    if (model.graph.opset_imports.get("") or 0) >= opset:
        return model
    weights = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > 4096:
            weights[name] = value.const_value
            value.const_value = None
            del model.graph.initializers[name]
            value.shape = ir.Shape(weights[name].shape.numpy())
            value.type = ir.TensorType(weights[name].dtype)
            model.graph.inputs.append(value)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
    except Exception as error:
        raise CompileError(
            f"the model cannot be raised to opset {opset}: {error}", f"export it with opset {opset} or above"
        ) from None
    raised = ir.from_proto(proto)
    for value in list(raised.graph.inputs):
        if value.name in weights:
            raised.graph.inputs.remove(value)
            value.const_value = weights[value.name]
            raised.graph.register_initializer(value)
    raised.metadata_props.update(model.metadata_props)
    fold(raised)
    return raised
