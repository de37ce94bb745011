"""Quantisation: a float model becomes ONNX's standard QDQ form, by onnxruntime's own tools."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from ommatid.compiler.form import Form
from ommatid.compiler.model import QUANTIZERS, fold, name_nodes, standard_quantizers
from ommatid.compiler.plan import Plan, prepared
from ommatid.compiler.qdq import to_qdq
from ommatid.compiler.rounding import drop_inner_roundings
from ommatid.isa.program_file import write_whole


def quantize(model: ir.Model, plan: Plan, save_qdq: str | None = None, form: Form | None = None) -> ir.Model:
    """The canonical model in QDQ form as planned: int8 weights by channel, activations by tensor. ``form`` is that model as
    ``to_qdq`` made it, if it did already.

    Raises:
        CompileError: the plan is of another graph.
    """
    form = form or to_qdq(prepared(model, plan), plan.choices, plan.recipe, plan.apart)
    result = form.model()
    drop_inner_roundings(result)
    result.metadata_props.clear()  # the quantiser leaves a mark of its own
    result.metadata_props.update(model.metadata_props)
    common.TopologicalSortPass()(result)
    if save_qdq:
        write_whole(save_qdq, ir.to_proto(result).SerializeToString())
    standard_quantizers(result)
    name_nodes(result)
    _note_shapes(result)
    fold(result)
    return result


def _note_shapes(model: ir.Model) -> None:
    """What a rounding reads has the shape of what it makes, and the other way round: nothing else is new."""
    roundings = [node for node in model.graph if node.op_type in QUANTIZERS and len(node.inputs) == 3]
    for node in (*roundings, *reversed(roundings)):
        read, (made,), (_, scale, zero) = node.inputs[0], node.outputs, node.inputs
        if read is None or scale is None or zero is None:
            continue
        codes, real = (made, read) if node.op_type == "QuantizeLinear" else (read, made)
        codes.type, real.type = zero.type, scale.type
        read.shape = made.shape = made.shape if read.shape is None else read.shape
