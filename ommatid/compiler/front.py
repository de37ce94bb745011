"""The compiler's front: an ONNX model, float or QDQ, becomes a network of layers."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.dump import dump, graph_text
from ommatid.compiler.errors import CompileError
from ommatid.compiler.layers import Layer, Network, Stage
from ommatid.compiler.lint import Finding
from ommatid.compiler.model import QUANTIZERS, fixed_shape, import_model, infer_shapes
from ommatid.compiler.operators import FINDERS, MOVERS, RULES
from ommatid.compiler.origins import renamed, sources_of, stand_for
from ommatid.compiler.partition import make_stages
from ommatid.compiler.plan import Plan, make_plan, plan_and_form
from ommatid.compiler.quantize import quantize
from ommatid.compiler.quantized import Walk
from ommatid.compiler.ranges import PERCENTILE
from ommatid.compiler.recipe import Recipe
from ommatid.compiler.rounding import round_before_selecting
from ommatid.compiler.rules_topk import move_indices
from ommatid.compiler.storage import operands
from ommatid.isa.program import Partition, Port


@dataclass(frozen=True)
class FrontOptions:
    """How a model is read and quantised.

    ``shapes`` fixes inputs by name; ``inputs`` and ``outputs`` cut the graph; ``calibration`` is a folder, an
    ``.npz`` file or a sequence of feeds (None: seeded random data); ``preprocess`` makes a sample from an image
    file for a folder of images; ``activations`` is "int8", "uint8" or "int16"; ``method`` is "auto" (ranges chosen by
    tensor, channels equalised and biases corrected where that helps) or one of ``ranges.METHODS``, alone; ``recipe``
    rules over both; ``plan``, of ``find_plan``, stands for all of these; ``progress`` is told what is being
    done; without ``cpu``, a node that the NPU cannot take is an error; without ``npu``, all nodes run on the CPU, in
    float if the model is.
    """

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    calibration: Any = None
    preprocess: Callable[[Any, tuple[int, ...]], Any] | None = None
    activations: str = "uint8"
    method: str = "auto"
    percentile: float = PERCENTILE
    recipe: Recipe | str | Path | None = None
    cpu: bool = True
    npu: bool = True
    save_qdq: str | None = None
    plan: Plan | None = None
    progress: Callable[[str], None] | None = None


@dataclass(frozen=True)
class NodeVerdict:
    """Where a node runs (placement "npu" or "cpu"), by which rule, and what would change that."""

    name: str
    op: str
    placement: str
    rule: str
    hint: str


def build_network(source: Any, options: FrontOptions) -> Network:
    """The network of a model (path, bytes or ModelProto).

    Raises:
        CompileError: the model or the calibration data cannot be used.
    """
    if not options.npu:
        return _on_the_cpu(read_model(source, options))
    walk, plan = walk_model(source, options)
    layers = live_layers(walk)
    sources = walk.model.meta["sources"]
    stands = stand_for(sources, sources_of(walk.model))
    stages = _in_names(make_stages(walk, layers), stands)
    cpu = [stage.cpu for stage in stages if stage.cpu is not None]
    computing = [p for p in cpu if p.nodes]  # one without only hands on constants
    if computing and not options.cpu:
        raise CompileError(
            f"{sum(len(p.nodes) for p in computing)} nodes cannot run on the NPU, the first {computing[0].nodes[0]!r}: "
            f"{computing[0].reasons[0]}",
            "see `ommatid check`; leave --no-cpu out to run them on the host", computing[0].nodes[0],
        )  # fmt: skip
    graph = walk.model.graph
    outputs = tuple(_output_port(walk, value) for value in graph.outputs)
    inputs = tuple(_input_port(walk, value) for value in graph.inputs)
    read_by_cpu = {name for p in cpu for name in p.inputs}
    made = {layer.output for layer in layers}
    kept = (made & read_by_cpu) | {p.tensor for p in outputs if p.tensor in made}
    used = {name for layer in layers for name in (*operands(layer), layer.output)}
    written_by_cpu = {name for p in cpu for name in p.outputs}
    fed = frozenset(name for name in walk.fed if name in used or name in {p.tensor for p in inputs})
    shown = {p.tensor for p in outputs}
    fed |= frozenset(name for name in written_by_cpu if name in used or name in shown)
    seen = used | fed | {p.tensor for p in (*inputs, *outputs)} | read_by_cpu
    tensors = {name: tensor for name, tensor in walk.tensors.items() if name in seen}
    return Network(
        tensors,
        stages,
        inputs,
        outputs,
        fed,
        frozenset(n for n in kept if n),
        dict(walk.model.metadata_props),
        {name: data for name, data in walk.constants.items() if name in tensors},
        plan.notes() if plan is not None else {},
        sources,
    )


def _on_the_cpu(model: ir.Model) -> Network:
    """The network whose only partition is the model, on the CPU."""
    proto = ir.to_proto(model)
    if any(value.shape is None for value in model.graph.outputs):
        infer_shapes(model)  # for the ports alone: it takes some sequences for tensors
    inputs, outputs = (
        tuple(_port(v) for v in values) for values in (model.graph.inputs, model.graph.outputs)
    )
    nodes = tuple(node.name or "" for node in model.graph)
    partition = Partition(
        "cpu", tuple(p.name for p in inputs), tuple(p.name for p in outputs), nodes=nodes,
        model=proto.SerializeToString(deterministic=True), reasons=("the whole network is placed on the CPU",) * len(nodes),
    )  # fmt: skip
    empty: frozenset[str] = frozenset()
    stages, sources = (Stage(cpu=partition),), model.meta["sources"]
    return Network({}, stages, inputs, outputs, empty, empty, dict(model.metadata_props), sources=sources)


def _port(value: ir.Value) -> Port:
    """An input or output that no quantised tensor is; a sequence has no shape."""
    kind = _type(value)
    return Port(value.name or "", (fixed_shape(value) or ()) if kind.startswith("tensor") else (), kind, None)


def _in_names(stages: Sequence[Stage], stands: Mapping[str, tuple[str, ...]]) -> tuple[Stage, ...]:
    """The stages with their nodes called as in the user's model; a layer of none serves the one that reads it."""
    reader: dict[str, tuple[str, ...]] = {}
    result: list[Stage] = []
    for stage in reversed(stages):
        layers: list[Layer] = []
        for layer in reversed(stage.layers):
            nodes = renamed(layer.nodes, stands) or reader.get(layer.output, ())
            layers.append(replace(layer, nodes=nodes))
            reader |= dict.fromkeys(operands(layer), nodes[:1])
        result.append(Stage(tuple(reversed(layers)), stage.cpu and _host_in_names(stage.cpu, stands)))
    return tuple(reversed(result))


