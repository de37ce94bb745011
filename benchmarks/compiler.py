"""Cycles of compiled networks beside the two yardsticks, on all targets and at all levels of optimisation.

What limits: on the smaller chips the array, which no schedule makes faster than the roofline; on ommatid-4k also the
DRAM, and vector work that no convolution hides. Where DRAM over compulsory is high, whole maps are written out: for a
layer that no cascade can hold, or for one that reads them much later.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from ommatid.compiler.front import FrontOptions, build_network
from ommatid.isa.program import Program
from ommatid.isa.target import load_target
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_network
from ommatid.runtime.session import InferenceSession
from tests.workloads import SHAPES, SIX, images, input_name, source

TARGETS = ("ommatid-256", "ommatid-1k", "ommatid-4k")
NETWORKS = (*SIX, "shufflenet", "detector", "reader")
LEVELS = (0, 1, 2, 3)
#: Those with weights that were trained: of random ones nothing can be said.
TRAINED = ("detector", "reader")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help=", ".join(NETWORKS))
    parser.add_argument(
        "--levels", action="store_true", help="also -O0 to -O3, which takes half an hour for all"
    )
    options = parser.parse_args()
    console = Console(width=120)
    shapes = {n: {"x": SHAPES[n]} if n in SHAPES else {} for n in options.networks}
    networks = {n: build_network(source(n), FrontOptions(shapes=shapes[n])) for n in options.networks}
    for target in TARGETS:
        console.print(yardsticks(networks, target))
    console.print(batches())
    console.print(compressed({name: networks[name] for name in TRAINED if name in networks}))
    if options.levels:
        console.print(levels(networks))


def yardsticks(networks: dict[str, Any], target: str) -> Table:
    """Simulated cycles and DRAM bytes at -O2, as ratios."""
    columns = ("network", "cycles", "over roofline", "over lower bound", "DRAM over compulsory")
    table = Table(*columns, title=f"{target}, -O2")
    ratios: dict[str, tuple[float, float]] = {}
    for name, network in networks.items():
        cycles, program, moved = measured(compile_network(network, load_target(target), 2))
        ratios[name] = cycles / program.roofline_cycles, moved / program.compulsory_dram_bytes
        table.add_row(
            name, f"{cycles:,}", f"{ratios[name][0]:.3f}", f"{cycles / program.lower_bound_cycles:.2f}",
            f"{ratios[name][1]:.2f}",
        )  # fmt: skip
    if all(name in ratios for name in SIX):
        means = [statistics.geometric_mean([ratios[name][i] for name in SIX]) for i in (0, 1)]
        table.add_row("mean of six", "", f"{means[0]:.3f}", "", f"{means[1]:.2f}")
    return table


def measured(program: Program) -> tuple[int, Program, int]:
    """Cycles of a program, the program, and its DRAM bytes."""
    result = profile(program)
    return result.cycles, program, sum(row.dram_bytes for row in result.rows)


def batches() -> Table:
    """ResNet-50 on four cores, image by image and four at once; the bits are those of one core on the same images."""
    table = Table(
        "images", "cycles", "over lower bound", "outputs equal one core's", title="ommatid-4k, -O2, ResNet-50"
    )
    for count in (1, 4):
        model = batched(source("resnet50"), count)
        network = build_network(model, FrontOptions())
        four, one = (
            compile_network(network, load_target(target), level)
            for target, level in (("ommatid-4k", 2), ("ommatid-1k", 1))
        )
        feeds = {input_name(model): np.concatenate(images("resnet50", count))}
        ours, theirs = (InferenceSession(program).run(None, feeds) for program in (four, one))
        equal = all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))
        cycles = measured(four)[0]
        table.add_row(
            str(count), f"{cycles:,}", f"{cycles / four.lower_bound_cycles:.2f}", "yes" if equal else "NO"
        )
    return table


def batched(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """A model of one image as one of so many at once."""
    model, name = onnx.ModelProto.FromString(model.SerializeToString()), input_name(model)
    for value in (*model.graph.input, *model.graph.output):
        if value.name == name or value in model.graph.output:
            value.type.tensor_type.shape.dim[0].dim_value = count
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = count
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    del model.graph.value_info[:]
    return model


def compressed(networks: dict[str, Any]) -> Table:
    """What weights compressed without loss would buy at most: those of a layer at their entropy, and the DRAM busy with
    nothing else while it would move the rest."""
    table = Table(
        "network", "bits a weight", *TARGETS, title="cycles that compressed weights would save at most"
    )
    for name, network in networks.items():
        weights = [layer.operation.weights for layer in network.layers if hasattr(layer.operation, "weights")]
        all_bytes = sum(array.nbytes for array in weights)
        least_bytes = sum(array.nbytes * entropy_bits(array) / 8 for array in weights)
        shares = []
        for target in map(load_target, TARGETS):
            cycles = measured(compile_network(network, target))[0]
            shares.append((all_bytes - least_bytes) / target.dram_bytes_per_cycle / cycles)
        table.add_row(name, f"{8 * least_bytes / all_bytes:.2f}", *(f"{share:.1%}" for share in shares))
    return table


def entropy_bits(weights: np.ndarray[Any, Any]) -> float:
    """Bits that a code for each byte has at least on the average (Shannon, 1948)."""
    counts = np.unique(weights, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def levels(networks: dict[str, Any]) -> Table:
    """Cycles on ommatid-1k at each level of optimisation."""
    table = Table("network", *(f"-O{level}" for level in LEVELS), "-O0 over -O3", title="ommatid-1k")
    for name, network in networks.items():
        cycles = [measured(compile_network(network, load_target("ommatid-1k"), level))[0] for level in LEVELS]
        table.add_row(name, *(f"{c:,}" for c in cycles), f"{cycles[0] / cycles[-1]:.2f}")
    return table


if __name__ == "__main__":
    main()
