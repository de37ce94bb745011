"""Tile shapes: a plan fits the memory that it was given, covers the layer, and little memory is refused last."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper

from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.sram import DoesNotFit, aligned
from ommatid.compiler.tile import ConvPlan, ConvShape, block_pixel_counts, plan_conv, sram_bytes
from ommatid.isa.target import load_target
from ommatid.isa.verifier import verify
from ommatid.runtime.session import InferenceSession
from tests import networks

TARGETS = [load_target(name) for name in ("ommatid-256", "ommatid-1k")]


@st.composite
def shapes(draw: st.DrawFn) -> ConvShape:
    target = draw(st.sampled_from(TARGETS))
    rows, columns = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    channels, cin = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    kernel, stride = (
        (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    )
    depthwise = draw(st.booleans())
    unit = target.mx_k_bytes if depthwise else target.mx_channels
    steps = 0 if depthwise else kernel[0] * -(-kernel[1] * cin // target.mx_k_bytes)
    weights = kernel[0] * kernel[1] * unit if depthwise else steps * unit * target.mx_k_bytes
    in_sram, out_sram = draw(st.booleans()), draw(st.booleans())
    return ConvShape(
        images=draw(st.integers(1, 2)), rows=rows, columns=columns, channels=channels, block_unit=unit,
        weight_bytes_per_unit=weights, steps=steps, kernel=kernel, stride=stride, row_span=kernel[0],
        input_rows=rows * stride[0] + kernel[0], input_row_bytes=0 if in_sram else columns * stride[1] * cin,
        output_row_bytes=0 if out_sram else columns * channels, operand_row_bytes=draw(st.sampled_from([0, columns * channels])),
        flat=kernel == (1, 1) and draw(st.booleans()), depthwise=depthwise,
    )  # fmt: skip


def buffers(shape: ConvShape, plan: ConvPlan) -> int:
    """Bytes of one of each buffer that a plan needs at least."""
    rows = min((plan.stripe_rows - 1) * shape.stride[0] + shape.row_span, shape.input_rows)
    channels = min(plan.chunk_channels, shape.channels)
    weights = -(-channels // shape.block_unit) * shape.weight_bytes_per_unit
    outputs = plan.stripe_rows * shape.output_row_bytes * channels // shape.channels
    return (
        rows * shape.input_row_bytes
        + plan.stripe_rows * shape.operand_row_bytes
        + weights // plan.k_parts
        + outputs
    )


ONE_CHUNK = ConvShape(1, 1, 1, 1, 8, 14400, 225, (5, 5), (1, 3), 5, 6, 213, 1, 0, False, False)


@example(ONE_CHUNK, 8)  # the weights of its only chunk are loaded in parts, two of which are there at a time
@settings(deadline=None, max_examples=60)
@given(shapes(), st.sampled_from([8, 32, 128, 384, 1024]))
def test_a_plan_fits_and_covers(shape: ConvShape, kib: int) -> None:
    chip = TARGETS[0] if shape.block_unit == 8 else TARGETS[1]
    try:
        plan = plan_conv(shape, chip, kib * 1024)
    except DoesNotFit as problem:
        assert problem.need_bytes > kib * 1024
        one = ConvPlan(1, shape.block_unit, 1, 1)
        assert sram_bytes(shape, one) > kib * 1024  # not even one row by the fewest channels
        return
    assert buffers(shape, plan) <= kib * 1024
    assert 1 <= plan.stripe_rows <= shape.rows and plan.block_channels % shape.block_unit == 0
    assert plan.chunk_blocks <= -(-shape.channels // plan.block_channels)
    half = chip.accumulator_bytes // 2
    assert plan.block_pixels >= 1 and plan.block_pixels * plan.block_channels * 4 <= half
    # the next to last block begins before the last channel: no chunk is empty
    assert (plan.chunk_blocks - 1) * plan.block_channels < aligned(shape.channels, plan.block_channels)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 512), st.booleans())
def test_blocks_cover_a_stripe_once(rows: int, columns: int, pixels: int, flat: bool) -> None:
    blocks = block_pixel_counts(rows, columns, pixels, flat)
    assert all(0 < h * w <= pixels for h, w in blocks)
    assert sum(h * w for h, w in blocks) == rows * columns
    if not flat and columns <= pixels:  # whole rows, in as few blocks as they fit
        assert {w for _, w in blocks} == {columns} and len(blocks) == math.ceil(rows / (pixels // columns))
    elif not flat:  # parts of rows
        assert [h for h, _ in blocks] == [1] * len(blocks) and len(blocks) % rows == 0
    if not flat and columns > pixels >= 4:  # of whole groups of four pixels, the last of a row excepted
        per_row = len(blocks) // rows
        assert all(w % 4 == 0 for k, (_, w) in enumerate(blocks) if (k + 1) % per_row)


def test_small_weights_are_one_chunk() -> None:
    shape = ConvShape(1, 8, 8, 16, 16, 16 * 16, 1, (1, 1), (1, 1), 1, 8, 8 * 16, 8 * 16, 0, True, False)
    plan = plan_conv(shape, TARGETS[1], 1 << 20)
    assert (plan.block_channels, plan.chunk_blocks, plan.k_parts) == (16, 1, 1)


def test_what_does_not_fit_twice_is_not_loaded_ahead() -> None:
    """A depthwise 5x5 whose rows are 48 kB: five of them lie in 384 KiB, ten do not, nor do all eight."""
    generator = np.random.default_rng(5)
    weights = {"w": generator.standard_normal((64, 1, 5, 5)).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], "wide", group=64, pads=[2] * 4)
    shape = [2, 64, 8, 750]
    model = networks.model([node], {"x": shape}, {"y": shape}, weights)
    feeds = {"x": generator.standard_normal(shape).astype(np.float32)}
    programs = [
        compile_model(model, name, calibration=[feeds], cpu=False) for name in ("ommatid-256", "ommatid-1k")
    ]
    assert verify(programs[0]) == []
    small, large = (InferenceSession(program).run(None, feeds)[0] for program in programs)
    assert np.array_equal(small, large)


def test_long_rows_of_weights_are_split() -> None:
    """16 channels by 100000 bytes of K: one block's weights are larger than the SRAM."""
    steps = 100_000 // 16
    shape = ConvShape(1, 1, 1, 16, 16, steps * 256, steps, (1, 1), (1, 1), 1, 1, 100_000, 16, 0, True, False)
    plan = plan_conv(shape, TARGETS[1], 1 << 20)
    assert plan.k_parts == 4 and buffers(shape, plan) <= 1 << 20  # two parts of 400 kB are there at a time
    with pytest.raises(DoesNotFit):
        plan_conv(dataclasses.replace(shape, depthwise=True), TARGETS[1], 1 << 20)


