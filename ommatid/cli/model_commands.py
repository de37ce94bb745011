"""The commands about a model's way to a program: check, compile, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ommatid.cli.console import CHECK_FAILED, Failure, print_json
from ommatid.cli.options import (
    Working,
    calibration_options,
    common,
    default_output,
    emit,
    facts_text,
    load_variant,
    minimum_options,
    names,
    parse_shapes,
    preprocessing,
    rendered,
    require_writable,
    shape_option,
    stored_preprocess,
    variant_facts,
    variant_option,
)
from ommatid.compiler.variants import largest, shape_variants
from ommatid.isa.program import Program
from ommatid.isa.program_file import save, write_whole
from ommatid.isa.target import load_target
from ommatid.runtime.variants import shapes_of

if TYPE_CHECKING:
    from ommatid.profiler.compare import TensorReport
    from ommatid.profiler.precision import Front


@click.command("check")
@click.argument("model", type=click.Path())
@shape_option
@calibration_options
@common()
def check_command(
    model: str, target: str, shape: tuple[str, ...], inputs: str | None, outputs: str | None, calibration: str | None,
    mean: str | None, std: str | None, color: str, resize: str,
    output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Say for every node of MODEL where it runs and why, and what will lose accuracy (with --calibration)."""
    from ommatid.compiler.front import FrontOptions, check_nodes, find_plan

    load_target(target)
    with Working(f"checking {model}", quiet or as_json) as working:
        variants = shape_variants(parse_shapes(shape))
        front = FrontOptions(
            inputs=names(inputs), outputs=names(outputs), calibration=calibration,
            preprocess=preprocessing(mean, std, color, resize), progress=working.say,
        )  # fmt: skip
        if len(variants) > 1:  # planned once, as ``compile`` does
            front = replace(front, plan=find_plan(model, replace(front, shapes=largest(variants))))
        by_name: dict[str, Any] = {}
        for variant in variants:  # a node that one of them cannot take counts
            verdicts, findings = check_nodes(model, replace(front, shapes=variant))
            for row in verdicts:
                if row.name not in by_name or row.placement == "cpu":
                    by_name[row.name] = row
        rows = list(by_name.values())
    npu = sum(r.placement == "npu" for r in rows)
    facts: dict[str, Any] = {
        "nodes": [
            {"name": r.name, "op": r.op, "placement": r.placement, "rule": r.rule, "hint": r.hint}
            for r in rows
        ],
        "npu_node_count": npu,
        "cpu_node_count": len(rows) - npu,
        "ok": npu == len(rows),
        "findings": [finding.to_dict() for finding in findings],
    }
    if as_json:
        print_json("check", facts)
    else:
        table = Table("node", "operator", "placement", "rule or reason", "hint")
        for r in rows:
            table.add_row(r.name, r.op, r.placement, r.rule, r.hint)
        parts = [table, f"{npu} of {len(rows)} nodes run on the NPU"]
        if findings:
            parts.insert(1, findings_table(facts["findings"]))
        emit(rendered(*parts), output)
    if npu < len(rows):
        raise click.exceptions.Exit(CHECK_FAILED)


def findings_table(findings: Sequence[dict[str, Any]]) -> Table:
    """What the lint found."""
    table = Table("finding", "node", "figures", "remedy", title="What will lose accuracy")
    for f in findings:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in f["figures"].items())
        table.add_row(f["rule"], f["node"], figures, f["remedy"])
    return table


