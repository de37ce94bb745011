"""Canonicalisation of float models, before quantisation: what exporters spell out becomes one operator again.

Each rewrite is a function of a node that returns whether it changed the graph. ``REWRITES`` is their list;
``LATER`` are those that would take apart what the first ones look for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import fixed_shape, fold, name_nodes

OPSET = 17
Array = np.ndarray[Any, Any]


def canonicalize(model: ir.Model) -> ir.Model:
    """The model at opset 17 or above with every rewrite applied until none fires.

    Raises:
        CompileError: the model's operators cannot be raised to that opset.
    """
    model = raise_opset(model)
    for rewrites in (REWRITES, LATER):
        changed = True
        while changed:
            changed = False
            for node in list(model.graph):
                rewrite = rewrites.get(node.op_type)
                if node.graph is not None and rewrite is not None and node.domain in ("", "ai.onnx"):
                    changed |= rewrite(model, node)
            fold(model)
    name_nodes(model)
    return model


def raise_opset(model: ir.Model) -> ir.Model:
    """The model at opset 17 at least, by ONNX's own converter; weights take no part in it."""
    if (model.graph.opset_imports.get("") or 0) >= OPSET:
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
        proto = onnx.version_converter.convert_version(ir.to_proto(model), OPSET)
    except Exception as error:
        raise CompileError(
            f"the model cannot be raised to opset {OPSET}: {error}", f"export it with opset {OPSET} or above"
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


# --- helpers --------------------------------------------------------------------------------------------


def _constant(value: ir.Value | None) -> Array | None:
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _scalar(value: ir.Value | None) -> float | None:
    array = _constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _alone(value: ir.Value | None) -> ir.Node | None:
    """The producer of a value that nobody else uses."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return value.producer()


def _operands(node: ir.Node) -> tuple[ir.Value | None, Array | None]:
    """(activation, constant) of a commutative node; the constant is None if there is none."""
    a, b = node.inputs[:2]
    if _constant(a) is not None:
        a, b = b, a
    return a, _constant(b)


def _new_constant(model: ir.Model, name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array)))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    model.graph.register_initializer(value)
    return value


def _replace(model: ir.Model, old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` in the place of ``old``, its only output taking over name and uses."""
    result, fresh = old.outputs[0], new.outputs[0]
    fresh.shape, fresh.type = result.shape, result.type
    model.graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(result, fresh, replace_graph_outputs=True)
    name = result.name
    result.name = f"{name}__replaced"
    fresh.name = name
    model.graph.remove(old, safe=True)


def _by_channel(array: Array, channels: int, rank: int) -> Array | None:
    """A constant as a vector over axis 1 of a tensor, or None if it is something else."""
    if array.size == 1:
        return np.full(channels, array.reshape(-1)[0])
    padded = (1,) * (rank - array.ndim) + array.shape
    if len(padded) == rank and rank > 1 and padded[1] == channels and array.size == channels:
        return array.reshape(-1)
    return None


# --- rewrites -------------------------------------------------------------------------------------------


def _fold_affine(model: ir.Model, node: ir.Node, scalars: bool = False) -> bool:
    """BatchNormalization, or Mul or Add by channel, into the convolution or normalisation before it.

    One number for all channels is folded only where ``scalars``: it may belong to an h-swish.
    """
    if node.op_type == "BatchNormalization":
        source = node.inputs[0]
        parts = [_constant(v) for v in node.inputs[1:5]]
        if any(p is None for p in parts) or any(o.uses() for o in node.outputs[1:]):
            return False
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parts)
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        slope = gamma / np.sqrt(variance + epsilon)
        shift = beta - mean * slope
    else:
        source, constant = _operands(node)
        shape = fixed_shape(source) if source is not None else None
        if constant is None or shape is None or len(shape) < 2 or shape != fixed_shape(node.outputs[0]):
            return False
        vector = _by_channel(constant.astype(np.float64), shape[1], len(shape))
        if vector is None:
            return False
        one, zero = np.ones(shape[1]), np.zeros(shape[1])
        slope, shift = (vector, zero) if node.op_type == "Mul" else (one, vector)
    before = _alone(source)
    if before is None or before.op_type not in ("Conv", "ConvTranspose", "BatchNormalization"):
        return False
    if any(v is not None and _constant(v) is None for v in before.inputs[1:3]):
        return False
    if before.op_type == "ConvTranspose" and _group(before) != 1:
        return False
    if (
        node.op_type != "BatchNormalization"
        and before.op_type != "BatchNormalization"
        and not scalars
        and _constant_is_scalar(node)
    ):
        return False
    _absorb(model, before, slope, shift)
    result = node.outputs[0]
    ir.convenience.replace_all_uses_with(result, before.outputs[0], replace_graph_outputs=True)
    name = result.name
    result.name = f"{name}__folded"
    before.outputs[0].name = name
    model.graph.remove(node, safe=True)
    return True


