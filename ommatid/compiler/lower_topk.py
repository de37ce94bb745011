"""Layers that find channels into instructions: stripes of pixels, which stand densely one after the other."""

from __future__ import annotations

import math

from ommatid.compiler.layers import INDEX_BYTES, Layer, TopK
from ommatid.compiler.lower import Lowering
from ommatid.compiler.lower_shape import bring_flat, close_flat, open_flat
from ommatid.compiler.lower_vector import stripe_rows
from ommatid.isa.elements import NUMBER


def lower_topk(low: Lowering, layer: Layer) -> None:
    """Emit the values or the indices of a pixel's first channels."""
    top = layer.operation
    assert isinstance(top, TopK)
    source, target = layer.input_name, layer.output
    *lead, c = low.network.tensors[source].shape
    element = low.kind(source).bytes
    width, pixel = top.k * (INDEX_BYTES if top.indices else element), c * element
    pixels, side = math.prod(lead), "index" if top.indices else "dst"
    tiles = (0 if low.stays(source) else pixel) + (0 if low.stays(target) else width)
    rows = stripe_rows(low, pixels, pixel, tiles)
    for first in range(0, pixels, rows):
        count = min(rows, pixels - first)
        data = bring_flat(low, source, first * pixel, count * pixel)
        found = open_flat(low, target, first * width, count * width)
        low.emitter.emit(
            "topk", {"src": data[1], side: found[1]}, h=1, w=count, c=c, k=top.k,
            src=data[0], src_pixel=pixel, src_type=NUMBER[low.quantization(source).dtype],
            order=int(not top.largest), last=int(top.last), values_on=int(not top.indices), indices_on=int(top.indices),
            **{side: found[0], f"{side}_pixel": width},
        )  # fmt: skip
        close_flat(low, target, first * width, count * width, found)
        if data[2]:
            low.sram.release(data[0])
    low.end_layer()
