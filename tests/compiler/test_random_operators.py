"""Every operator of the NPU over random shapes and attributes: quantised, compiled, run beside onnxruntime.

A chip with little memory makes the compiler tile what would fit elsewhere. Each case must run on the NPU; where
onnxruntime holds an exact kernel its bits are met, elsewhere one step of the output's scale is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from ommatid.compiler.errors import CompileError
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.regions import MOST_STEPS_OFF
from ommatid.isa.target import Target, load_target
from ommatid.isa.verifier import verify
from ommatid.profiler.compare import layerwise
from tests import networks

Array = np.ndarray[Any, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

TINY = dataclasses.replace(load_target("ommatid-256"), name="tiny", sram_kib=32, accumulator_kib=4)
TARGETS = {name: load_target(name) for name in ("ommatid-256", "ommatid-1k", "ommatid-4k")} | {"tiny": TINY}
CHANNELS = st.sampled_from([1, 2, 3, 4, 8, 13, 16, 17, 32, 33, 48])
SIDE = st.integers(1, 14)


@dataclasses.dataclass
class Case:
    """A model in the making: nodes from x (and further inputs) to y, constants, shapes of the inputs."""

    nodes: list[Any]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, Array] = dataclasses.field(default_factory=dict)


def node(op: str, inputs: str = "x", output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), output.split(), f"the {op}", **attributes)


def random(draw: Draw, *shape: int) -> Array:
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    return generator.standard_normal(shape).astype(np.float32)


def image(draw: Draw, channels: st.SearchStrategy[int] = CHANNELS) -> tuple[int, ...]:
    return 1, draw(channels), draw(SIDE), draw(SIDE)


def window(draw: Draw, h: int, w: int, dilations: bool = True) -> dict[str, list[int]]:
    """Attributes of a window that meets the image at least once; padding is less than the kernel."""
    kernel = [draw(st.integers(1, 5)) for _ in range(2)]
    dilation = [draw(st.integers(1, 3)) if dilations and k > 1 else 1 for k in kernel]
    begin = [draw(st.integers(0, k - 1)) for k in kernel]
    end = [draw(st.integers(0, k - 1)) for k in kernel]
    for i, size in enumerate((h, w)):
        while size + begin[i] + end[i] < dilation[i] * (kernel[i] - 1) + 1:
            kernel[i], begin[i], end[i] = (
                kernel[i] - 1,
                min(begin[i], kernel[i] - 2),
                min(end[i], kernel[i] - 2),
            )
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    return {"kernel_shape": kernel, "dilations": dilation, "pads": begin + end, "strides": strides}


def conv(draw: Draw) -> Case:
    group = draw(st.sampled_from([1, 1, 1, 2, 3]))
    per_group, outputs = draw(st.sampled_from([1, 3, 8, 17, 24])), draw(st.sampled_from([1, 3, 16, 17, 40]))
    shape = (1, group * per_group, draw(SIDE), draw(SIDE))
    attributes = window(draw, *shape[2:])
    constants = {"w": random(draw, group * outputs, per_group, *attributes["kernel_shape"])}
    if draw(st.booleans()):
        constants["b"] = random(draw, group * outputs)
    return Case(
        [node("Conv", " ".join(["x", *constants]), group=group, **attributes)], {"x": shape}, constants
    )


def wide_conv(draw: Draw) -> Case:
    inputs, outputs = draw(st.sampled_from([(360, 17), (17, 360), (360, 360), (1, 360), (512, 3)]))
    kernel = draw(st.sampled_from([1, 3]))
    constants = {"w": random(draw, outputs, inputs, kernel, kernel)}
    attributes = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4}
    return Case([node("Conv", "x w", **attributes)], {"x": (1, inputs, draw(SIDE), draw(SIDE))}, constants)


def depthwise(draw: Draw) -> Case:
    shape = image(draw, st.sampled_from([2, 3, 16, 17, 40, 130]))
    attributes = window(draw, *shape[2:])
    constants = {"w": random(draw, shape[1], 1, *attributes["kernel_shape"]), "b": random(draw, shape[1])}
    return Case([node("Conv", "x w b", group=shape[1], **attributes)], {"x": shape}, constants)


def conv_1d(draw: Draw) -> Case:
    inputs, outputs, size = draw(CHANNELS), draw(CHANNELS), draw(st.integers(5, 40))
    kernel = draw(st.integers(1, 5))
    attributes = {"kernel_shape": [kernel], "strides": [draw(st.integers(1, 2))], "pads": [kernel // 2] * 2}
    return Case(
        [node("Conv", "x w", **attributes)],
        {"x": (1, inputs, size)},
        {"w": random(draw, outputs, inputs, kernel)},
    )


def conv_relu(draw: Draw) -> Case:
    case = conv(draw)
    case.nodes[0].output[0] = "c"
    kind = draw(st.sampled_from(["Relu", "LeakyRelu", "HardSwish", "Sigmoid", "Clip"]))
    case.constants |= {"low": np.float32(0), "high": np.float32(3)} if kind == "Clip" else {}
    return Case(
        [*case.nodes, node(kind, "c low high" if kind == "Clip" else "c")], case.shapes, case.constants
    )


def conv_transpose_any(draw: Draw) -> Case:
    """Groups, dilations, output padding, automatic padding, one dimension."""
    rank, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2, 3]))
    each, outputs = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 3, 17]))
    shape = (1, group * each, *(draw(SIDE) for _ in range(rank)))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "group": group}
    kind = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if kind == "pads":
        attributes["dilations"] = [draw(st.integers(1, 3)) if k > 1 else 1 for k in kernel]
        attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
        begin, end = ([draw(st.integers(0, min(k - 1, 1))) for k in kernel] for _ in range(2))
        attributes["pads"] = begin + end
    else:
        attributes["auto_pad"] = kind
    sizes = [(n - 1) * s + k for n, s, k in zip(shape[2:], strides, kernel, strict=True)]
    if kind == "pads" and min(sizes) < 3:
        attributes["pads"] = [0] * (2 * rank)
    constants = {"w": random(draw, shape[1], outputs, *kernel), "b": random(draw, group * outputs)}
    return Case([node("ConvTranspose", " ".join(["x", *constants]), **attributes)], {"x": shape}, constants)


def residual(draw: Draw) -> Case:
    """A convolution and what is added to it, in one pass: images of one row or column, too."""
    shape, outputs, kernel = image(draw), draw(CHANNELS), draw(st.sampled_from([1, 1, 3]))
    shape = (*shape[:2], *(draw(st.sampled_from([1, side])) for side in shape[2:]))
    nodes = [node("Conv", "x w", "c", pads=[kernel // 2] * 4), node("Add", "c z", "a"), node("Relu", "a")]
    return Case(
        nodes,
        {"x": shape, "z": (1, outputs, *shape[2:])},
        {"w": random(draw, outputs, shape[1], kernel, kernel)},
    )


def conv_transpose(draw: Draw) -> Case:
    shape, outputs = image(draw), draw(CHANNELS)
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel] * 2
    for i in range(2):
        if (shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + 2] < 1:
            pads[i] = pads[i + 2] = 0
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    constants = {"w": random(draw, shape[1], outputs, *kernel), "b": random(draw, outputs)}
    return Case([node("ConvTranspose", "x w b", **attributes)], {"x": shape}, constants)


def gemm(draw: Draw) -> Case:
    rows, k, n = (
        draw(st.integers(1, 20)),
        draw(st.sampled_from([1, 3, 17, 64, 360])),
        draw(st.sampled_from([1, 3, 17, 100])),
    )
    turned = draw(st.booleans())
    constants = {"w": random(draw, *((n, k) if turned else (k, n))), "b": random(draw, n)}
    return Case([node("Gemm", "x w b", transB=int(turned))], {"x": (rows, k)}, constants)


def flatten_gemm(draw: Draw) -> Case:
    shape, n = image(draw), draw(st.sampled_from([1, 10, 17]))
    constants = {"w": random(draw, int(np.prod(shape)), n)}
    return Case([node("Flatten", "x", "f"), node("Gemm", "f w")], {"x": shape}, constants)


def matmul(draw: Draw) -> Case:
    lead = draw(st.sampled_from([(), (1,), (3,), (1, 2)]))
    m, k, n = (
        draw(st.integers(1, 20)),
        draw(st.sampled_from([1, 3, 17, 64])),
        draw(st.sampled_from([1, 3, 17, 100])),
    )
    return Case([node("MatMul", "x w")], {"x": (*lead, m, k)}, {"w": random(draw, k, n)})


SIZE = st.sampled_from([1, 2, 3, 4, 7, 8, 13, 16, 17, 33, 50])


def product(draw: Draw) -> Case:
    """Two activations, of any ranks, some dimensions broadcast, at times one transposed before."""
    m, n = draw(SIZE), draw(SIZE)
    k = draw(st.one_of(SIZE, st.sampled_from([100, 360, 1000])))
    batch = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 3)))]
    leads = [
        [1 if draw(st.integers(0, 3)) == 0 else d for d in batch][draw(st.integers(0, 3)) :] for _ in "xz"
    ]
    if not batch and draw(st.integers(0, 5)) == 0:
        return Case([node("MatMul", "x z")], {"x": (k,), "z": (k, n)})
    nodes, names, shapes = [], {"x": "x", "z": "z"}, {"x": (*leads[0], m, k), "z": (*leads[1], k, n)}
    for name in "xz":
        if draw(st.integers(0, 2)) == 0:
            perm = draw(st.permutations(range(len(shapes[name]))))
            shapes[name] = tuple(shapes[name][perm.index(d)] for d in range(len(perm)))
            names[name] = f"{name}t"
            nodes.append(node("Transpose", name, names[name], perm=perm))
            nodes[-1].name += name
    result = "p" if draw(st.booleans()) else "y"
    nodes.append(node("MatMul", " ".join(names.values()), result))
    if result == "p":
        nodes.append(node(draw(st.sampled_from(["Relu", "Sigmoid"])), "p"))
    return Case(nodes, shapes)


def attention(draw: Draw) -> Case:
    """Heads of tokens: reshapes and transposes as exporters write them, scores, softmax, the product with values."""
    heads, each, tokens, others = draw(st.integers(1, 3)), draw(SIZE), draw(SIZE), draw(SIZE)
    constants = {
        "apart": np.array([2, -1, heads, each], np.int64), "back": np.array([2, tokens, heads * each], np.int64),
        "scale": np.float32(each**-0.5),
    }  # fmt: skip
    swap, turn = [0, 2, 1, 3], [0, 2, 3, 1]
    nodes = [
        node("Reshape", "x apart", "xa"), node("Transpose", "xa", "q", perm=swap),
        node("Reshape", "z apart", "za"), node("Transpose", "za", "k", perm=turn), node("Transpose", "za", "v", perm=swap),
        node("MatMul", "q k", "qk"), node("Mul", "qk scale", "s"), node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "o"), node("Transpose", "o", "ot", perm=swap), node("Reshape", "ot back", "y"),
    ]  # fmt: skip
    for i, each_node in enumerate(nodes):
        each_node.name += f" {i}"
    return Case(nodes, {"x": (2, tokens, heads * each), "z": (2, others, heads * each)}, constants)


def batch_norm(draw: Draw) -> Case:
    shape = image(draw)
    constants = {n: random(draw, shape[1]) for n in ("scale", "shift", "mean")}
    constants["variance"] = np.abs(random(draw, shape[1])) + np.float32(0.1)
    return Case([node("BatchNormalization", "x scale shift mean variance")], {"x": shape}, constants)


def prelu(draw: Draw) -> Case:
    shape = image(draw)
    return Case([node("PRelu", "x slope")], {"x": shape}, {"slope": random(draw, shape[1], 1, 1)})


UNARY = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Erf",
         "Exp", "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Gelu", "Mish", "Swish")  # fmt: skip


def unary(draw: Draw) -> Case:
    return Case([node(draw(st.sampled_from(UNARY)))], {"x": image(draw)})


def binary(draw: Draw) -> Case:
    shape = list(image(draw))
    other = [1 if draw(st.booleans()) and i else d for i, d in enumerate(shape)]
    turned = draw(st.booleans())
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Sum"]))
    return Case([node(op, "z x" if turned else "x z")], {"x": tuple(shape), "z": tuple(other)})


def broadcast(draw: Draw) -> Case:
    """Operands of fewer dimensions, both repeated, in either order."""
    shape = list(image(draw))
    shapes = []
    for _ in range(2):
        own = [1 if draw(st.booleans()) else d for d in shape]
        shapes.append(tuple(own[draw(st.integers(0, 3)) :]))
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    return Case([node(op, "x z")], dict(zip("xz", shapes, strict=True)))


def with_constant(draw: Draw) -> Case:
    """A constant that is no number for each channel: position embeddings, class tokens, masks."""
    shape = image(draw)
    op = draw(st.sampled_from(["Add", "Mul", "Sub", "Max", "Concat"]))
    own = shape if op == "Concat" else tuple(1 if draw(st.booleans()) else d for d in shape)
    nodes = [
        node("Relu", "x", "r"),
        node(op, draw(st.sampled_from(["r k", "k r"])), **({"axis": 1} if op == "Concat" else {})),
    ]
    return Case(nodes, {"x": shape}, {"k": random(draw, *own)})


def high_rank(draw: Draw) -> Case:
    """Five and six dimensions, as windowed attention has them."""
    shape = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(5, 6)))]
    other = tuple(1 if draw(st.booleans()) else d for d in shape)
    axis = draw(st.integers(0, len(shape) - 1))
    index = {"i": np.array([draw(st.integers(0, shape[axis] - 1)) for _ in range(3)], np.int64)}
    made, shapes, constants = draw(
        st.sampled_from([
            (node("Relu"), {}, {}),
            (node("Softmax", axis=axis), {}, {}),
            (node(draw(st.sampled_from(["Add", "Mul", "Sub"])), "x z"), {"z": other}, {}),
            (node("Add", "x k"), {}, {"k": random(draw, *other)}),
            (node("Concat", "x z", axis=axis), {"z": tuple(shape)}, {}),
            (node("Gather", "x i", axis=axis), {}, index),
            (node("Slice", "x b e a"), {}, {"b": np.array([0]), "e": np.array([2]), "a": np.array([axis])}),
            (node("ReduceMean", axes=[axis]), {}, {}),
        ])
    )  # fmt: skip
    return Case([made], {"x": tuple(shape), **shapes}, constants)


def extremes(draw: Draw) -> Case:
    shape, count = image(draw), draw(st.integers(2, 4))
    return Case(
        [node(draw(st.sampled_from(["Max", "Min"])), " ".join("xzwv"[:count]))],
        dict.fromkeys("xzwv"[:count], shape),
    )


def reduction(draw: Draw) -> Case:
    op = draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
    rank = draw(st.integers(1, 5))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    keep = draw(st.integers(0, 1))
    if op == "ReduceSum":
        return Case([node(op, "x axes", keepdims=keep)], {"x": shape}, {"axes": np.array(axes, np.int64)})
    return Case([node(op, axes=axes, keepdims=keep)], {"x": shape})


def where(draw: Draw) -> Case:
    shape = image(draw)
    mask = random(draw, *(1 if draw(st.booleans()) else d for d in shape)) > 0
    inputs = draw(st.sampled_from(["c x z", "c z x", "c x k", "c k x"]))
    constants = {"c": mask, "k": np.float32(draw(st.sampled_from([-2.0, 0.0, 0.5])))}
    return Case([node("Where", inputs)], {"x": shape, "z": shape}, constants)


def compared(draw: Draw) -> Case:
    shape = image(draw)
    op = draw(st.sampled_from(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"]))
    inputs = draw(st.sampled_from(["c x z", "c z x", "c z k"]))
    return Case(
        [node(op, "x k", "c"), node("Where", inputs)], {"x": shape, "z": shape}, {"k": np.float32(0.3)}
    )


def gather(draw: Draw) -> Case:
    shape = tuple(draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 4))))
    axis = draw(st.integers(0, len(shape) - 1))
    index = st.integers(-shape[axis], shape[axis] - 1)
    wanted = draw(st.one_of(index, st.lists(index, min_size=1, max_size=7)))
    if len(shape) == 1 and isinstance(wanted, int):
        wanted = [wanted]
    return Case([node("Gather", "x i", axis=axis)], {"x": shape}, {"i": np.array(wanted, np.int64)})


def tile(draw: Draw) -> Case:
    shape = tuple(draw(st.integers(1, 6)) for _ in range(draw(st.integers(1, 4))))
    return Case(
        [node("Tile", "x r")],
        {"x": shape},
        {"r": np.array([draw(st.integers(1, 4)) for _ in shape], np.int64)},
    )


def expand(draw: Draw) -> Case:
    wide = tuple(draw(st.integers(1, 6)) for _ in range(draw(st.integers(1, 4))))
    shape = tuple(1 if draw(st.booleans()) else d for d in wide)[draw(st.integers(0, len(wide) - 1)) :]
    return Case([node("Expand", "x s")], {"x": shape}, {"s": np.array(wide, np.int64)})


def turned_slice(draw: Draw) -> Case:
    shape, axis = image(draw), draw(st.integers(1, 3))
    values = {
        "begin": shape[axis] - 1,
        "end": -shape[axis] - 1,
        "axis": axis,
        "step": -draw(st.integers(1, 3)),
    }
    constants = {name: np.array([value], np.int64) for name, value in values.items()}
    return Case([node("Slice", "x begin end axis step")], {"x": shape}, constants)


def same_twice(draw: Draw) -> Case:
    return Case([node(draw(st.sampled_from(["Add", "Mul", "Sub"])), "x x")], {"x": image(draw)})


def scale_and_shift(draw: Draw) -> Case:
    shape = image(draw)
    size = draw(st.sampled_from([(1,), (shape[1], 1, 1), (1, shape[1], 1, 1)]))
    constants = {"s": random(draw, *size), "t": random(draw, *size)}
    return Case([node("Mul", "x s", "m"), node("Add", "t m")], {"x": shape}, constants)


def max_pool(draw: Draw) -> Case:
    shape = image(draw)
    return Case(
        [node("MaxPool", ceil_mode=draw(st.integers(0, 1)), **window(draw, *shape[2:]))], {"x": shape}
    )


def average_pool(draw: Draw) -> Case:
    shape = image(draw)
    attributes = window(draw, *shape[2:], dilations=False)
    del attributes["dilations"]
    return Case([node("AveragePool", count_include_pad=draw(st.integers(0, 1)), **attributes)], {"x": shape})


def global_mean(draw: Draw) -> Case:
    kind = draw(st.sampled_from([{"keepdims": 1}, {"keepdims": 0}, None]))
    made = node("GlobalAveragePool") if kind is None else node("ReduceMean", axes=[2, 3], **kind)
    return Case([made], {"x": image(draw)})


def lrn(draw: Draw) -> Case:
    size = draw(st.sampled_from([1, 3, 5]))
    return Case([node("LRN", size=size, alpha=draw(st.sampled_from([1e-4, 0.1])))], {"x": image(draw)})


def softmax(draw: Draw) -> Case:
    shape = draw(st.sampled_from([(1, 17), (3, 100), (1, 5, 7), (1, 6, 3, 4)]))
    return Case([node("Softmax", axis=draw(st.integers(-1, len(shape) - 1)))], {"x": shape})


def layer_norm(draw: Draw) -> Case:
    shape = draw(
        st.sampled_from(
            [(1, 17), (30, 8), (1, 50, 70), (3, 20, 33), (2, 5, 6, 24), (2, 40, 300), (1, 8, 8, 1)]
        )
    )
    inputs, constants = "x s", {"s": random(draw, shape[-1]) + np.float32(1)}
    if draw(st.booleans()):
        inputs, constants["b"] = "x s b", random(draw, shape[-1])
    return Case(
        [node("LayerNormalization", inputs, epsilon=draw(st.sampled_from([1e-5, 0.5])))],
        {"x": shape},
        constants,
    )


def rms_norm(draw: Draw) -> Case:
    shape = draw(st.sampled_from([(1, 17), (30, 8), (1, 50, 70), (2, 5, 6, 24)]))
    return Case(
        [node("RMSNormalization", "x s")], {"x": shape}, {"s": random(draw, shape[-1]) + np.float32(1)}
    )


def layer_norm_2d(draw: Draw) -> Case:
    """Over the channels of an image, between two transposes."""
    shape = image(draw)
    constants = {"s": random(draw, shape[1]), "b": random(draw, shape[1])}
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("LayerNormalization", "t s b", "n"),
        node("Transpose", "n", "y", perm=[0, 3, 1, 2]),
    ]  # fmt: skip
    nodes[0].name += " there"
    return Case(nodes, {"x": shape}, constants)


def concat(draw: Draw) -> Case:
    shape, axis = list(image(draw)), draw(st.integers(1, 3))
    shapes = {}
    for name in "xzw"[: draw(st.integers(1, 3))]:
        shapes[name] = tuple(draw(st.integers(1, 9)) if i == axis else d for i, d in enumerate(shape))
    return Case([node("Concat", " ".join(shapes), axis=axis)], shapes)


def split(draw: Draw) -> Case:
    shape, axis = list(image(draw)), draw(st.integers(1, 3))
    first, second = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    shape[axis] = first + second
    sizes = {"sizes": np.array([first, second], np.int64)}
    return Case(
        [node("Split", "x sizes", "a y", axis=axis), node("Relu", "a", "z")], {"x": tuple(shape)}, sizes
    )


def slice_(draw: Draw) -> Case:
    shape, axis = image(draw), draw(st.integers(1, 3))
    begin = draw(st.integers(0, shape[axis] - 1))
    end = draw(st.integers(begin + 1, shape[axis]))
    values = {"begin": begin, "end": end, "axis": axis, "step": draw(st.integers(1, 3))}
    constants = {name: np.array([value], np.int64) for name, value in values.items()}
    return Case([node("Slice", "x begin end axis step")], {"x": shape}, constants)


def pad(draw: Draw) -> Case:
    pads = [0, 0, *(draw(st.integers(0, 3)) for _ in range(2))]
    ends = [0, draw(st.integers(0, 2)), *(draw(st.integers(0, 3)) for _ in range(2))]
    return Case([node("Pad", "x pads")], {"x": image(draw)}, {"pads": np.array(pads + ends, np.int64)})


def reshape(draw: Draw) -> Case:
    n, c, h, w = image(draw)
    shape = draw(
        st.sampled_from([(n, c * h * w), (n, c, h * w), (n, h, c, w), (c, n, h, w), (n, w * h, c, 1), (-1,)])
    )
    return Case([node("Reshape", "x shape")], {"x": (n, c, h, w)}, {"shape": np.array(shape, np.int64)})


def transpose(draw: Draw) -> Case:
    rank = draw(st.integers(2, 5))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    return Case([node("Transpose", perm=draw(st.permutations(range(rank))))], {"x": shape})


def shuffle(draw: Draw) -> Case:
    groups, each, h, w = draw(st.integers(2, 4)), draw(st.integers(1, 9)), draw(SIDE), draw(SIDE)
    constants = {
        "apart": np.array([1, groups, each, h, w], np.int64),
        "back": np.array([1, groups * each, h, w], np.int64),
    }
    nodes = [
        node("Reshape", "x apart", "a"), node("Transpose", "a", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t back", "r"),
        node("Relu", "r"),
    ]  # fmt: skip
    for i, each_node in enumerate(nodes):
        each_node.name += f" {i}"
    return Case(nodes, {"x": (1, groups * each, h, w)}, constants)


def pixel_shuffle(draw: Draw) -> Case:
    block, each, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(SIDE), draw(SIDE)
    if draw(st.booleans()):
        return Case([node("SpaceToDepth", blocksize=block)], {"x": (1, each, h * block, w * block)})
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    return Case([node("DepthToSpace", blocksize=block, mode=mode)], {"x": (1, each * block * block, h, w)})


def resize(draw: Draw) -> Case:
    shape = image(draw)
    mode = draw(st.sampled_from(["nearest", "linear"]))
    places = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes = {"mode": mode, "coordinate_transformation_mode": draw(st.sampled_from(places))}
    if mode == "nearest":
        attributes["nearest_mode"] = draw(
            st.sampled_from(["floor", "round_prefer_floor", "ceil", "round_prefer_ceil"])
        )
    sizes = {"sizes": np.array([*shape[:2], draw(st.integers(1, 24)), draw(st.integers(1, 24))], np.int64)}
    made = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], "the Resize", **attributes)
    return Case([made], {"x": shape}, sizes)


KINDS = (conv, wide_conv, depthwise, conv_1d, conv_relu, residual, conv_transpose, conv_transpose_any, gemm, flatten_gemm,
         matmul, product, attention, batch_norm, prelu, unary, binary, same_twice, broadcast, with_constant, high_rank, extremes,
         where, compared, scale_and_shift, max_pool, average_pool, global_mean, reduction, lrn, softmax, layer_norm,
         rms_norm, layer_norm_2d, concat, split, slice_, turned_slice, gather, tile, expand, pad, reshape, transpose,
         shuffle, pixel_shuffle, resize)  # fmt: skip


def build(case: Case) -> onnx.ModelProto:
    """The model, its operator's inputs and results passing through nothing else. Shapes of outputs are inferred."""
    outputs = {o for n in case.nodes for o in n.output} - {i for n in case.nodes for i in n.input}
    since = {"Gelu": 20, "Mish": 18, "Swish": 24, "RMSNormalization": 23}
    newest = max(since.get(n.op_type, 17) for n in case.nodes)
    made = networks.model(case.nodes, dict(case.shapes), {}, case.constants, newest)
    for name in sorted(outputs):
        made.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