def test_weights_that_cores_share_are_loaded_once() -> None:
    target = load_target("ommatid-4k")
    shape = ConvShape(
        images=1, rows=14, columns=14, channels=256, block_unit=16, weight_bytes_per_unit=36 * 1024, steps=144,
        kernel=(3, 3), stride=(1, 1), row_span=3, input_rows=14, input_row_bytes=0, output_row_bytes=0,
        operand_row_bytes=0, flat=False, depthwise=False,
    )  # fmt: skip
    room, tight = (plan_conv(shape, target, kib * 1024, shared=True) for kib in (2048, 640))
    assert room.chunk_channels >= 256
    assert tight.chunk_channels < 256 and tight.stripe_rows == 14  # a chunk goes over all rows


def test_no_rows_are_left_that_the_array_takes_as_long_for_as_for_more() -> None:
    shape = ConvShape(
        images=1, rows=14, columns=14, channels=128, block_unit=16, weight_bytes_per_unit=36 * 1024, steps=144,
        kernel=(3, 3), stride=(1, 1), row_span=3, input_rows=14, input_row_bytes=0, output_row_bytes=0,
        operand_row_bytes=0, flat=False, depthwise=False,
    )  # fmt: skip
    plan = plan_conv(shape, load_target("ommatid-4k"), 1 << 20, shared=True)
    rest = (
        14 % plan.stripe_rows
    )  # two rows of 14 pixels are seven cycles; loading the next weights takes eight
    assert rest == 0 or rest * 14 >= 32
