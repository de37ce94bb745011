"""What the cycles of some layers depend on, as a digest: layers alike, of this network or another, take as many.

That is what their lowering goes by: operations, shapes, how tensors lie, what stays in SRAM. Names, scales and the
values of constants do not count (but for those that say what is read of a map that is resized), so that a network
that was trained anew has the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ommatid.compiler.layers import Binary, Layer, Resize
from ommatid.compiler.schedule import Plan, settled
from ommatid.compiler.storage import operands


def outline(plan: Plan, part: range) -> str:
    """A digest of what lowering the layers ``part`` of a plan for one core goes by."""
    network, storage = plan.network, plan.storage
    layers = network.layers[part.start : part.stop]
    around = settled(plan, part.start)
    touched = [name for layer in layers for name in (*operands(layer), layer.output)]
    tensors = {name: i for i, name in enumerate(dict.fromkeys((*around, *touched)))}
    spots = [storage.spots[name] for name in tensors]
    buffers = {name: i for i, name in enumerate(dict.fromkeys(spot.buffer for spot in spots))}
    lowest = min((plan.dram_address[name] for name in buffers if name in plan.dram_address), default=0)

    def moment(layer: int) -> int:
        return min(max(layer - part.start, -1), len(part))

    def about(buffer: str) -> tuple[Any, ...]:
        life, at = plan.lives.get(buffer), plan.dram_address.get(buffer)
        return (
            storage.buffer_bytes[buffer], buffer in network.constants,
            life and (moment(life.first), moment(life.last)), at is not None and at - lowest,
            [(moment(cascade.first), buffer in inner) for cascade, inner in plan.inner.items()],
        )  # fmt: skip

    stages = zip(
        itertools.accumulate(len(stage.layers) for stage in network.stages), network.stages, strict=True
    )
    facts = (
        plan.target,
        [(moment(end), stage.cpu is not None) for end, stage in stages if part.start < end < part.stop],
        [
            (_form_of(layer), layer.name in storage.free_layers, i in plan.single)
            for i, layer in zip(part, layers, strict=True)
        ],
        [tensors[name] for name in touched],
        [(network.tensors[name].shape, network.tensors[name].quantization.dtype) for name in tensors],
        [(buffers[spot.buffer], spot.offset, spot.strides) for spot in spots],
        [about(name) for name in buffers],
        [buffers[name] for name in sorted(buffers)],  # in which order some are given addresses
        len(around),
        [(moment(cascade.first), moment(cascade.last), cascade.each) for cascade in plan.inner],
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


#: By layer its form: a search outlines it for each of its trials.
_FORMS: WeakKeyDictionary[Layer, str] = WeakKeyDictionary()


def _form_of(layer: Layer) -> str:
    if layer not in _FORMS:
        _FORMS[layer] = repr((_form(layer.operation), _form(layer.steps)))
    return _FORMS[layer]


def _form(value: Any) -> Any:
    """What is left of part of a layer without numbers that only results depend on."""
    match value:
        case Resize():  # its tables say which rows a stripe reads
            return "Resize", value.rows.tobytes(), value.columns.tobytes(), value.taps
        case np.ndarray():
            return value.dtype.str, value.shape
        case float():
            return "float"
        case (int(), str() as kind):  # zero point and type
            return kind
        case tuple():
            return tuple(_form(each) for each in value)
        case _ if dataclasses.is_dataclass(value):
            fields = [
                f.name
                for f in dataclasses.fields(value)
                if not (isinstance(value, Binary) and f.name == "other")
            ]
            return type(value).__name__, [_form(getattr(value, name)) for name in fields]
    return value
