"""Partitions: what no rule took runs on the CPU through ONNX Runtime, in as few pieces as the order allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.layers import Layer, Stage
from ommatid.compiler.model import contributed_quantizers
from ommatid.compiler.quantized import Walk
from ommatid.compiler.storage import operands
from ommatid.isa.program import Partition


def make_stages(walk: Walk, layers: Sequence[Layer]) -> tuple[Stage, ...]:
    """Alternate between all layers that are ready and all CPU nodes that are ready, until none is left.

    Both beginnings are tried: going on with all that is ready, one of them gives the fewest stages.
    """
    model = walk.model
    made_by_npu = {layer.output for layer in layers}
    covered = {name for names in walk.covered.values() for name in names}
    rest = _with_real_inputs(walk, [n for n in model.graph if n.name not in covered and not _free(n)])
    cpu = _needed(rest, model, made_by_npu, {name for layer in layers for name in operands(layer)})
    groups = min((_groups(walk, layers, cpu, begin) for begin in ("npu", "cpu")), key=len)
    stages: list[Stage] = []
    todo = list(cpu)
    for ready, nodes in groups:
        if ready:
            stages.append(Stage(tuple(ready)))
            continue
        chosen = {n.name for n in nodes}
        todo = [n for n in todo if n.name not in chosen]
        stages.append(Stage(cpu=_cpu_partition(walk, nodes, todo)))
    return tuple(stages)


def _with_real_inputs(walk: Walk, rest: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes, and in the model's order those that layers cover but whose real-valued results these read."""
    wanted = {node.name for node in rest}
    todo = list(rest)
    while todo:
        for value in todo.pop().inputs:
            node = value.producer() if value is not None else None
            made = value is None or value.name in walk.deq or value.name in walk.tensors
            if node is not None and not made and not _free(node) and node.name not in wanted:
                wanted.add(node.name)
                todo.append(node)
    return [node for node in walk.model.graph if node.name in wanted]


def _groups(
    walk: Walk, layers: Sequence[Layer], cpu: Sequence[ir.Node], begin: str
) -> list[tuple[list[Layer], list[ir.Node]]]:
    """(layers, nothing) and (nothing, CPU nodes) in turn, each all that is ready."""
    known: set[str | None] = {v.name for v in walk.model.graph.inputs}
    known |= {name for name in walk.fed if _host_made(walk, name)} | set(walk.constants)
    todo_npu, todo_cpu = list(layers), list(cpu)
    groups: list[tuple[list[Layer], list[ir.Node]]] = []
    turn, idle = begin, 0
    while todo_npu or todo_cpu:
        ready: list[Layer] = []
        nodes: list[ir.Node] = []
        for layer in todo_npu if turn == "npu" else ():
            if all(name in known for name in operands(layer)):
                ready.append(layer)
                known.add(layer.output)
        for node in todo_cpu if turn == "cpu" else ():
            if all(_available(walk, v, known) for v in node.inputs if v is not None):
                nodes.append(node)
                known |= {o.name for o in node.outputs}
        done = {layer.name for layer in ready} | {n.name for n in nodes}
        if turn == "npu":
            todo_npu = [layer for layer in todo_npu if layer.name not in done]
        else:
            todo_cpu = [n for n in todo_cpu if n.name not in done]
        idle = 0 if done else idle + 1
        if idle > 1:
            raise RuntimeError("partitioning made no progress")
        if done:
            groups.append((ready, nodes))
        turn = "cpu" if turn == "npu" else "npu"
    return groups


def _free(node: ir.Node) -> bool:
    """A node that needs no work of its own: the DequantizeLinear of a constant or of a quantised tensor."""
    return node.op_type == "DequantizeLinear"


def _host_made(walk: Walk, name: str) -> bool:
    """A quantised tensor that the host makes of a network input."""
    return any(
        n.op_type == "QuantizeLinear"
        and n.outputs[0].name == name
        and n.inputs[0] is not None
        and n.inputs[0].is_graph_input()
        for n in walk.model.graph
    )


def _needed(
    rest: list[ir.Node], model: ir.Model, made_by_npu: set[str], read_by_npu: set[str]
) -> list[ir.Node]:
    """Those nodes whose results reach a network output or a layer."""
    alive: set[str] = set(read_by_npu - made_by_npu) | {v.name or "" for v in model.graph.outputs}
    for output in model.graph.outputs:
        producer = output.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            alive |= {v.name or "" for v in producer.inputs if v is not None}
    kept: list[ir.Node] = []
    for node in reversed(rest):
        if any((o.name or "") in alive for o in node.outputs):
            kept.append(node)
            for value in node.inputs:
                if value is None:
                    continue
                alive.add(value.name or "")
                producer = value.producer()
                if producer is not None and producer.op_type == "DequantizeLinear":
                    alive |= {v.name or "" for v in producer.inputs if v is not None}
    return kept[::-1]


