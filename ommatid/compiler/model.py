"""Import: an ONNX file becomes an onnx-ir model with fixed shapes, named nodes and folded constants."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from ommatid.compiler.errors import CompileError
from ommatid.compiler.origins import constants_of, sources_of

OLDEST_OPSET = 7
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_DEFAULT_DOMAINS = ("", "ai.onnx")
CONTRIBUTED = "com.microsoft"  # onnxruntime's own domain, where quantisers of 16 bits stand before opset 21
OPSET_OF_16_BITS = 21
logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(
    logging.ERROR
)  # it would print tracebacks
_NOT_FOLDED = {
    *QUANTIZERS,
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
}


def import_model(
    source: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    as_it_is: bool = False,
) -> ir.Model:
    """The model in ``source`` (path, bytes or ModelProto), ready for the compiler; ``meta["sources"]``: its nodes as given.

    Args:
        shapes: fixed shapes by input name.
        inputs, outputs: names at which the graph is cut; empty: the model's own.
        as_it_is: for a host that takes all of ONNX: nothing is computed, and any opset, type and value may be in it.

    Raises:
        CompileError: it cannot be read, is not a valid model, or has a dimension that is not fixed.
    """
    proto, name = read_proto(source)
    for named in (*proto.opset_import, *proto.graph.node):
        if named.domain == "ai.onnx":  # another name of the default domain
            named.domain = ""
    _check_proto(proto, name, 0 if as_it_is else OLDEST_OPSET)
    if not proto.graph.output and not outputs:
        raise CompileError(f"{name}: the graph has no output", "name tensors with --outputs")
    if proto.functions:
        proto = inline_local_functions(proto)
    _fix_input_shapes(proto, dict(shapes or {}), name, as_it_is)
    constants = () if as_it_is else constants_of(proto)
    proto.ir_version = max(proto.ir_version, 8)  # initialisers need not be inputs
    model = ir.from_proto(proto)
    if not as_it_is:
        standard_quantizers(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    if inputs or outputs:
        model = _cut(model, inputs, outputs, name)
    common.TopologicalSortPass()(model)
    name_nodes(model)
    model.meta["sources"] = sources_of(model, constants)
    if as_it_is:
        return model
    fold(model)
    _check_values(model, name)
    return model


def standard_quantizers(model: ir.Model) -> None:
    """Let quantisers of onnxruntime's own domain be those of ONNX, which before opset 21 had no 16 bits."""
    for node in model.graph:
        if node.op_type in QUANTIZERS and node.domain == CONTRIBUTED:
            node.domain = ""


def contributed_quantizers(model: onnx.ModelProto) -> None:
    """The other way round, for onnxruntime: quantisers of 16 bits, where the opset's have none."""
    opset = next(o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAINS)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    wide = (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
    nodes = [n for n in model.graph.node if n.op_type in QUANTIZERS and len(n.input) > 2]
    nodes = [n for n in nodes if opset < OPSET_OF_16_BITS and kinds.get(n.input[2]) in wide]
    for node in nodes:
        node.domain = CONTRIBUTED
    if nodes and CONTRIBUTED not in {o.domain for o in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIBUTED, 1))


def read_proto(source: Any) -> tuple[onnx.ModelProto, str]:
    """The ModelProto in ``source`` and what to call it in errors.

    Raises:
        CompileError: absent, a folder, empty, truncated or not ONNX.
    """
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return _complete(copy), "model"
    if isinstance(source, bytes | bytearray | memoryview):
        return _complete(_parse(bytes(source), "model")), "model"
    path = Path(source)
    if path.is_dir():
        raise CompileError(f"{path}: is a folder, not an ONNX model", "give the path of the .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror}", "check the path") from None
    proto = _parse(data, str(path))
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CompileError(
            f"{path}: external data cannot be read: {error}", "keep the data file beside the model"
        ) from None
    return proto, str(path)


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise CompileError(f"{name}: is empty", "export the model again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        raise CompileError(
            f"{name}: is not an ONNX model, or is cut short", "export the model again"
        ) from None
    if not proto.graph.node and not proto.graph.output:
        raise CompileError(f"{name}: holds no ONNX graph", "export the model again")
    return proto


