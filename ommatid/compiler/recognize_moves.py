"""Operators that only move values: what exporters spell out in several becomes one, what moves nothing goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, text
from ommatid.compiler.rewrite import Match, NotFired, Result, Rewrite, constant, need, new, rewrite


@rewrite("y = Cast(x)")
def no_cast(match: Match) -> Result:
    """A Cast to the type that a value has goes."""
    to = match.node("y").attributes["to"].as_int()
    if match["x"].dtype is None or int(match["x"].dtype) != to:
        raise NotFired("it changes the type", near=False)
    return match["x"]


@rewrite(
    """
    y = Pad(x)
    y = Slice(x)
    y = Expand(x)
    """
)
def no_change(match: Match) -> Result:
    """A Pad by nothing, a Slice of everything and an Expand to the same shape go."""
    if match.shape("x") != match.shape("y"):
        raise NotFired("it changes the shape", near=False)
    node = match.node("y")
    if node.op_type == "Slice":
        steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
        backwards = len(node.inputs) > 4 and (steps is None or bool(np.any(steps < 0)))
        need(not backwards, "it turns an axis around")
    if node.op_type == "Pad":
        pads = constant(node.inputs[1])
        need(pads is not None and not np.any(pads), "it pads on one side and cuts on the other")
    return match["x"]


@rewrite(
    """
    a = Transpose(x)
    y = Transpose(a)
    """
)
def transposes(match: Match) -> Result:
    """Two Transposes are one, or none."""
    rank = len(match.shape("x"))
    first, second = (ints(match.node(n), "perm", list(reversed(range(rank)))) for n in ("a", "y"))
    perm = [first[d] for d in second]
    return match["x"] if perm == list(range(rank)) else new("Transpose", match["x"], perm=perm)


@rewrite(
    """
    a = Reshape(x)
    y = Reshape(a)
    """
)
def reshapes(match: Match) -> Result:
    """Two Reshapes are one."""
    return new("Reshape", match["x"], np.array(match.shape("y"), np.int64))


@rewrite(
    """
    a = Pad(x)
    y = Conv(a)
    """
)
def padded_conv(match: Match) -> Result:
    """A Pad by zeros before a convolution is the convolution's own padding."""
    pad, conv = match.node("a"), match.node("y")
    need(text(pad, "mode", "constant") == "constant", "the padding is not constant")
    need(text(conv, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID"), "the convolution pads by itself")
    value = constant(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else np.zeros(1)
    amounts, rank = constant(pad.inputs[1]), len(match.shape("x"))
    need(value is not None and not np.any(value), "the padding is not zero")
    need(len(pad.inputs) < 4 or pad.inputs[3] is None, "only some axes are padded")
    if amounts is None:
        raise NotFired("the amounts are not constant")
    begin, end = amounts[:rank], amounts[rank:]
    need(not (np.any(begin[:2]) or np.any(end[:2])), "the batch or the channels are padded")
    need(bool(np.all(amounts >= 0)), "a negative padding cuts")
    own = ints(conv, "pads", [0] * (2 * (rank - 2)))
    pads = [a + int(b) for a, b in zip(own, (*begin[2:], *end[2:]), strict=True)]
    return new("Conv", match["x"], *conv.inputs[1:], pads=pads, **_attributes(conv, "pads", "auto_pad"))


@rewrite(
    """
    a = Reshape(x)
    t = Transpose(a)
    y = Reshape(t)
    """
)
def pixel_shuffle(match: Match) -> Result:
    """Reshape, Transpose, Reshape between blocks of pixels and channels is DepthToSpace or SpaceToDepth."""
    before, apart, after = match.shape("x"), match.shape("a"), match.shape("y")
    perm = ints(match.node("t"), "perm", [])
    if not (len(before) == len(after) == 4 and len(apart) == 6 and before[0] == apart[0] == after[0]):
        raise NotFired("it is no image in blocks", near=False)
    known: dict[tuple[int, ...], str] = {
        (0, 1, 4, 2, 5, 3): "CRD",
        (0, 3, 4, 1, 5, 2): "DCR",
        (0, 3, 5, 1, 2, 4): "",
    }
    need(tuple(perm) in known, f"the order {perm} is none of a pixel shuffle")
    mode = known[tuple(perm)]
    if not mode:
        block = apart[3]
        need(
            apart[1] == before[1] and apart[5] == block and apart[2] * block == before[2],
            "the blocks are not square",
        )
        need(after[1:] == (before[1] * block**2, apart[2], apart[4]), "the result is not of blocks")
        return new("SpaceToDepth", match["x"], blocksize=block)
    block, channels = (apart[2], apart[1]) if mode == "CRD" else (apart[1], apart[3])
    expected = (channels, block, block) if mode == "CRD" else (block, block, channels)
    need(apart[1:4] == expected and apart[4:] == before[2:], "the blocks are not square")
    need(after[1:] == (channels, before[2] * block, before[3] * block), "the result is not of blocks")
    return new("DepthToSpace", match["x"], blocksize=block, mode=mode)


@rewrite(
    """
    a = Reshape(x)
    t = Transpose(a)
    r = Reshape(t)
    y = Conv(r, constant)
    """
)
def pixel_unshuffle(match: Match) -> Result:
    """Blocks of pixels whose channels are outermost, as torch has them, are SpaceToDepth for a reordered convolution."""
    before, apart, conv = match.shape("x"), match.shape("a"), match.node("y")
    if ints(match.node("t"), "perm", []) != [0, 1, 3, 5, 2, 4] or len(before) != 4:
        raise NotFired("it is no image in blocks", near=False)
    channels, block = before[1], apart[3]
    need(
        apart == (before[0], channels, before[2] // block, block, before[3] // block, block),
        "the blocks are not square",
    )
    need(
        match.shape("r") == (before[0], channels * block**2, apart[2], apart[4]),
        "the result is not of blocks",
    )
    need(integer(conv, "group", 1) == 1, "the convolution is grouped")
    weights = match.constant("constant")
    turned = weights.reshape(len(weights), channels, block**2, *weights.shape[2:]).swapaxes(1, 2)
    blocks = new("SpaceToDepth", match["x"], blocksize=block)
    return new("Conv", blocks, turned.reshape(weights.shape), *conv.inputs[2:], **_attributes(conv))


@rewrite(
    """
    s = SpaceToDepth(x)
    y = Conv(s, constant)
    """
)
def blocks_conv(match: Match) -> Result:
    """A convolution over blocks of pixels is a larger one over pixels, with the block's side as its stride."""
    conv, weights = match.node("y"), match.constant("constant")
    block, rank = integer(match.node("s"), "blocksize", 1), len(match.shape("x")) - 2
    need(integer(conv, "group", 1) == 1, "the convolution is grouped")
    need(set(ints(conv, "dilations", [1])) == {1}, "the convolution is dilated")
    need(text(conv, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID"), "the convolution pads by itself")
    outputs, _, height, width = weights.shape
    apart = weights.reshape(outputs, block, block, match.shape("x")[1], height, width)
    large = apart.transpose(0, 3, 4, 1, 5, 2).reshape(outputs, -1, height * block, width * block)
    attributes = _attributes(conv, "pads", "strides", "kernel_shape", "auto_pad")
    pads = [block * p for p in ints(conv, "pads", [0] * (2 * rank))]
    strides = [block * s for s in ints(conv, "strides", [1] * rank)]
    return new("Conv", match["x"], large, *conv.inputs[2:], pads=pads, strides=strides, **attributes)


def _attributes(node: ir.Node, *but: str) -> dict[str, Any]:
    """A node's attributes but some."""
    return {name: attribute.value for name, attribute in node.attributes.items() if name not in but}


@rewrite(
    """
    a = Mul(x, constant)
    a = Add(x, constant)
    y = Transpose(a)
    """
)
def channels_first(match: Match) -> Result:
    """A constant by channel before the Transpose from NHWC to NCHW stands behind it, where convolutions are."""
    array, rank = match.constant("constant"), len(match.shape("x"))
    perm = ints(match.node("y"), "perm", [])
    need(
        rank > 2 and perm == [0, rank - 1, *range(1, rank - 1)], "the last axis does not become the channels"
    )
    need(
        array.ndim <= rank and array.size in (1, *array.shape[-1:]),
        "the constant is no vector over the last axis",
    )
    spread = array.reshape(-1, *[1] * (rank - 2))
    return new(match.node("a").op_type, new("Transpose", match["x"], perm=perm), spread)


MOVES: tuple[Rewrite, ...] = (
    no_cast, no_change, pixel_shuffle, pixel_unshuffle, blocks_conv, transposes, reshapes, padded_conv, channels_first,
)  # fmt: skip
