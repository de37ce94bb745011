"""Which nodes rearrange positions along dimensions that differ between the variants of a model.

Behind such a node, the positions that padding makes lie among the others, and an output whose size grows with its
input's cannot be cropped. Shapes alone do not show it: [3, w] reshaped to [3 w] grows in proportion to w, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints
from ommatid.compiler.model import fixed_shape

Shape = tuple[int, ...]


def rearranging(models: Sequence[ir.Model]) -> list[str]:
    """Names of the nodes that do, in the same model imported with different shapes of its inputs."""
    by_output = [{node.outputs[0].name: node for node in model.graph} for model in models]
    found = []
    for node in models[0].graph:
        nodes = [table[node.outputs[0].name] for table in by_output if node.outputs[0].name in table]
        if node.op_type not in RULES or len(nodes) < len(models):
            continue
        before, after = _shapes([n.inputs[0] for n in nodes]), _shapes([n.outputs[0] for n in nodes])
        known = before and after
        if not known or (_any_differs(before) and RULES[node.op_type](nodes, before, after)):
            found.append(node.name or "")
    return found


def _shapes(values: Sequence[ir.Value | None]) -> list[Shape]:
    """The shapes of one value in all models; empty where one is not known, or ranks differ."""
    shapes = [fixed_shape(value) if value is not None else None for value in values]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(values) and len({len(shape) for shape in known}) == 1 else []


def _any_differs(shapes: Sequence[Shape]) -> bool:
    return len(set(shapes)) > 1


def _differs(shapes: Sequence[Shape], axis: int) -> bool:
    return len({shape[axis] for shape in shapes}) > 1


def _reshape(nodes: Sequence[ir.Node], before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    """Unless each dimension that differs stays one, or is the outermost of those it is merged with or split into."""
    for ins, outs in _groups(before, after):
        inner = [_differs(before, axis) for axis in ins if any(shape[axis] != 1 for shape in before)]
        outer = [_differs(after, axis) for axis in outs if any(shape[axis] != 1 for shape in after)]
        alone = len(inner) == len(outer) == 1
        outermost = bool(inner and outer) and inner[0] and outer[0] and not any((*inner[1:], *outer[1:]))
        if any((*inner, *outer)) and not alone and not outermost:
            return True
    return False


def _groups(before: Sequence[Shape], after: Sequence[Shape]) -> Iterator[tuple[range, range]]:
    """The dimensions of a reshape that become one another in all models, in order."""
    i = j = 0
    while i < len(before[0]) or j < len(after[0]):
        first, second = i, j
        ins = outs = [1] * len(before)
        while (i, j) == (first, second) or ins != outs:
            missing = ins == outs or any(a < b for a, b in zip(ins, outs, strict=True))
            if i < len(before[0]) and missing:
                ins = [a * shape[i] for a, shape in zip(ins, before, strict=True)]
                i += 1
            else:
                outs = [b * shape[j] for b, shape in zip(outs, after, strict=True)]
                j += 1
        yield range(first, i), range(second, j)


def _along(nodes: Sequence[ir.Node], before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    """If the dimension along which the node works differs."""
    return _differs(before, integer(nodes[0], "axis", 0))


def _tile(nodes: Sequence[ir.Node], before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    """If it repeats a dimension that differs."""
    return any(_differs(before, a) and before[0][a] != after[0][a] for a in range(len(before[0])))


def _slice(nodes: Sequence[ir.Node], before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    """If it begins elsewhere in each variant, from the end, or goes backwards, along a dimension that differs."""
    begins = [_numbers(node, 1, "starts") for node in nodes]
    axes = _numbers(nodes[0], 3, "axes") or list(range(len(begins[0])))
    steps = _numbers(nodes[0], 4, "steps") or [1] * len(axes)
    if not all(begins):  # computed
        return True
    return any(
        _differs(before, axis) and (step < 0 or len(set(begin)) > 1 or begin[0] < 0)
        for axis, step, *begin in zip(axes, steps, *begins, strict=True)
    )


def _numbers(node: ir.Node, position: int, name: str) -> list[int]:
    """A constant input of integers, or before opset 10 an attribute; empty where it is absent or computed."""
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None or value.const_value is None:
        return ints(node, name, [])
    return [int(number) for number in value.const_value.numpy().ravel()]


#: Operator: whether such a node (in all models, with the shapes of its input and output) rearranges.
RULES: dict[str, Callable[[Sequence[ir.Node], Sequence[Shape], Sequence[Shape]], bool]] = {
    "Reshape": _reshape, "Flatten": _reshape, "Concat": _along, "Split": _along, "Gather": _along, "Tile": _tile,
    "Slice": _slice,
}  # fmt: skip