def _host_in_names(part: Partition, stands: Mapping[str, tuple[str, ...]]) -> Partition:
    """A CPU partition with its nodes called as in the user's model, each with its first reason."""
    reasons: dict[str, str] = {}
    for node, reason in zip(part.nodes, part.reasons, strict=True):
        for name in renamed([node], stands):
            reasons.setdefault(name, reason)
    return replace(part, nodes=tuple(reasons), reasons=tuple(reasons.values()))


def find_plan(source: Any, options: FrontOptions) -> Plan | None:
    """How to quantise a float model, at any of its shapes; None where nothing is quantised here.

    Raises:
        CompileError: the model, the recipe or the calibration data cannot be used.
    """
    model = read_model(source, options)
    return None if not options.npu or is_quantized(model) else make_plan(canonicalize(model), options)


def walk_model(source: Any, options: FrontOptions) -> tuple[Walk, Plan | None]:
    """Import, canonicalise, quantise (unless the model is quantised already) and walk a model."""
    return _walk(read_model(source, options), options)


def _walk(
    model: ir.Model, options: FrontOptions, explain: Callable[[str, str], None] | None = None
) -> tuple[Walk, Plan | None]:
    plan, sources = None, model.meta["sources"]
    dump("imported", lambda: graph_text(model))
    if not is_quantized(model):
        names = {o.name for o in model.graph.outputs}
        model = canonicalize(model, explain)
        dump("canonical", lambda: graph_text(model))
        plan, form = (options.plan, None) if options.plan else plan_and_form(model, options)
        model = quantize(model, plan, options.save_qdq, form)
        dump("quantized", lambda: graph_text(model))
        assert names == {o.name for o in model.graph.outputs}
    elif options.recipe is not None:
        raise CompileError(
            "the model is quantised already: a recipe cannot change it", "give the float model, or no recipe"
        )
    round_before_selecting(model)
    walk = Walk(model, RULES, {**MOVERS, **FINDERS}, move_indices)
    walk.run()
    model.meta["sources"] = sources
    return walk, plan


