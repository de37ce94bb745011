"""A network of layers as text, one line a layer: for people, dumps and golden tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from ommatid.compiler.layers import Binary, Layer, Network


def network_text(network: Network) -> str:
    """Every stage and layer of a network."""
    lines = []
    for number, stage in enumerate(network.stages):
        if stage.cpu is not None:
            lines.append(f"stage {number}: cpu, {len(stage.cpu.nodes)} nodes")
            lines += [
                f"  {node}: {reason}" for node, reason in zip(stage.cpu.nodes, stage.cpu.reasons, strict=True)
            ]
        else:
            lines.append(f"stage {number}: npu, {len(stage.layers)} layers")
            lines += [f"  {layer_text(layer, network)}" for layer in stage.layers]
    return "\n".join(lines) + "\n"


def layer_text(layer: Layer, network: Network) -> str:
    """A layer in a line: output, operation with its numbers, inputs, steps."""
    shape = "x".join(map(str, network.tensors[layer.output].shape))
    numbers = [
        f"{f.name}={getattr(layer.operation, f.name)}"
        for f in dataclasses.fields(layer.operation)
        if isinstance(getattr(layer.operation, f.name), int | str | tuple | bool)
        and f.name != "tables"
        and getattr(layer.operation, f.name) != ()
    ]
    steps = "".join(
        f" + {step.kind} {step.other}" if isinstance(step, Binary) else " + table" for step in layer.steps
    )
    kernel = ""
    weights = getattr(layer.operation, "weights", None)
    if isinstance(weights, np.ndarray):
        kernel = " " + "x".join(map(str, weights.shape))
    kind = type(layer.operation).__name__.lower()
    return f"{layer.output}[{shape}] = {kind}{kernel}({', '.join(layer.inputs)}){steps} {' '.join(numbers)}".rstrip()