@click.command("compile")
@click.argument("model", type=click.Path())
@shape_option
@calibration_options
@click.option(
    "--activations", type=click.Choice(["int8", "uint8", "int16"]), default="uint8", show_default=True
)
@click.option(
    "--method",
    type=click.Choice(["auto", "minmax", "percentile", "entropy", "mse"]),
    default="auto",
    show_default=True,
    help="How ranges are chosen; auto: by tensor, the least error.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto"]),
    help="auto: 16 bits for the tensors where they pay, to reach --min-sqnr-db (default: 3 dB below all in 16 bits).",
)
@click.option("--recipe", metavar="F.toml", help="Ranges and layers as this file says.")
@click.option("--save-recipe", type=click.Path(), help="Write the recipe, to edit and give back.")
@click.option(
    "--save-qdq",
    type=click.Path(),
    help="Write the quantised ONNX model too; F-1.onnx ... for further variants.",
)
@minimum_options
@click.option("--no-cpu", is_flag=True, help="Fail if any node would run on the CPU.")
@click.option(
    "-O",
    "optimize",
    type=click.IntRange(0, 3),
    default=2,
    show_default=True,
    help="Effort; 0 keeps layers apart.",
)
@common("The program file (default: the model's name with .omm).")
def compile_command(
    model: str, target: str, shape: tuple[str, ...], inputs: str | None, outputs: str | None, calibration: str | None,
    activations: str, method: str, precision: str | None, recipe: str | None, save_recipe: str | None,
    mean: str | None, std: str | None, color: str, resize: str, save_qdq: str | None,
    min_sqnr_db: float | None, min_cosine: float | None,
    no_cpu: bool, optimize: int, output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compile MODEL (.onnx) to a program for a target."""
    from ommatid.compiler.front import FrontOptions
    from ommatid.profiler.compare import accuracy
    from ommatid.profiler.front import drawing, front_table
    from ommatid.profiler.precision import choose_precision
    from ommatid.runtime.compile import compile_model

    path = output or default_output(model)
    for each in filter(None, (path, save_recipe, save_qdq)):
        require_writable(each)
    how = preprocessing(mean, std, color, resize)
    if precision is not None and (activations == "int16" or calibration is None):
        raise Failure(
            "--precision auto chooses between 8 and 16 bits by data",
            "give --calibration, and no --activations int16",
        )
    begin = time.perf_counter()
    front: Front | None = None
    with Working(f"compiling {model}", quiet or as_json) as working:
        shapes = parse_shapes(shape)
        options: dict[str, Any] = {
            "inputs": names(inputs), "outputs": names(outputs), "calibration": calibration, "preprocess": how,
            "activations": activations, "method": method, "recipe": recipe, "cpu": not no_cpu, "progress": working.say,
        }  # fmt: skip
        if precision is not None:
            given = FrontOptions(**options)
            front = choose_precision(model, target, optimize, given, shapes, min_sqnr_db, working.say)
        program = compile_model(
            model, target, optimize, {"preprocess": how.to_dict(), "model": Path(model).name}, shapes=shapes,
            save_qdq=save_qdq, plan=front.plan if front is not None else None, searching=working.say, **options,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    save(program, path)
    if save_recipe:
        if "recipe" not in program.info:
            raise Failure(f"{model}: is quantised already, and has no recipe", "leave --save-recipe out")
        write_whole(save_recipe, program.info["recipe"].encode())
    reports: list[TensorReport] = []
    if min_sqnr_db is not None or min_cosine is not None:
        with Working("comparing with the float model", quiet or as_json):
            at = program.info.get("calibrated_at") or shapes_of(program.inputs)
            reports = accuracy(program, model, calibration, how, at, names(inputs), names(outputs))
    facts = compile_facts(program, path, reports, seconds) | {
        "front": front.to_list() if front is not None else []
    }
    if as_json:
        print_json("compile", facts)
    elif not quiet:
        if calibration is None and "none given" in str(program.info.get("calibration")):
            click.echo(
                "note: no calibration data was given; ranges come from random input unless the model was quantised",
                err=True,
            )
        if facts["findings"]:
            click.echo(rendered(findings_table(facts["findings"])), err=True)
        if front is not None:
            click.echo(rendered(front_table(front), drawing(front)))
        click.echo(
            facts_text({key: facts[key] for key in facts if key not in ("findings", "accuracy", "front")})
        )
        for row in facts["accuracy"]:
            click.echo(f"output {row['name']!r}: {row['sqnr_db']:.1f} dB, cosine {row['cosine']:.5f}")
    require_minimum(reports, path, min_sqnr_db, min_cosine, as_json)


def compile_facts(
    program: Program, path: str, accuracy: Sequence[TensorReport], seconds: float
) -> dict[str, Any]:
    """What ``compile`` says of a program: of its first variant, where not of the file."""
    from ommatid.profiler.profile import profile

    result = profile(program)
    return {
        "program": path,
        "target": program.target.name,
        "npu_node_count": len({n for p in program.partitions if p.placement == "npu" for n in p.nodes}),
        "cpu_node_count": sum(len(p.nodes) for p in program.partitions if p.placement == "cpu"),
        "partitions": len(program.partitions),
        "instructions": len(program.instructions),
        "macs": program.macs,
        "cycles": result.cycles,
        "lower_bound_cycles": round(program.lower_bound_cycles),
        "roofline_cycles": round(program.roofline_cycles),
        "dram_bytes": sum(row.dram_bytes for row in result.layers),
        "compulsory_dram_bytes": program.compulsory_dram_bytes,
        "sram_peak_bytes": int(program.info["sram_peak_bytes"]),
        "dram_peak_bytes": program.dram_bytes,
        "program_bytes": Path(path).stat().st_size,
        "compile_s": round(seconds, 3),
        "variants": variant_facts(program),
        "findings": program.info.get("findings", []),
        "accuracy": [
            {"name": r.name, "sqnr_db": r.sqnr_db, "cosine": r.cosine} for r in worst_first(accuracy)
        ],
    }


def worst_first(reports: Sequence[TensorReport]) -> list[TensorReport]:
    """Tensors by their signal over noise."""
    return sorted(reports, key=lambda r: r.sqnr_db)


def require_minimum(
    reports: Sequence[TensorReport],
    path: str,
    min_sqnr_db: float | None,
    min_cosine: float | None,
    as_json: bool,
) -> None:
    """End with status 1 if a tensor is below a minimum; the message names the worst.

    Raises:
        Failure, Exit: it is (with --json the object that was printed says so).
    """
    below = [
        r
        for r in worst_first(reports)
        if (min_sqnr_db is not None and r.sqnr_db < min_sqnr_db)
        or (min_cosine is not None and r.cosine < min_cosine)
    ]
    if below and as_json:
        raise click.exceptions.Exit(CHECK_FAILED)
    if below:
        raise Failure(
            f"{path}: output {below[0].name!r} has {below[0].sqnr_db:.1f} dB, cosine {below[0].cosine:.5f}",
            "`ommatid compare` shows every tensor, the worst first",
            exit_code=CHECK_FAILED,
        )


@click.command("compare")
@click.argument("model", type=click.Path())
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@click.option("--data", metavar="DIR|F.npz", help="Inputs (default: seeded random).")
@click.option(
    "--mode",
    type=click.Choice(["entire", "single"]),
    default="entire",
    show_default=True,
    help="single: every layer on the reference's inputs.",
)
@minimum_options
@variant_option
@common()
def compare_command(
    model: str, program_path: str, data: str | None, mode: str, min_sqnr_db: float | None, min_cosine: float | None,
    variant: int | None, output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compare PROGRAM with MODEL (float, or the QDQ model it was made from) in ONNX Runtime, worst tensor first."""
    from ommatid.profiler.compare import compare_files, of_outputs

    program = load_variant(program_path, variant, quiet or as_json)
    with Working("comparing", quiet or as_json):
        reports = worst_first(compare_files(program, model, data, mode, stored_preprocess(program)))
    worst = reports[0].name if reports else None
    if as_json:
        print_json("compare", {"tensors": [r.to_dict() for r in reports], "worst": worst})
    else:
        table = Table("tensor", "mode", "reference", "SQNR dB", "cosine", "max error", "equal")
        for r in reports:
            figures = (
                f"{r.sqnr_db:.1f}",
                f"{r.cosine:.5f}",
                f"{r.max_abs_error:.4g}",
                f"{100 * r.equal:.2f}%",
            )
            table.add_row(r.name, r.mode, r.reference, *figures)
        emit(rendered(table), output)
    require_minimum(of_outputs(program, reports), program_path, min_sqnr_db, min_cosine, as_json)