def read_model(source: Any, options: FrontOptions) -> ir.Model:
    """The model, cut and with fixed shapes, as the options say.

    Raises:
        CompileError: it cannot be used.
    """
    return import_model(source, options.shapes, options.inputs, options.outputs, not options.npu)


def is_quantized(model: ir.Model) -> bool:
    return any(node.op_type in QUANTIZERS for node in model.graph)


def live_layers(walk: Walk) -> list[Layer]:
    """The layers whose results reach an output, a CPU node or another live layer."""
    wanted = {value.name or "" for value in walk.model.graph.outputs}
    covered = {name for names in walk.covered.values() for name in names}
    for node in walk.model.graph:
        stays = node.name in covered or node.op_type == "DequantizeLinear"
        for value in () if stays else node.inputs:
            if value is not None:
                wanted.add(value.name or "")
                wanted.add(walk.deq.get(value.name or "", ""))
    wanted |= {held.get(name, "") for name in wanted for held in (walk.deq, walk.indices)}
    live: list[Layer] = []
    for layer in reversed(walk.layers):
        if layer.output in wanted:
            live.append(layer)
            wanted |= set(operands(layer))
    return live[::-1]


def _input_port(walk: Walk, value: ir.Value) -> Port:
    q = next((u.node for u in value.uses() if u.node.op_type == "QuantizeLinear"), None)
    tensor = q.outputs[0].name if q is not None and q.outputs[0].name in walk.tensors else None
    return Port(value.name or "", fixed_shape(value) or (), _type(value), tensor)


def _output_port(walk: Walk, value: ir.Value) -> Port:
    tensor = walk.deq.get(value.name or "") or walk.indices.get(value.name or "")
    return Port(value.name or "", fixed_shape(value) or (), _type(value), tensor)


def _type(value: ir.Value) -> str:
    """A value's type, as onnxruntime spells it."""
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        return "seq" if isinstance(value.type, ir.SequenceType) else "optional"
    return f"tensor({(value.dtype or ir.DataType.FLOAT).name.lower()})"


def check_nodes(source: Any, options: FrontOptions) -> tuple[list[NodeVerdict], tuple[Finding, ...]]:
    """A verdict for every node of the canonical graph, and what the lint finds.

    Raises:
        CompileError: the model cannot be used.
    """
    model = read_model(source, options)
    known = {value.name or "" for node in model.graph for value in node.outputs}
    near: dict[str, list[str]] = {}
    walk, plan = _walk(model, options, lambda node, reason: near.setdefault(node, []).append(reason))
    covered = {name for names in walk.covered.values() for name in names}
    rows = []
    for node in walk.model.graph:
        if node.op_type in QUANTIZERS:
            continue
        name = node.name or ""
        if name in covered:
            rows.append(NodeVerdict(name, node.op_type, "npu", _rule(node.op_type), ""))
        else:
            reasons = walk.reasons.get(name, ["an input or output of it is not quantised"])
            hints = [*near.get(name, []), *_cut_hint(node, known)]
            rows.append(
                NodeVerdict(name, node.op_type, "cpu", "; ".join(dict.fromkeys(reasons)), "; ".join(hints))
            )
    return rows, plan.findings if plan is not None else ()


def _rule(op: str) -> str:
    rule = RULES.get(op) or MOVERS.get(op) or FINDERS.get(op)
    return (rule.__doc__ or "").strip() if rule else "A table, or an affine function by channel."


def _cut_hint(node: ir.Node, known: Container[str]) -> list[str]:
    """Where the user's graph, of these tensors, could be cut so that a tail of CPU nodes runs outside."""
    names = list(dict.fromkeys(filter(None, (_known_before(v, known) for v in node.inputs))))
    return [f"cut the graph before it with --outputs {','.join(names)}"] if names else []


def _known_before(value: ir.Value | None, known: Container[str]) -> str:
    """The nearest tensor of the user's graph that a value is made of; empty for constants and inputs."""
    while value is not None and value.name not in known:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return (value.name or "") if value is not None else ""
