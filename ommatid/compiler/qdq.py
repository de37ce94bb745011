"""The QDQ form of a float model with given ranges, by onnxruntime's own quantiser.

Ours is the choice of what is quantised: all that the NPU takes, so that it can run there; tensors that share a
range, so that putting them together costs nothing; and tensors that must not share one.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.form import Form, form_of
from ommatid.compiler.lint import dies
from ommatid.compiler.observe import Observed
from ommatid.compiler.operators import FINDERS, MOVERS, RULES
from ommatid.compiler.ranges import Choice
from ommatid.compiler.recipe import Recipe
from ommatid.compiler.weight_codes import round_weights

QUANTISED = sorted(
    {
        *RULES,
        *MOVERS,
        *FINDERS,
        *unary.UNARY,
        *unary.LOGIC,
        "Clip",
        "Div",
        "Pow",
        "Max",
        "Min",
        "BatchNormalization",
        "PRelu",
    }
)


#: Operators that onnxruntime's quantiser takes for a rounding's own clamps.
CLAMPS = ("Relu", "Clip")
#: Operators whose results the quantiser rounds in any case.
CLAMPED = ("Conv", "Gemm", "Add")
#: Operators of two operands alike, of which one may be constant.
PAIRED = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Concat", "Where")


def activations(model: ir.Model) -> list[str]:
    """The names of the tensors that may be quantised."""
    touched = [v for n in model.graph if n.op_type in QUANTISED for v in (*n.inputs, *n.outputs)]
    return [v.name or "" for v in dict.fromkeys(touched) if v is not None and v.const_value is None]


def share_ranges(model: ir.Model, choices: dict[str, Choice]) -> None:
    """One range for the inputs and output of each Concat whose input is another Concat or is used elsewhere."""
    groups: dict[str, str] = {}

    def leader(name: str) -> str:
        while groups.get(name, name) != name:
            name = groups[name]
        return name

    for node in model.graph:
        if node.op_type not in ("Concat", "MaxPool"):
            continue
        reused = node.op_type == "MaxPool" or any(v is not None and len(v.uses()) > 1 for v in node.inputs)
        for value in node.inputs if reused else ():
            if value is not None:
                groups[leader(value.name or "")] = leader(node.outputs[0].name or "")
    members: dict[str, list[str]] = {}
    for name in groups:
        members.setdefault(leader(name), []).append(name)
    for chief, names in members.items():
        known = [n for n in {chief, *names} if n in choices]
        if not known:
            continue
        low, high = min(choices[n].low for n in known), max(choices[n].high for n in known)
        for n in known:
            choices[n] = replace(choices[n], low=low, high=high)


def stays_apart(
    model: ir.Model, observed: Mapping[str, Observed], choices: Mapping[str, Choice]
) -> frozenset[str]:
    """The nodes from a Concat to the outputs that it makes alone, where a branch would die in the shared scale.

    Left in float, on the host, each branch keeps its own scale.
    """
    apart: set[str] = set()
    for node in model.graph:
        output = choices.get(node.outputs[0].name or "")
        tail = _tail(node)
        if node.op_type != "Concat" or output is None or tail is None:
            continue
        branches = [observed[v.name or ""] for v in node.inputs if v is not None and v.name in observed]
        if any(dies(branch, output) for branch in branches):
            apart |= tail
    return frozenset(apart)


def _tail(node: ir.Node) -> set[str] | None:
    """A node and what moves its bytes on to network outputs; None if anything else reads them."""
    names = {node.name or ""}
    for value in node.outputs:
        for use in value.uses():
            after = _tail(use.node) if use.node.op_type in MOVERS else None
            if after is None:
                return None
            names |= after
    return names


def _tensors_data(choices: Mapping[str, Choice]) -> Any:
    """Ranges as onnxruntime's quantiser takes them."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    return TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(c.low), np.float32(c.high)) for name, c in choices.items()},
    )


