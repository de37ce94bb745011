"""The compiler as a list of passes: ONNX model in, program out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ommatid.compiler.aids import Aids
from ommatid.compiler.assemble import assemble_program
from ommatid.compiler.batches import image_by_image
from ommatid.compiler.cascade_search import choose_cascades
from ommatid.compiler.dump import dump, schedule_text
from ommatid.compiler.errors import CompileError
from ommatid.compiler.front import FrontOptions, build_network, find_plan, read_model
from ommatid.compiler.fuse import fuse
from ommatid.compiler.layers import Network
from ommatid.compiler.layers_text import network_text
from ommatid.compiler.order import what_frees_first
from ommatid.compiler.placement import EXACT
from ommatid.compiler.positions import rearranging
from ommatid.compiler.refuse import lacks_dram, lacks_sram
from ommatid.compiler.regroup import regroup
from ommatid.compiler.schedule import SENDING, LayerDoesNotFit, schedule
from ommatid.compiler.shuffle import absorb_shuffles
from ommatid.compiler.trial import Estimate, Priced, faster, find_ahead, priced
from ommatid.compiler.variants import largest, shape_variants, shapes_text
from ommatid.compiler.weave import beside_convolutions
from ommatid.isa import release
from ommatid.isa.assembly import disassemble
from ommatid.isa.program import Program
from ommatid.isa.target import Target, load_target
from ommatid.isa.verifier import verify

#: How many schedules are tried, by the level of optimisation; the best of all lower levels counts, too.
TRIALS = {2: (300, 500), 3: (300, 500, 3000)}
#: Steps of the searches for addresses in DRAM and in SRAM that -O3 tries; of what is as fast, the first.
ADDRESSES = ((EXACT, EXACT), (EXACT, 0), (0, 0))


def compile_model(
    model: Any, target: str | Path | Target = "ommatid-1k", optimize: int = 2, info: dict[str, Any] | None = None,
    shapes: Mapping[str, Any] | None = None, calibrate_at: Mapping[str, Sequence[int]] | None = None,
    estimate: Estimate | None = None, aids: Aids | None = None, **options: Any,
) -> Program:  # fmt: skip
    """Compile an ONNX model (path, bytes or ModelProto) for a target.

    The quantisation is planned once and serves all variants, so that these have the same scales: at the largest
    variant, which has the most values to find ranges in, and to whose size the samples of a folder of images are
    brought.

    Args:
        target: the name of a preset, the path of a TOML file, or a Target.
        optimize: 0 keeps every layer apart; 1 and above fuse; 2 and above try cascades, if there is an ``estimate``.
        info: plain data stored in the program: how it was made.
        shapes: of inputs by name; several shapes of one input make as many variants (``shape_variants``).
        calibrate_at: the inputs' shapes at which the quantisation is planned (None: those of the largest variant).
        estimate: gives the finish cycles of each instruction of a program.
        aids: what makes the search of schedules quicker, or shows it.
        options: the other fields of FrontOptions: inputs, outputs, calibration, activations ...

    Raises:
        CompileError: the model cannot be used, or the program does not fit the target.
        TargetError: no such target.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    variants = shape_variants(shapes or {})
    front = FrontOptions(**options)
    made = {"optimize": optimize, "ommatid": release(), **(info or {})}
    if front.calibration is None and front.npu:
        made.setdefault(
            "calibration", "none given: seeded random data, unless the model was quantised already"
        )
    if len(variants) > 1 or calibrate_at is not None:
        at = calibrate_at if calibrate_at is not None else largest(variants)
        made["calibrated_at"] = {name: list(shape) for name, shape in at.items()}
        plan = front.plan or find_plan(model, dataclasses.replace(front, shapes=at))
        front = dataclasses.replace(front, plan=plan)
    programs: list[Program] = []
    for number, variant in enumerate(variants):
        each = dataclasses.replace(front, shapes=variant, save_qdq=_numbered(front.save_qdq, number))
        try:
            network = build_network(model, each)
            dump("network", lambda network=network: network_text(network))  # type: ignore[misc]
            programs.append(
                compile_network(network, chip, optimize, made | dict(network.notes), estimate, aids)
            )
        except CompileError as error:
            if len(variants) == 1:
                raise
            raise CompileError(
                f"variant {number} ({shapes_text(variant)}): {error}", error.hint, error.node
            ) from None
    if len(programs) > 1:
        models = [read_model(model, dataclasses.replace(front, shapes=variant)) for variant in variants]
        if nodes := rearranging(models):
            programs[0].info["rearranged_by"] = nodes
    return dataclasses.replace(programs[0], others=tuple(programs[1:]))


def _numbered(path: str | None, number: int) -> str | None:
    """The file of a variant: the first has the name that was given, the others their number in it."""
    return str(Path(path).with_stem(f"{Path(path).stem}-{number}")) if path and number else path


def compile_network(
    network: Network, target: Target, optimize: int = 2, info: dict[str, Any] | None = None,
    estimate: Estimate | None = None, aids: Aids | None = None,
) -> Program:  # fmt: skip
    """Compile a network of layers: fuse, schedule, emit, verify. Layers stay apart where fusing them is slower.

    Raises:
        CompileError: the program does not fit the target.
    """
    apart = network
    if optimize > 0:
        network = absorb_shuffles(fuse(network), target)
        dump("fused", lambda: network_text(network))
        if target.cores > 1:
            network = beside_convolutions(image_by_image(what_frees_first(network, target), target))
    try:
        if optimize == 0 or estimate is None:
            made, bare = schedule(network, target), None
        else:
            aids = aids or Aids()
            if network.stages != apart.stages:
                find_ahead(apart, target, estimate, aids)
            best = _scheduled(network, target, optimize, estimate, aids)
            best = best if network.stages == apart.stages else faster(best, apart, estimate, aids)
            made, bare = best.made, best.program
    except LayerDoesNotFit as problem:
        raise lacks_sram(network, target, problem) from None
    if made.lacking_bytes:
        raise lacks_dram(made)
    dump("scheduled", lambda: schedule_text(made))
    program = assemble_program(made, info, bare)
    dump("program", lambda: disassemble(program).partition("\n\n")[0] + "\n")
    problems = verify(program)
    if problems:
        raise RuntimeError("the compiler made an illegal program: " + "; ".join(problems[:5]))
    return program


def _scheduled(network: Network, target: Target, optimize: int, estimate: Estimate, aids: Aids) -> Priced:
    """The best schedule that is found."""
    if optimize not in TRIALS:
        return priced(network, target, estimate)
    one = target.cores == 1
    first = (
        _tried(network, target, estimate, TRIALS[optimize], aids)
        if one
        else priced(network, target, estimate)
    )
    sendings = SENDING[:1] if one else SENDING
    ways = itertools.product(sendings, ADDRESSES if optimize > 2 else ADDRESSES[-1:])
    network, known = first.made.plan.network, (SENDING[0], ADDRESSES[-1])
    made = (
        first if way == known else priced(network, target, estimate, first.cascades, *way) for way in ways
    )
    return min(made, key=lambda each: each.cost)


def _tried(
    network: Network, target: Target, estimate: Estimate, budgets: Sequence[int], aids: Aids
) -> Priced:
    """The network with cascades, its layers regrouped if that is better."""
    other = regroup(network, target)
    if other is network:
        return choose_cascades(network, target, estimate, budgets, aids)
    find_ahead(network, target, estimate, aids)
    other = fuse(other)
    dump("regrouped", lambda: network_text(other))
    return faster(choose_cascades(other, target, estimate, budgets, aids), network, estimate, aids)