def _group(node: ir.Node) -> int:
    return int(node.attributes["group"].as_int()) if "group" in node.attributes else 1


def _constant_is_scalar(node: ir.Node) -> bool:
    _, constant = _operands(node)
    return constant is not None and constant.size == 1


def _absorb(model: ir.Model, before: ir.Node, slope: Array, shift: Array) -> None:
    """``before`` computes slope * y + shift instead of y."""
    label = before.outputs[0].name
    if before.op_type == "BatchNormalization":
        gamma, beta = (np.asarray(_constant(before.inputs[i]), np.float64) for i in (1, 2))
        for i, array in ((1, gamma * slope), (2, beta * slope + shift)):
            before.replace_input_with(
                i,
                _new_constant(
                    model, f"{label}__bn{i}_{len(model.graph.initializers)}", array.astype(np.float32)
                ),
            )
        return
    weights = np.asarray(_constant(before.inputs[1]), np.float64)
    bias = _constant(before.inputs[2]) if len(before.inputs) > 2 else None
    bias = np.zeros(len(slope)) if bias is None else np.asarray(bias, np.float64)
    if before.op_type == "Conv":
        weights = weights * slope.reshape(-1, *[1] * (weights.ndim - 1))
    else:
        weights = weights * slope.reshape(1, -1, *[1] * (weights.ndim - 2))
    if len(before.inputs) < 3:
        before.resize_inputs(3)
    for i, array in ((1, weights), (2, bias * slope + shift)):
        before.replace_input_with(
            i,
            _new_constant(
                model, f"{label}__folded{i}_{len(model.graph.initializers)}", array.astype(np.float32)
            ),
        )


def _fold_before(model: ir.Model, node: ir.Node) -> bool:
    """A BatchNormalization before a convolution without padding goes into its weights."""
    bn = _alone(node.inputs[0])
    weights = _constant(node.inputs[1])
    if (
        bn is None
        or bn.op_type != "BatchNormalization"
        or weights is None
        or any(v is not None and _constant(v) is None for v in node.inputs[2:3])
        or any(node.attributes["pads"].as_ints() if "pads" in node.attributes else [])
    ):
        return False
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    parts = [_constant(v) for v in bn.inputs[1:5]]
    if group != 1 or mode not in ("NOTSET", "", "VALID") or any(p is None for p in parts):
        return False
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parts)
    slope = gamma / np.sqrt(
        variance + (bn.attributes["epsilon"].as_float() if "epsilon" in bn.attributes else 1e-5)
    )
    shift = beta - mean * slope
    wide = weights.astype(np.float64)
    spread = (1, -1, *[1] * (wide.ndim - 2))
    bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    base = np.zeros(len(wide)) if bias is None else np.asarray(bias, np.float64)
    extra = (wide * shift.reshape(spread)).reshape(len(wide), -1).sum(axis=1)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    label = node.outputs[0].name
    node.replace_input_with(0, bn.inputs[0])
    for i, array in ((1, wide * slope.reshape(spread)), (2, base + extra)):
        node.replace_input_with(i, _new_constant(model, f"{label}__before{i}", array.astype(np.float32)))
    model.graph.remove(bn, safe=True)
    return True