#: What tables of 16-bit numbers cannot stand for.
REFUSED = ("interpolation between 512 numbers of 16 bits", "a comparison of 16-bit numbers")
#: Steps of 16 bits, where more than one: interpolated functions, and Resize's weights, of which 2048 are one.
STEPS = dict.fromkeys((*UNARY, "Clip"), MOST_STEPS_OFF + 1) | {"Mul": 2, "Resize": 2 * 65536 // 4096 + 1}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_operator(kind: Callable[[Draw], Case], data: Any, tmp_path_factory: Any) -> None:
    case = kind(data.draw)
    names = sorted(
        TARGETS.keys() - ({"tiny"} if kind is wide_conv else set())
    )  # 512 x 9 weights do not fit it
    target = TARGETS[data.draw(st.sampled_from(names))]
    activations = data.draw(st.sampled_from(["uint8", "int8", "int16"]))
    optimize = data.draw(st.sampled_from([0, 2]))
    check(case, target, activations, optimize, Path(tmp_path_factory.getbasetemp()) / f"{kind.__name__}.onnx")


def test_a_grouped_convolution_whose_weights_come_in_parts(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 17, 4, 5)).astype(np.float32)
    grouped = node("Conv", "x w", group=3, kernel_shape=[4, 5], pads=[0, 0, 1, 0], strides=[1, 2])
    check(Case([grouped], {"x": (1, 51, 4, 5)}, {"w": weights}), TINY, "uint8", 0, tmp_path / "qdq.onnx")


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (0, 3, 2, 1), (0, 3, 1, 2)])
@pytest.mark.parametrize("activations", ["uint8", "int16"])
def test_a_transposition_of_more_than_fits(perm: tuple[int, ...], activations: str, tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r"), node("Transpose", "r", "t", perm=perm), node("Sigmoid", "t")]
    check(Case(nodes, {"x": (2, 50, 33, 20)}), TINY, activations, 0, tmp_path / "qdq.onnx")


@pytest.mark.parametrize("kind", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize("activations", ["uint8", "int16"])
def test_rows_of_more_channels_than_fit(kind: str, activations: str, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [5, 5], "pads": [2] * 4}
    weights = np.random.default_rng(0).standard_normal((250, 1, 5, 5)).astype(np.float32)
    attributes |= {"group": 250} if kind == "Conv" else {"strides": [2, 2]}
    made = node(kind, "x w" if kind == "Conv" else "x", **attributes)
    check(Case([made], {"x": (1, 250, 7, 41)}, {"w": weights}), TINY, activations, 2, tmp_path / "qdq.onnx")


def test_a_pool_whose_windows_hold_nothing(tmp_path: Path) -> None:
    """They give float32's lowest number: one step beyond its code is none in float32."""
    attributes = {"kernel_shape": [2, 2], "dilations": [3, 1], "pads": [1, 1, 1, 1]}
    nodes = [node("MaxPool", **attributes), node("Relu", "x", "z")]
    check(Case(nodes, {"x": (1, 3, 2, 5)}), TINY, "int16", 0, tmp_path / "qdq.onnx")


def _pads_beyond_the_kernel(case: Case) -> bool:
    """ceil_mode with an empty window in one dimension, and one in another that reaches as far as padding cannot."""
    a = {x.name: onnx.helper.get_attribute_value(x) for x in case.nodes[0].attribute}
    if not a.get("ceil_mode"):
        return False
    empty, beyond = [], []
    for d in (0, 1):
        size, pad = case.shapes["x"][2 + d] + a["pads"][d], a["pads"][2 + d]
        span = a["dilations"][d] * (a["kernel_shape"][d] - 1) + 1
        start = -(-(size + pad - span) // a["strides"][d]) * a["strides"][d]
        empty.append(start >= size)
        beyond.append(
            not empty[d] and start + span - size >= a["kernel_shape"][d] and start + span - size > pad
        )
    return any(empty) and any(beyond)


def check(case: Case, target: Target, activations: str, optimize: int, path: Path) -> None:
    """The model on the NPU beside onnxruntime."""
    model = build(case)
    generator = np.random.default_rng(0)
    feeds = [
        {
            name: (2 * generator.standard_normal(shape) + 0.5).astype(np.float32)
            for name, shape in case.shapes.items()
        }
        for _ in range(2)
    ]
    options = {"calibration": feeds, "activations": activations, "save_qdq": str(path)}
    if case.nodes[0].op_type == "MaxPool" and _pads_beyond_the_kernel(case):
        with pytest.raises(CompileError, match="ceil_mode with a window behind the image"):
            compile_model(model, target, optimize, **options)
        return
    program = compile_model(model, target, optimize, **options)
    reasons = [reason for p in program.partitions for reason in p.reasons]
    refused = activations == "int16" and any(why in reason for why in REFUSED for reason in reasons)
    assert refused or [p.placement for p in program.partitions] == ["npu"], reasons
    assert verify(program) == []
    qdq = onnx.load(path)
    reports = layerwise(program, qdq, feeds)
    assert refused or reports
    steps = max(STEPS.get(n.op_type, 1) for n in case.nodes) if activations == "int16" else 1
    for report in reports:
        assert report.equal == 1 or not report.exact, report
        assert report.max_steps <= steps, report