def _complete(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model, if none of its data lies in another file: without a path nobody knows where that is."""
    for tensor in proto.graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            file = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise CompileError(
                f"model: the data of {tensor.name!r} lies in another file, {file!r}",
                "give the model's path, or load it with its data (onnx.load does)", tensor.name,
            )  # fmt: skip
    return proto


def _check_node(proto: onnx.ModelProto, node: onnx.NodeProto, name: str, opset: int) -> None:
    """Refuse inputs, outputs and attributes that the operator does not have."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = min(proto.ir_version, onnx.IR_VERSION)
    context.opset_imports = {"": opset}
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        label = node.name or node.op_type
        raise CompileError(
            f"{name}: node {label!r} ({node.op_type}) is not valid: {str(error).splitlines()[0]}",
            "export the model again", label,
        ) from None  # fmt: skip


def _check_tensors(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a tensor that two nodes make, and initialisers whose data do not fill their shape."""
    made: set[str] = set()
    for node in proto.graph.node:
        for value in filter(None, node.output):
            if value in made:
                raise CompileError(f"{name}: tensor {value!r} is made twice", node=node.name)
            made.add(value)
    for tensor in proto.graph.initializer:
        wrong = f"{name}: constant {tensor.name!r} is damaged"
        if not tensor.HasField("raw_data"):
            try:
                onnx.checker.check_tensor(tensor)
            except onnx.checker.ValidationError as error:
                raise CompileError(
                    f"{wrong}: {str(error).splitlines()[0]}", "export the model again"
                ) from None
            continue
        try:
            size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except KeyError:
            raise CompileError(f"{wrong}: type {tensor.data_type} is unknown") from None
        packed = tensor.data_type in _PACKED
        if not packed and len(tensor.raw_data) != size * int(np.prod(tensor.dims, dtype=np.int64)):
            raise CompileError(f"{wrong}: {len(tensor.raw_data)} bytes do not fill shape {list(tensor.dims)}")


#: Types of less than a byte.
_PACKED = {
    getattr(onnx.TensorProto, t)
    for t in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
    if hasattr(onnx.TensorProto, t)
}


def _check_proto(proto: onnx.ModelProto, name: str, oldest: int) -> None:
    opset = next((o.version for o in proto.opset_import if o.domain in _DEFAULT_DOMAINS), 0)
    newest = onnx.defs.onnx_opset_version()
    if not oldest <= opset <= newest:
        raise CompileError(
            f"{name}: opset {opset} is not supported", f"export it with opset {OLDEST_OPSET} to {newest}"
        )
    functions = {(f.domain, f.name) for f in proto.functions}
    known = {i.name for i in proto.graph.input} | {i.name for i in proto.graph.initializer}
    known |= {i.values.name for i in proto.graph.sparse_initializer}
    known |= {output for node in proto.graph.node for output in node.output}
    for node in proto.graph.node:
        label = node.name or node.op_type
        for value in node.input:
            if value and value not in known:
                raise CompileError(
                    f"{name}: node {label!r} ({node.op_type}) reads {value!r}, which nothing produces",
                    "export the model again, or name it with --inputs", label,
                )  # fmt: skip
        default = node.domain in _DEFAULT_DOMAINS and (node.domain, node.op_type) not in functions
        if default and not onnx.defs.has(node.op_type):
            raise CompileError(
                f"{name}: node {label!r}: ONNX has no operator {node.op_type!r}",
                "check the operator's name and domain", label,
            )  # fmt: skip
        if default and not any(a.HasField("g") for a in node.attribute):  # a graph inside needs its scope
            _check_node(proto, node, name, opset)
    _check_tensors(proto, name)
    for output in proto.graph.output:
        if output.name not in known:
            raise CompileError(
                f"{name}: output {output.name!r} is produced by nothing", "export the model again"
            )


def _fix_input_shapes(
    proto: onnx.ModelProto, shapes: dict[str, Sequence[int]], name: str, as_it_is: bool
) -> None:
    initializers = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initializers]
    names = [i.name for i in inputs]
    for given in shapes:
        if given not in names:
            raise CompileError(
                f"{name}: --shape names {given!r}, which is not an input",
                f"the inputs are {', '.join(names)}",
            )
    for value in inputs:
        if as_it_is and not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        if value.name in shapes:
            wanted = shapes[value.name]
            if tensor.HasField("shape") and len(tensor.shape.dim) != len(wanted):
                raise CompileError(
                    f"{name}: --shape gives {value.name!r} {len(wanted)} dimensions; it has {len(tensor.shape.dim)}"
                )
            for dim, size in zip(tensor.shape.dim, wanted, strict=False):
                if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != size:
                    raise CompileError(
                        f"{name}: --shape gives {value.name!r} {list(wanted)}, but the model fixes a dimension to {dim.dim_value}"
                    )
            del tensor.shape.dim[:]
            for size in wanted:
                tensor.shape.dim.add().dim_value = int(size)
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if not tensor.HasField("shape") or any(d is None or d < 0 for d in dims):
            shown = ",".join(d.dim_param or str(d.dim_value or "?") for d in tensor.shape.dim)
            raise CompileError(
                f"{name}: input {value.name!r} has the dynamic shape [{shown}]",
                f"fix it with --shape {value.name}=1,3,224,224 (your sizes)", value.name,
            )  # fmt: skip
        if not as_it_is and any(d == 0 for d in dims):
            raise CompileError(
                f"{name}: input {value.name!r} has a dimension of size zero: {dims}",
                "give a real size with --shape",
                value.name,
            )
    if shapes:  # what was inferred for other sizes no longer holds
        del proto.graph.value_info[:]
        for output in proto.graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")


def _cut(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], name: str) -> ir.Model:
    infer_shapes(model)
    values = ir.convenience.create_value_mapping(model.graph)
    for wanted in (*inputs, *outputs):
        if wanted not in values:
            raise CompileError(
                f"{name}: no tensor is called {wanted!r}", "see the names with `ommatid check`"
            )
    begin = list(inputs) or [v.name or "" for v in model.graph.inputs]
    end = list(outputs) or [v.name or "" for v in model.graph.outputs]
    try:
        graph = ir.convenience.extract(model.graph, begin, end)
    except ValueError as error:
        raise CompileError(
            f"{name}: {', '.join(end)} cannot be computed from {', '.join(begin)}: {error}",
            "name more tensors with --inputs",
        ) from None
    return ir.Model(graph, ir_version=model.ir_version, metadata_props=dict(model.metadata_props))


def name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own: its own if that is free, else one from its operator and place."""
    used: set[str] = set()
    for i, node in enumerate(model.graph):
        base = node.name or f"{node.op_type}_{i}"
        name, k = base, 1
        while name in used:
            name, k = f"{base}_{k}", k + 1
        node.name = name
        used.add(name)


def fold(model: ir.Model) -> None:
    """Infer shapes, compute what is constant, and drop what is not used, until nothing changes."""
    for _ in range(8):
        if not _all_known(model):
            infer_shapes(model)
        changed = _drop_no_ops(model) | _drop_empty_windows(model)
        for node in list(model.graph):
            changed |= _fold_node(model, node)
        common.RemoveUnusedNodesPass()(model)
        if not changed:
            return


def _all_known(model: ir.Model) -> bool:
    """Whether all that nodes make has a type and a fixed shape."""
    values = (value for node in model.graph for value in node.outputs)
    return all(value.dtype is not None and fixed_shape(value) is not None for value in values)


def infer_shapes(model: ir.Model) -> None:
    """Give values the shapes that follow from those of the inputs.

    Raises:
        CompileError: they contradict each other.
    """
    try:
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    except Exception as error:
        raise CompileError(
            f"shapes cannot be inferred: {error}", "check the model with onnx.checker"
        ) from None


def _drop_no_ops(model: ir.Model) -> bool:
    changed = False
    for node in list(model.graph):
        if node.op_type in ("Identity", "Dropout") and node.domain in _DEFAULT_DOMAINS:
            source, result = node.inputs[0], node.outputs[0]
            if (
                source is None
                or trains(node)
                or result.is_graph_output()
                or any(used(o) for o in node.outputs[1:])
            ):
                continue
            result.replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
            changed = True
    return changed


def used(value: ir.Value) -> bool:
    """Whether somebody reads a value."""
    return bool(value.uses()) or value.is_graph_output()


def trains(node: ir.Node) -> bool:
    """Whether a BatchNormalization is for training, or a Dropout may be: it drops unless its ratio is 0."""
    if node.op_type != "Dropout":
        return "training_mode" in node.attributes and bool(node.attributes["training_mode"].as_int())
    ratio, training = [*node.inputs[1:3], None, None][:2]
    return _may_hold(training) and (ratio is None or _may_hold(ratio))


def _may_hold(value: ir.Value | None) -> bool:
    """Whether a number is not 0, or not known."""
    return value is not None and (value.const_value is None or bool(value.const_value.numpy().any()))


def _drop_empty_windows(model: ir.Model) -> bool:
    """Spell out the ceil_mode of pooling whose last window would begin behind the image.

    Such a window does not count (ONNX MaxPool-11, AveragePool-19), but shape inference counts it.
    """
    pools = [
        n for n in model.graph if n.op_type in ("MaxPool", "AveragePool") and "ceil_mode" in n.attributes
    ]
    changed = [pool for pool in pools if pool.attributes["ceil_mode"].as_int() and _spell_out_ceil(pool)]
    for node in model.graph if changed else ():
        for value in node.outputs if node.domain in _DEFAULT_DOMAINS else ():
            value.shape = None  # may have been inferred from the window too many
    return bool(changed)


def _spell_out_ceil(pool: ir.Node) -> bool:
    """Padding behind the image instead of ceil_mode, if a window is empty; the padding changes no result."""
    size, out = (fixed_shape(v) if v is not None else None for v in (pool.inputs[0], pool.outputs[0]))
    if size is None or out is None:
        return False
    rank = len(size) - 2
    strides, dilations, pads = (
        list(pool.attributes[name].as_ints()) if name in pool.attributes else [default] * count
        for name, default, count in (("strides", 1, rank), ("dilations", 1, rank), ("pads", 0, 2 * rank))
    )
    counted = "count_include_pad" in pool.attributes and pool.attributes["count_include_pad"].as_int()
    empty = [(out[2 + d] - 1) * strides[d] >= size[2 + d] + pads[d] for d in range(rank)]
    if not any(empty) or counted:
        return False
    kernel = pool.attributes["kernel_shape"].as_ints()
    for d in range(rank):
        if not empty[d]:
            reach = (out[2 + d] - 1) * strides[d] + dilations[d] * (kernel[d] - 1) + 1
            pads[rank + d] = max(pads[rank + d], reach - size[2 + d] - pads[d])
    if any(pads[rank + d] >= kernel[d] for d in range(rank)):
        raise CompileError(
            f"{pool.op_type} {pool.name!r}: ceil_mode with a window behind the image, and dilations that need as much "
            "padding as the kernel has elements, which onnxruntime does not take",
            "pad the input, or write the pooling without ceil_mode", pool.name or "",
        )  # fmt: skip
    pool.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    pool.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _fold_node(model: ir.Model, node: ir.Node) -> bool:
    """Replace a node whose result is known by initialisers."""
    if (
        node.op_type in _NOT_FOLDED
        or node.domain not in _DEFAULT_DOMAINS
        or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    ):
        return False
    if any(o.is_graph_output() for o in node.outputs):
        return False
    if node.op_type == "Shape" and node.inputs[0] is not None and fixed_shape(node.inputs[0]) is not None:
        dims = list(fixed_shape(node.inputs[0]) or ())
        begin = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(dims)
        results = [np.array(dims[begin:end], np.int64)]
    elif all(value is None or value.const_value is not None for value in node.inputs):
        results = evaluate(model, node)
    else:
        return False
    for output, array in zip(node.outputs, results, strict=False):
        array = np.asarray(array, order="C")  # ascontiguousarray would make a scalar a vector
        constant = ir.Value(name=output.name, const_value=ir.tensor(array))
        constant.shape, constant.type = (
            ir.Shape(array.shape),
            ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        output.replace_all_uses_with(constant)
        output.name = f"{output.name}__folded"
        model.graph.register_initializer(constant)
    model.graph.remove(node, safe=True)
    return True


def evaluate(
    model: ir.Model, node: ir.Node, values: Mapping[str, np.ndarray[Any, Any]] | None = None
) -> list[np.ndarray[Any, Any]]:
    """The node's outputs by ONNX's own reference, of constants and of ``values`` by name.

    Raises:
        CompileError: the reference cannot compute it.
    """
    feeds = {
        v.name or "": v.const_value.numpy()
        for v in node.inputs
        if v is not None and v.const_value is not None
    } | dict(values or {})
    proto = ir.to_proto(node)
    graph = onnx.helper.make_graph(
        [proto], "fold",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()],
        [onnx.helper.make_empty_tensor_value_info(o.name) for o in node.outputs if o.name],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items()]
    try:
        return list(ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, feeds))
    except Exception as error:
        raise CompileError(
            f"node {node.name!r} ({node.op_type}) cannot be computed: {error}", node=node.name or ""
        ) from None


def fixed_shape(value: ir.Value) -> tuple[int, ...] | None:
    """A value's shape if all of it is known."""
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return tuple(int(d) for d in value.shape)  # type: ignore[arg-type]


def _finite(array: np.ndarray[Any, Any]) -> bool:
    """Whether all numbers are finite; so they are where their sum is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _check_values(model: ir.Model, name: str) -> None:
    """Refuse constants that are not finite, scales that are not positive, and shapes that are not known."""
    scales = {n.inputs[1].name for n in model.graph if n.op_type in QUANTIZERS and n.inputs[1] is not None}
    # limits of Clip and paddings may be infinite
    limits = {
        v.name
        for n in model.graph
        if n.op_type in ("Clip", "Pad", "Max", "Min", "Where")
        for v in n.inputs[1:]
        if v is not None
    }
    for key, value in model.graph.initializers.items():
        if value.const_value is None or not np.issubdtype(_dtype(value), np.floating):
            continue
        array = value.const_value.numpy()
        user = next((u.node.name for u in value.uses()), key)
        if key in scales and not (_finite(array) and (array > 0).all()):
            raise CompileError(
                f"{name}: scale {key!r} of node {user!r} is not a positive number",
                "quantise the model again",
                user or "",
            )
        if key not in limits and not _finite(array):
            raise CompileError(
                f"{name}: constant {key!r} of node {user!r} holds NaN or infinity",
                "check the training or export",
                user or "",
            )
    for node in model.graph:
        for value in node.outputs:
            shape = fixed_shape(value)
            if shape is not None and 0 in shape:
                raise CompileError(
                    f"{name}: node {node.name!r} makes a tensor of size zero: {list(shape)}",
                    node=node.name or "",
                )


def _dtype(value: ir.Value) -> Any:
    assert value.const_value is not None
    try:
        return value.const_value.dtype.numpy()
    except TypeError:
        return np.dtype(object)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as ONNX's own ModelProto."""
    return ir.to_proto(model)