def sixteen(model: ir.Model, recipe: Recipe) -> frozenset[str]:
    """The tensors of 16 bits: the recipe's, those that layers of this precision read and write, and what only moves
    their codes."""
    found: set[str] = set()
    for node in model.graph:
        if node.op_type in QUANTISED and recipe.has_16_bits(node.name):
            found |= _read_and_written(node)
    values = (value for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None)
    for name in {value.name or "" for value in values}:
        if (precision := recipe.precision(name)) is not None:
            (found.add if precision == "int16" else found.discard)(name)
    return with_moved(model, found)


def with_moved(model: ir.Model, names: Collection[str]) -> frozenset[str]:
    """These tensors, and those that hold the same codes in another order."""
    found = set(names)
    before = -1
    while before < len(found):
        before = len(found)
        for node in model.graph:
            if node.op_type in (*MOVERS, "MaxPool") and found & (both := _read_and_written(node)):
                found |= both
    return frozenset(found)


def _read_and_written(node: ir.Node) -> set[str]:
    """The names of a node's activations, and of constants that are quantised as these are."""
    constants = node.op_type in PAIRED
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return {
        v.name or "" for v in values if v.dtype == ir.DataType.FLOAT and (constants or v.const_value is None)
    }


def to_qdq(
    model: ir.Model, choices: Mapping[str, Choice], recipe: Recipe, apart: frozenset[str] = frozenset()
) -> Form:
    """The model with QuantizeLinear and DequantizeLinear: int8 weights by channel, activations by tensor.

    Nodes of ``apart`` stay in float.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    wide = {"quant_type": QuantType.QInt16, "symmetric": True}  # so that the zero point is 0
    overrides = {name: [dict(wide)] for name in sorted(sixteen(model, recipe))}
    form = form_of(model)
    proto = form.proto
    clamps = [
        node
        for node in proto.graph.node
        if node.op_type in CLAMPS and (node.output[0] in overrides or _clamps_more(proto, node, choices))
    ]
    numbers = {name for node in clamps for name in node.input[1:]}
    kept = copy.deepcopy((clamps, [i for i in proto.graph.initializer if i.name in numbers]))
    left_out = sorted(apart.union(_left_out(proto)))
    # at this version ONNX's own roundings have no codes of 16 bits: the quantiser takes onnxruntime's
    weights = round_weights(form, choices, left_out, "com.microsoft" if overrides else "")
    form.put_back([name for name, array in form.weights.items() if array.dtype == np.float32])
    _take_out_clamps(proto.graph, choices)
    add_infer_metadata(proto)  # all shapes are known
    result = _quantized(proto, choices, recipe.bytes_type, overrides, left_out)
    _restore(result.graph, *kept)
    _move_back(result.graph, {node.name for node in weights})
    return Form(result, form.weights)


def _quantized(
    proto: onnx.ModelProto, choices: Mapping[str, Choice], kind: str, overrides: Mapping[str, Any], left_out: list[str]
) -> onnx.ModelProto:  # fmt: skip
    """What the quantiser makes of a model, with activations of a type of 8 bits but for ``overrides``."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    clamped = {node.input[0] for node in proto.graph.node if node.op_type in CLAMPS}
    shown = clamped & {output.name for output in proto.graph.output}

    class Quantizer(QDQQuantizer):  # type: ignore[misc]
        """With ranges of their own for outputs that a clamp reads as well."""

        def adjust_tensor_ranges(self) -> None:
            own = {name: self.tensors_range[name] for name in shown if name in self.tensors_range}
            super().adjust_tensor_ranges()
            for name, data in own.items():
                self.tensors_range[name] = data

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantizer = Quantizer(
            proto,
            True,
            False,
            QuantType.QInt8,
            types[kind],
            _tensors_data(choices),
            [],
            left_out,
            QUANTISED,
            {"TensorQuantOverrides": overrides},
        )
        for value in proto.graph.input:
            # The quantiser leaves what only moves or compares bytes as it is, unless its input is quantised.
            if value.name in choices:
                quantizer.quantize_activation_tensor(value.name)
        for node in proto.graph.node:
            for name in (*node.input[1:], *node.output) if node.op_type == "Where" else ():
                quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
    finally:
        logging.getLogger().setLevel(level)
    return quantizer.model.model