def _hard_swish(model: ir.Model, node: ir.Node) -> bool:
    """x * Clip(x + 3, 0, 6) / 6, divided last or multiplied by a sixth, is HardSwish."""
    x, factor = _operands(node) if node.op_type == "Mul" else (node.inputs[0], _constant(node.inputs[1]))
    if factor is None or factor.size != 1:
        return False
    value = float(factor.reshape(-1)[0])
    if not math.isclose(value, 6.0 if node.op_type == "Div" else 1 / 6, rel_tol=1e-4):
        return False
    product = _alone(x)
    if product is None or product.op_type != "Mul":
        return False
    for clip_value, other in ((product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])):
        clip = _alone(clip_value)
        if clip is None or clip.op_type != "Clip" or [_scalar(v) for v in clip.inputs[1:3]] != [0.0, 6.0]:
            continue
        shifted = _alone(clip.inputs[0])
        if shifted is None or shifted.op_type != "Add":
            continue
        base, three = _operands(shifted)
        if base is other and three is not None and three.size == 1 and float(three.reshape(-1)[0]) == 3.0:
            new = ir.node("HardSwish", [other], name=node.name)
            _replace(model, node, new)
            for old in (product, clip, shifted):
                model.graph.remove(old, safe=True)
            return True
    return False


def _swish(model: ir.Model, node: ir.Node) -> bool:
    """Affine by channel, else the parts of h-swish."""
    return _hard_swish(model, node) or _fold_affine(model, node)


def _add(model: ir.Model, node: ir.Node) -> bool:
    """Affine by channel, else a gated residual."""
    return _fold_affine(model, node) or _gated_residual(model, node)


def _gated_residual(model: ir.Model, node: ir.Node) -> bool:
    """x + x * gate is x * (gate + 1) where the gate is smaller than x: one pass over x, not two."""
    for x, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        product = _alone(other)
        if x is None or product is None or product.op_type != "Mul" or x not in product.inputs[:2]:
            continue
        gate = product.inputs[1] if product.inputs[0] is x else product.inputs[0]
        sizes = [math.prod(fixed_shape(v) or (0,)) if v is not None else 0 for v in (x, gate)]
        if gate is None or gate is x or not 0 < sizes[1] < sizes[0] or _constant(gate) is not None:
            continue
        label = node.outputs[0].name
        one = _new_constant(model, f"{label}__one", np.ones(1, np.float32))
        raised = ir.node("Add", [gate, one], name=f"{product.name}__gate")
        raised.outputs[0].name = f"{label}__gate"
        model.graph.insert_before(node, raised)
        new = ir.node("Mul", [x, raised.outputs[0]], name=node.name)
        _replace(model, node, new)
        model.graph.remove(product, safe=True)
        return True
    return False


def _fold_scalar(model: ir.Model, node: ir.Node) -> bool:
    """Mul or Add of one number into the convolution before it."""
    return _fold_affine(model, node, scalars=True)


def _sum(model: ir.Model, node: ir.Node) -> bool:
    """Sum of several is a chain of Adds."""
    values = list(node.inputs)
    if len(values) == 1:
        return False
    total = values[0]
    for i, value in enumerate(values[1:], 1):
        new = ir.node("Add", [total, value], name=node.name if i == len(values) - 1 else f"{node.name}_{i}")
        if i == len(values) - 1:
            _replace(model, node, new)
        else:
            model.graph.insert_before(node, new)
            new.outputs[0].name = f"{node.outputs[0].name}__{i}"
        total = new.outputs[0]
    return True


def _global_pool(model: ir.Model, node: ir.Node) -> bool:
    """AveragePool over the whole image is GlobalAveragePool."""
    shape = fixed_shape(node.inputs[0]) if node.inputs[0] is not None else None
    if shape is None or tuple(node.attributes["kernel_shape"].as_ints()) != shape[2:]:
        return False
    if "pads" in node.attributes and any(node.attributes["pads"].as_ints()):
        return False
    if any(size != 1 for size in (fixed_shape(node.outputs[0]) or (0, 0, 0))[2:]):  # auto_pad adds windows
        return False
    _replace(model, node, ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name))
    return True


REWRITES: dict[str, Callable[[ir.Model, ir.Node], bool]] = {
    "BatchNormalization": _fold_affine,
    "Conv": _fold_before,
    "Mul": _swish,
    "Add": _add,
    "Div": _hard_swish,
    "Sum": _sum,
    "AveragePool": _global_pool,
}

LATER: dict[str, Callable[[ir.Model, ir.Node], bool]] = {"Mul": _fold_scalar, "Add": _fold_scalar}
