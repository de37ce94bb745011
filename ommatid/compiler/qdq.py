"""The QDQ form of a float model with given ranges, by onnxruntime's own quantiser.

Ours is the choice of what is quantised: all that the NPU takes, so that it can run there; tensors that share a
range, so that putting them together costs nothing; and tensors that must not share one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.correct import proto_of
from ommatid.compiler.lint import dies
from ommatid.compiler.observe import Observed
from ommatid.compiler.operators import FINDERS, MOVERS, RULES
from ommatid.compiler.ranges import Choice

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


def to_qdq(
    model: ir.Model, choices: Mapping[str, Choice], kind: str, apart: frozenset[str] = frozenset()
) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear: int8 weights by channel, 8-bit activations by tensor.

    ``kind`` is "int8" or "uint8"; nodes of ``apart`` stay in float.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    proto = proto_of(model)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantizer = QDQQuantizer(
            proto,
            True,
            False,
            QuantType.QInt8,
            types[kind],
            _tensors_data(choices),
            [],
            sorted(apart.union(_left_out(proto))),
            QUANTISED,
            {},
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
    result: onnx.ModelProto = quantizer.model.model
    return result


def _left_out(proto: onnx.ModelProto) -> list[str]:
    """Names of nodes that onnxruntime's quantiser cannot take: normalisations over several axes."""
    ranks = {weights.name: len(weights.dims) for weights in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "LayerNormalization" and any(ranks.get(name, 1) != 1 for name in node.input[1:])
    ]