def _take_out_clamps(graph: onnx.GraphProto, choices: Collection[str]) -> None:
    """Let a rounding clamp what Relu and Clip do, as the quantiser would, which looks through the graph for each."""
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    outputs = {o.name for o in graph.output}
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    rounded = {name for name in choices if types.get(name) == onnx.TensorProto.FLOAT}
    kept = []
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type in CLAMPS else None
        if (
            maker is not None
            and maker.op_type in CLAMPED
            and uses[node.input[0]] == 1
            and node.input[0] not in outputs
            and {node.input[0], node.output[0]} <= rounded
        ):
            maker.output[0] = node.output[0]
            makers[node.output[0]] = maker
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _clamps_more(proto: onnx.ModelProto, node: onnx.NodeProto, choices: Mapping[str, Choice]) -> bool:
    """Whether a Relu or Clip changes numbers that the range of its output would let through."""
    choice = choices.get(node.output[0])
    if choice is None:
        return False
    low, high = 0.0, np.inf
    if node.op_type == "Clip":
        constants = {
            i.name: float(onnx.numpy_helper.to_array(i))
            for i in proto.graph.initializer
            if i.name in node.input
        }
        bounds = [constants.get(name, np.nan) if name else None for name in (*node.input[1:], "", "")[:2]]
        low, high = (
            default if b is None else b for b, default in zip(bounds, (-np.inf, np.inf), strict=True)
        )
    least, most = min(choice.low, 0.0), max(choice.high, 0.0)  # a range holds zero
    half = (most - least) / 255 / 2
    return not (least >= low - half and most <= high + half)  # bounds that are not known: yes


def _restore(graph: onnx.GraphProto, clamps: list[onnx.NodeProto], numbers: list[onnx.TensorProto]) -> None:
    """Put back those clamps that the quantiser took out.

    It lets a rounding clamp, whose least code then has to be the least number. A zero point of 0 has that at neither end,
    nor has a range that others share, or that a recipe gives.
    """
    have, held = {node.name for node in graph.node}, {i.name for i in graph.initializer}
    gone = [node for node in clamps if node.name not in have]
    for clamp in reversed(gone):
        makers = {name: i for i, node in enumerate(graph.node) for name in node.output}
        rounded = clamp.output[0]  # an output of the network has this name after it was rounded
        while graph.node[makers[rounded]].op_type in ("DequantizeLinear", "QuantizeLinear"):
            rounded = graph.node[makers[rounded]].input[0]
        outputs = graph.node[makers[rounded]].output
        outputs[list(outputs).index(rounded)] = clamp.input[0]
        clamp.output[0] = rounded
        graph.node.insert(makers[rounded] + 1, clamp)
    read = {name for node in gone for name in node.input[1:]} - held
    graph.initializer.extend(i for i in numbers if i.name in read)


def _move_back(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Put the weights' roundings where the quantiser puts those that it makes: behind all but those of biases."""
    biases = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT32}
    nodes = sorted(
        graph.node, key=lambda node: 2 if biases.intersection(node.input) else int(node.name in names)
    )
    del graph.node[:]
    graph.node.extend(nodes)


def _left_out(proto: onnx.ModelProto) -> list[str]:
    """Names of nodes that onnxruntime's quantiser cannot take: normalisations over several axes."""
    ranks = {weights.name: len(weights.dims) for weights in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "LayerNormalization" and any(ranks.get(name, 1) != 1 for name in node.input[1:])
    ]
