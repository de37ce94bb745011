"""Where values are rounded: fewer roundings, and roundings next to what computes the value.

The first changes which QDQ model is made, and nothing about how it is computed: onnxruntime runs the same
model. The second moves a rounding where that cannot change a bit.
"""

from __future__ import annotations

import onnx_ir as ir

from ommatid.compiler import unary


def drop_inner_roundings(model: ir.Model) -> None:
    """Remove each QuantizeLinear and DequantizeLinear pair between two functions of one value.

    Such a chain is one table on the NPU: rounding inside it would only lose accuracy.
    """
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear" or node.graph is None:
            continue
        value, readers = node.inputs[0], tuple(node.outputs[0].uses())
        if value is None or value.producer() is None or len(value.uses()) != 1 or len(readers) != 1:
            continue
        back = readers[0].node
        if back.op_type != "DequantizeLinear" or back.outputs[0].is_graph_output():
            continue
        consumers = [use.node for use in back.outputs[0].uses()]
        before = value.producer()
        assert before is not None
        if len(consumers) == 1 and is_unary(before) and is_unary(consumers[0]):
            ir.convenience.replace_all_uses_with(back.outputs[0], value)
            model.graph.remove([back, node], safe=True)


#: Operators of one tensor whose results are some of its values: rounding before them gives the same bits.
SELECTING = (
    "MaxPool",
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "DepthToSpace",
    "SpaceToDepth",
)


def round_before_selecting(model: ir.Model) -> None:
    """Quantise the input of a MaxPool or a move instead of its output alone, so that what feeds it is a layer too.

    The largest of rounded values is the rounded largest: rounding keeps their order. Quantisers that do not know
    an operator (onnxruntime's LRN) leave ``LRN, MaxPool, QuantizeLinear``, and moves of a network's input.
    """
    for quantize in list(model.graph):
        if quantize.op_type != "QuantizeLinear":
            continue
        chain: list[tuple[ir.Value, ir.Node]] = []
        selected = quantize.inputs[0]
        while (
            selected is not None and (node := selected.producer()) is not None and node.op_type in SELECTING
        ):
            alone = len(selected.uses()) == 1 and not selected.is_graph_output() and len(node.outputs) == 1
            value = node.inputs[0]
            if not alone or value is None or value.const_value is not None:
                break
            if value.producer() is None and len(value.uses()) > 1:  # the host quantises an input once
                break
            selected = value
            chain.append((selected, node))
        codes = selected is not None and _op_type(selected) == "DequantizeLinear"
        for value, node in chain:
            maker = _op_type(value)
            pools = "MaxPool" in (node.op_type, maker)  # a move of codes takes them over as they are
            if maker != "DequantizeLinear" and (pools or not codes):
                _round(value, node, quantize)


def _op_type(value: ir.Value) -> str:
    maker = value.producer()
    return maker.op_type if maker is not None else ""


def _round(value: ir.Value, reader: ir.Node, like: ir.Node) -> None:
    """Let ``reader`` read ``value`` quantised and dequantised with the parameters of ``like``."""
    inputs = list(like.inputs[1:])
    codes = ir.Value(name=f"{value.name}_before_{reader.name}", shape=value.shape, type=like.outputs[0].type)
    real = ir.Value(name=f"{codes.name}_real", shape=value.shape, type=value.type)
    to_codes = ir.Node("", "QuantizeLinear", [value, *inputs], attributes=like.attributes.values(),
                       outputs=[codes], name=f"{codes.name}_q")  # fmt: skip
    to_real = ir.Node("", "DequantizeLinear", [codes, *inputs], outputs=[real], name=f"{codes.name}_dq")
    reader.graph.insert_before(reader, [to_codes, to_real])  # type: ignore[union-attr]
    reader.replace_input_with(0, real)


def is_unary(node: ir.Node) -> bool:
    """Element by element a function of one tensor that is no constant; the others are single numbers."""
    if not unary.is_elementwise(node):
        return False
    constants = [v for v in node.inputs if v is not None and _is_number(v)]
    return len(constants) == sum(v is not None for v in node.inputs) - 1


def _is_number(value: ir.Value) -> bool:
    """A constant of one element, dequantised or not."""
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    return value.const_value is not None and value.const_value.size == 1