def _available(walk: Walk, value: ir.Value, known: set[str | None]) -> bool:
    if value.const_value is not None or value.name in known:
        return True
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        return all(_available(walk, v, known) for v in node.inputs if v is not None)
    moved = walk.deq.get(value.name or "")  # a real value that is a quantised tensor under another name
    return moved is not None and moved in known


def _cpu_partition(walk: Walk, nodes: list[ir.Node], later: list[ir.Node]) -> Partition:
    """The nodes with what dequantises their inputs, as an ONNX model of its own."""
    graph = walk.model.graph
    chosen = {n.name for n in nodes}
    ordered: list[ir.Node] = []
    for node in graph:
        if node.name in chosen or (
            node.op_type == "DequantizeLinear" and any(u.node.name in chosen for u in node.outputs[0].uses())
        ):
            ordered.append(node)
    protos = [ir.to_proto(n) for n in ordered]
    produced = {o for p in protos for o in p.output}
    inputs: dict[str, ir.Value] = {}
    constants: dict[str, ir.Value] = {}
    for node in ordered:
        for value in node.inputs:
            if value is None or value.name in produced:
                continue
            (constants if value.const_value is not None else inputs)[value.name or ""] = value
    extra = _dequantise_moved(walk, inputs, protos)
    needed_later = {v.name for n in later for v in n.inputs if v is not None} | {
        v.name for v in graph.outputs
    }
    needed_later |= walk.fed | {
        n.inputs[0].name
        for n in graph
        if n.op_type == "DequantizeLinear"
        and n.inputs[0] is not None
        and n.name not in {o.name for o in ordered}
    }
    outputs = [o for n in nodes for o in n.outputs if o.name in needed_later]
    proto = onnx.helper.make_graph(
        protos, "cpu",
        [*(ir.to_proto(v) for v in inputs.values()), *extra[0]],
        [ir.to_proto(v) for v in outputs],
        [*(_initializer(v) for v in constants.values()), *extra[1]],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in graph.opset_imports.items()]
    model = onnx.helper.make_model(
        proto, opset_imports=opsets, ir_version=min(10, max(8, walk.model.ir_version or 8))
    )
    contributed_quantizers(model)
    reasons = tuple(
        "; ".join(walk.reasons.get(n.name or "", ["an input or output of it is not quantised"]))
        for n in nodes
    )
    return Partition(
        "cpu", (*inputs, *(v.name for v in extra[0])), tuple(o.name or "" for o in outputs),
        model=model.SerializeToString(deterministic=True), nodes=tuple(n.name or "" for n in nodes), reasons=reasons,
    )  # fmt: skip


def _dequantise_moved(
    walk: Walk, inputs: dict[str, ir.Value], protos: list[onnx.NodeProto]
) -> tuple[list[onnx.ValueInfoProto], list[onnx.TensorProto]]:
    """Real values that are moved quantised tensors: dequantise those here; their inputs and constants."""
    infos: list[onnx.ValueInfoProto] = []
    constants: list[onnx.TensorProto] = []
    for name in [n for n in inputs if n in walk.deq]:
        tensor = walk.tensors[walk.deq[name]]
        q = tensor.quantization
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(q.dtype))
        scale, zero = f"{name}__scale", f"{name}__zero"
        real = name if name != tensor.name else f"{name}__real"
        for proto in protos:
            proto.input[:] = [real if given == name else given for given in proto.input]
        protos.insert(0, onnx.helper.make_node("DequantizeLinear", [tensor.name, scale, zero], [real]))
        constants.append(onnx.helper.make_tensor(scale, onnx.TensorProto.FLOAT, [], [q.scale]))
        constants.append(onnx.helper.make_tensor(zero, kind, [], [q.zero_point]))
        del inputs[name]
        if tensor.name not in inputs and tensor.name not in {i.name for i in infos}:
            infos.append(onnx.helper.make_tensor_value_info(tensor.name, kind, tensor.onnx_shape))
    return infos, constants


def _initializer(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    return onnx.numpy_helper.from_array(value.const_value.numpy(), value.name)
