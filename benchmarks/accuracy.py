"""RapidOCR with its networks on the NPU, beside onnxruntime in float: character error rates, and what runs where.

Its code is used as it is; only the sessions of its three networks are replaced. Ranges are found on pages of other
words than those that are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks.lines import page
from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.model import import_model
from ommatid.compiler.recipe import LayerRecipe, Recipe
from ommatid.isa.cost import macs
from ommatid.isa.elements import NUMBER
from ommatid.isa.instructions import view
from ommatid.isa.program import Program
from ommatid.profiler import demo
from ommatid.runtime.session import InferenceSession

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """One of RapidOCR's: its file, the shapes that it is compiled for, how many samples its ranges are found on, and
    the most of its multiply-accumulates that may have 16 bits.

    Samples have the first shape: what is fed has zeros at its right, as RapidOCR pads by itself.
    """

    file: str
    shapes: tuple[Shape, ...]
    samples: int
    wide: float = 0.0


NETWORKS = {
    "detector": Network("ch_PP-OCRv4_det_infer.onnx", ((1, 3, 736, 992), (1, 3, 736, 1472)), 8, 0.25),
    "direction": Network("ch_ppocr_mobile_v2.0_cls_infer.onnx", ((1, 3, 48, 192),), 16),
    "reader": Network(
        "ch_PP-OCRv4_rec_infer.onnx", ((1, 3, 48, 1344), (1, 3, 48, 1600), (1, 3, 48, 1024)), 8
    ),
}
#: Seeds of pages to read (40 lines) and to find ranges on.
READ, CALIBRATED = range(5), range(100, 104)
SCAN = (
    "Region-based segmentation", "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label", "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the", "histogram of grey values:",
)  # fmt: skip


def main() -> None:
    """Print the tables."""
    console = Console(width=120)
    npu = sessions()
    placement = Table("network", "nodes on the NPU", "MACs on the NPU", "in 16 bits", "partitions")
    for name, network in NETWORKS.items():
        placement.add_row(name, *_placement(npu[network.file].program))
    console.print(placement)
    pages = {"40 lines": [page(seed) for seed in READ], "scan": [(demo.page(), list(SCAN))]}
    console.print("character error rates; a line that is not found counts as all of its, spaces do not count")
    console.print(f"{'on the NPU':28}" + "".join(f"{name:>10}" for name in (*pages, "together")))
    found = {}
    for chosen in ((), tuple(NETWORKS), *((name,) for name in NETWORKS)):
        read = demo.reader({file: npu[file] for file in (NETWORKS[name].file for name in chosen)})
        counts = [np.sum([errors(read, *each) for each in part], axis=0) for part in pages.values()]
        shares = [100 * float(wrong / of) for wrong, of in [*counts, np.sum(counts, axis=0)]]
        found[chosen] = shares[-1]
        console.print(f"{', '.join(chosen) or 'none':28}" + "".join(f"{share:9.2f}%" for share in shares))
    console.print(f"all three cost {found[tuple(NETWORKS)] - found[()]:.2f} percentage points")


def _placement(program: Program) -> tuple[str, ...]:
    """Of its first variant: nodes, but for those folded away, and multiply-accumulates on the NPU; partitions."""
    fates = Counter(node.fate for node in program.nodes)
    npu = fates["executed"] + fates["fused"]
    share = demo.npu_macs_share(program)
    return (
        f"{npu} of {npu + fates['cpu']}, {100 * npu / (npu + fates['cpu']):.1f}%",
        f"{program.macs:,} of {round(program.macs / share):,}, {100 * share:.2f}%",
        f"{100 * _wide_share(program):.1f}%",
        ", ".join(partition.placement for partition in program.partitions),
    )


def _wide_share(program: Program) -> float:
    """Of the multiply-accumulates, those of 16-bit activations."""
    stream = program.instructions
    counts = macs(stream, program.target)
    wide = view(stream, "conv")["src_type"] == NUMBER["int16"]  # where `dwconv` has it, too
    return float(counts[wide].sum() / counts.sum())


# --- sessions ------------------------------------------------------------------------------------------------


def sessions() -> dict[str, InferenceSession]:
    """The networks on the NPU by their files, with ranges of what RapidOCR feeds them for the pages of CALIBRATED."""
    recorders = {
        network.file: demo.Recorder(demo.float_session(network.file)) for network in NETWORKS.values()
    }
    read = demo.reader(recorders)
    rows, columns = demo.page().shape[:2]
    for seed in CALIBRATED:
        whole = page(seed)[0]
        for image in (whole, whole[:rows, :columns]):  # as large as the pages to read, and as the scan
            read(image)
    made = {}
    for network in NETWORKS.values():
        samples = [padded(row, network.shapes[0]) for batch in recorders[network.file].fed for row in batch]
        made[network.file] = InferenceSession(
            demo.model_path(network.file), shapes={"x": network.shapes}, calibrate_at={"x": network.shapes[0]},
            calibration=[{"x": sample} for sample in samples[: network.samples]], recipe=mixed(network),
        )  # fmt: skip
    return made


def mixed(network: Network) -> Recipe | None:
    """16 bits for all layers but the convolutions of most multiply-accumulates, so many that few enough are left.

    Tensors that these read stay in 8 bits, and what else makes or reads them, too; likewise those whose means are of
    so many elements that sums of 16 bits could overflow.
    """
    if not network.wide:
        return None
    model = canonicalize(import_model(demo.model_path(network.file), {"x": network.shapes[-1]}))
    counts = demo.node_macs(ir.to_proto(model))
    narrow, left = set(), sum(counts.values())
    for name in sorted(counts, key=lambda name: -counts[name]):
        if left > network.wide * sum(counts.values()):
            narrow.add(name)
            left -= counts[name]
    wide = {node.name for node in model.graph}
    for node in model.graph:
        value = node.inputs[0]
        mean_of = math.prod(value.shape[2:]) if node.op_type == "GlobalAveragePool" else 0
        if value is not None and (node.name in narrow or mean_of * 2**15 >= 2**31):
            maker = value.producer()
            wide -= {maker.name if maker is not None else "", *(use.node.name for use in value.uses())}
    return Recipe(layers={name: LayerRecipe("int16") for name in sorted(wide)})


def padded(row: Array, shape: Shape) -> Array:
    sample = np.zeros(shape, np.float32)
    sample[0, :, :, : row.shape[-1]] = row[:, :, : shape[-1]]
    return sample


# --- text ----------------------------------------------------------------------------------------------------


def errors(read: Any, image: Array, texts: Sequence[str]) -> tuple[int, int]:
    """(wrong characters, characters): each line against the nearest that was read, at most all of it."""
    lines = [row[1].replace(" ", "") for row in read(image)[0] or []]
    wanted = [text.replace(" ", "") for text in texts]
    wrong = sum(min([len(text), *(distance(text, line) for line in lines)]) for text in wanted)
    return wrong, sum(map(len, wanted))


def distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace to make one text the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
    return row[-1]


if __name__ == "__main__":
    main()
