"""Layers of real networks as programs of their own: cut out of a compiled network, with its memories before them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, STREAM, Engine, queues, view
from ommatid.isa.program import Partition, Program
from ommatid.isa.program_file import load
from ommatid.isa.verifier import verify
from ommatid.simulator import timing
from ommatid.simulator.functional import Machine
from tests.simulator.outcome import Outcome, compare
from tests.workloads import SHAPES, source

NETWORKS = ("resnet50", "squeezenet", "shufflenet", "detector", "inception_v1", "densenet121")
MOST_CYCLES = 50_000
#: What a layer is named after: the first of these instructions that it has.
TELLING = (
    "conv",
    "dwconv",
    "resize",
    "softmax",
    "lrn",
    "norm",
    "topk",
    "pool",
    "reduce",
    "copy",
    "map",
    "fill",
    "load",
    "store",
)


@dataclass(frozen=True)
class Piece:
    """Instructions ``begin`` to ``end`` of a network's program: a layer, or its beginning."""

    name: str
    kind: str
    begin: int
    end: int


def compile_workload(name: str, target: str, path: Path) -> Program:
    """A network for a target, from the file ``path`` if it is there; it is afterwards."""
    if not path.exists():
        shapes = {"x": SHAPES[name]} if name in SHAPES else {}
        compile_model(source(name), target, shapes=shapes).save(str(path))
    return load(str(path))


def pieces(name: str, program: Program) -> list[Piece]:
    """All layers that have instructions of their own, one after the other."""
    found, work = [], timing.decode(program.instructions, program.target)
    edges = np.flatnonzero(np.diff(program.layer_of)) + 1
    for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(program.layer_of)], strict=True):
        if (layer := int(program.layer_of[begin])) >= 0:
            kind = kind_of(program, begin, end) + (", crowded" if crowded(work[begin:end]) else "")
            found.append(Piece(f"{name} {program.layers[layer].name}", kind, begin, end))
    return found


def kind_of(program: Program, begin: int, end: int) -> str:
    """What a layer is: the instruction that tells it, for convolutions the kernel too."""
    stream = program.instructions[begin:end]
    there = {BY_OPCODE[int(op)].mnemonic for op in np.unique(stream["opcode"])}
    kind = next(m for m in TELLING if m in there)
    if kind == "conv":
        first = view(stream, kind)[stream["opcode"] == BY_MNEMONIC[kind].opcode][0]
        kind += f" {first['kh']}x{first['kw']}"
    return kind


def crowded(work: Any) -> bool:
    """Whether words of WORK records that do not come from DRAM crowd in few banks: the fast model's view."""
    own = work["dram_bytes"] == 0
    return bool(work["pace"][own].sum() > 1.05 * work["cost"][own].sum())


def run_pieces(path: Path, chosen: list[Piece]) -> list[Outcome]:
    """Pieces of a compiled network on all executors, each from what the network before it leaves in memory."""
    program = load(str(path))
    machine = Machine(program)
    rng = np.random.default_rng(0)
    for placed in program.placed:
        if placed.layer < 0:
            limits = np.iinfo(placed.tensor.quantization.dtype)
            machine.write(placed, rng.integers(limits.min, limits.max + 1, placed.tensor.shape))
    outcomes, at = [], 0
    for piece in sorted(chosen, key=lambda p: p.begin):
        machine.run(at, piece.begin)
        at = piece.begin
        outcomes.append(compare(piece.name, shortened(program, piece), machine, piece.kind))
    return outcomes


def shortened(program: Program, piece: Piece) -> Program:
    """The piece as a program, or as many of its first instructions as run in MOST_CYCLES."""
    begin, end = piece.begin, piece.end
    while True:
        made = cut(program, begin, end)
        finish = timing.simulate(made).finish[:-1]
        if finish.max() <= MOST_CYCLES:
            return made
        end = begin + max(1, int(np.argmax(np.maximum.accumulate(finish) > MOST_CYCLES)))
        if end == begin + 1:
            return cut(program, begin, end)


def cut(program: Program, begin: int, end: int) -> Program:
    """Instructions ``begin`` to ``end`` with the tokens between them, closed by an ``end``."""
    stream = np.append(program.instructions[begin:end], np.zeros(1, STREAM))
    engines = queues(program.instructions)
    stream["wait"], stream["signal"] = 0, 0
    for (producer, consumer), pairs in _tokens(program.instructions, engines).items():
        for j, i in pairs:
            if begin <= j and i < end:
                stream["signal"][j - begin] |= np.uint32(1 << consumer)
                stream["wait"][i - begin] |= np.uint32(1 << producer)
    stream["opcode"][-1] = BY_MNEMONIC["end"].opcode
    for queue in np.unique(engines[begin:end]).tolist():
        last = int(np.flatnonzero(engines[begin:end] == queue)[-1])
        stream["signal"][last] |= np.uint32(1 << int(Engine.CTL))
        stream["wait"][-1] |= np.uint32(1 << queue)
    none = np.full((1, program.operands.shape[1]), -1, np.int32)
    made = dataclasses.replace(
        program, instructions=stream, operands=np.concatenate([program.operands[begin:end], none]),
        layer_of=np.append(program.layer_of[begin:end], np.int32(-1)),
        partitions=(Partition("npu", (), (), 0, len(stream)),),
    )  # fmt: skip
    problems = [p for p in verify(made) if "reads bytes" not in p]  # the network before it wrote them
    assert not problems, problems
    return made


def _tokens(stream: Any, queue: Any) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """By the mask bits of producer and consumer, who puts and who takes each token: the k-th is the k-th."""
    signals: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    waits: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (wait, signal, mine) in enumerate(
        zip(stream["wait"].tolist(), stream["signal"].tolist(), queue.tolist(), strict=True)
    ):
        for bit in range(32):
            if signal >> bit & 1:
                signals[mine, bit].append(i)
            if wait >> bit & 1:
                waits[bit, mine].append(i)
    return {pair: list(zip(signals[pair], waits[pair], strict=True)) for pair in signals}
