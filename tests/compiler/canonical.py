"""Graphs written as ONNX text, canonicalised, and compared with onnxruntime on what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.model import import_model
from tests import networks

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, Sequence[int]]
RELATIVE = 1e-5  # of the largest value of an output


def nodes_of(text: str) -> list[onnx.NodeProto]:
    """The nodes of a text, one a line, named after their outputs."""
    nodes = [onnx.parser.parse_node(line) for line in text.strip().splitlines()]
    for node in nodes:
        node.name = f"n_{node.output[0]}"
    return nodes


def canonical(
    text: str, inputs: Shapes, constants: Mapping[str, Any] | None = None, opset: int = 17, outputs: str = "y"
) -> onnx.ModelProto:
    """The canonical form of a text; onnxruntime computes the same floats with it."""
    return canonical_nodes(nodes_of(text), inputs, constants, opset, outputs)


def canonical_nodes(
    nodes: list[onnx.NodeProto], inputs: Shapes, constants: Mapping[str, Any] | None, opset: int, outputs: str
) -> onnx.ModelProto:
    """As ``canonical``, of nodes."""
    used = {name for node in nodes for name in node.input}
    arrays = {name: _array(value) for name, value in (constants or {}).items() if name in used}
    made = networks.model(nodes, dict(inputs), dict.fromkeys(outputs.split()), arrays, opset)
    proto = ir.to_proto(canonicalize(import_model(made)))
    proto.ir_version = min(proto.ir_version, 10)
    check_shapes(proto)
    rng = np.random.default_rng(1)
    feeds = {name: (1.5 * rng.standard_normal(shape)).astype(np.float32) for name, shape in inputs.items()}
    for ours, theirs in zip(run(proto, feeds), run(made, feeds), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=RELATIVE * float(np.abs(theirs).max()))
    return proto


def check_shapes(proto: onnx.ModelProto) -> None:
    """The types that a model notes of what its nodes make are there, and are what ONNX infers from its inputs alone."""
    noted = {value.name: value.type.tensor_type for value in proto.graph.value_info}
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    made = {name for node in proto.graph.node for name in node.output if name}
    assert made - {output.name for output in proto.graph.output} <= noted.keys()
    for value in inferred.value_info:
        kind = value.type.tensor_type
        if all(dim.HasField("dim_value") for dim in kind.shape.dim):
            assert noted[value.name].SerializeToString() == kind.SerializeToString(), value.name


def _array(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """onnxruntime's outputs."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def operators(proto: onnx.ModelProto) -> list[str]:
    """The operators of a model, in order."""
    return [node.op_type for node in proto.graph.node]


def swapped(text: str) -> list[list[onnx.NodeProto]]:
    """The nodes, and once more for every Add and Mul with its operands swapped."""
    variants = [nodes_of(text)]
    for i, node in enumerate(variants[0]):
        if node.op_type in ("Add", "Mul"):
            other = nodes_of(text)
            other[i].input[:] = list(node.input)[::-1]
            variants.append(other)
    return variants


def reasons(printed: str, rule: str, node: str = "n_y") -> list[str]:
    """Why a rewrite did not fire at a node, of what ``OMMATID_DEBUG=2`` printed."""
    begin = f"{node}: {rule} did not fire: "
    return [line.removeprefix(begin) for line in printed.splitlines() if line.startswith(begin)]
