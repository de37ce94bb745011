"""The commands about other chips: explain, sweep."""

from __future__ import annotations

import click
from rich.table import Table

from ommatid.cli.console import Failure, print_json
from ommatid.cli.options import (
    Working,
    common,
    emit,
    load_variant,
    names,
    parse_shapes,
    rendered,
    require_writable,
    shape_option,
    variant_option,
)
from ommatid.isa.program_file import write_whole
from ommatid.isa.target import load_target, numbers


@click.command("explain")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@click.option("--model", metavar="M.onnx", help="What it was compiled from (default: the file beside it).")
@variant_option
@common()
def explain_command(
    program_path: str, model: str | None, variant: int | None,
    output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Say in plain English what limits PROGRAM, and what twice the SRAM, bandwidth, array or clock would give."""
    from ommatid.profiler.explain import beside, explain

    program = load_variant(program_path, variant, quiet or as_json)
    with Working("explaining", quiet or as_json) as working:
        found = explain(program, model or beside(program_path, program), working.say)
    if as_json:
        print_json("explain", found.to_dict())
    else:
        emit("\n".join(found.lines()), output)


@click.command("sweep")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--set", "given", multiple=True, metavar="FIELD=A,B,...", help="Values of a field of the target."
)
@shape_option
@click.option("--calibration", metavar="DIR|F.npz", help="Real inputs (default: seeded random).")
@click.option(
    "--method", default="minmax", show_default=True, help="How ranges are chosen; cycles hardly depend on it."
)
@click.option("-O", "optimize", type=click.IntRange(0, 3), default=2, show_default=True, help="Effort.")
@click.option("--processes", type=click.IntRange(1), help="Of the pool (default: one for each CPU).")
@click.option("--scheduler", metavar="ADDR", help="Compute on this Dask cluster instead.")
@click.option("--html", type=click.Path(), help="Write a Pareto plot for a browser.")
@click.option("--csv", type=click.Path(), help="Write the points as CSV.")
@common()
def sweep_command(
    models: tuple[str, ...], given: tuple[str, ...], target: str, shape: tuple[str, ...], inputs: str | None, outputs: str | None,
    calibration: str | None, method: str, optimize: int, processes: int | None, scheduler: str | None,
    html: str | None, csv: str | None, output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compile every MODEL (.onnx) for every chip that --set makes of the target, and say what each takes.

    Points that were computed before are taken from the cache, so that an interrupted sweep goes on.
    """
    from ommatid.profiler.sweep import sweep, sweep_csv, sweep_html

    for each in filter(None, (html, csv)):
        require_writable(each)
    shapes = {name: list(several[0]) for name, several in parse_shapes(shape).items()}
    options = {
        "shapes": shapes, "inputs": list(names(inputs)), "outputs": list(names(outputs)),
        "calibration": calibration, "method": method,
    }  # fmt: skip
    with Working("sweeping", quiet or as_json) as working:
        found = sweep(
            models, load_target(target), parse_settings(given), options, optimize, processes, scheduler,
            lambda done, total: working.say(f"{done} of {total} points"),
        )  # fmt: skip
    if html:
        write_whole(html, sweep_html(found).encode())
    if csv:
        write_whole(csv, sweep_csv(found).encode())
    if as_json:
        print_json("sweep", {"points": [p.to_dict() for p in found.points], "computed": found.computed})
        return
    table = Table("network", "target", "cycles", "ms", "uJ", "mm2", "Pareto")
    for p in found.points:
        figures = ("", p.reason, "", "") if p.cycles is None else (
            f"{p.cycles:,}", f"{p.latency_ms:,.3f}", f"{p.energy_uj:,.0f}", f"{p.area_mm2:.2f}",
        )  # fmt: skip
        table.add_row(p.network, p.target, *figures, "*" if p.pareto else "")
    emit(rendered(table, f"{found.computed} of {len(found.points)} points were computed now"), output)


def parse_settings(given: tuple[str, ...]) -> dict[str, list[float]]:
    """``FIELD=A,B`` options as a table: the values of each field, in their order.

    Raises:
        Failure: no such field, or no number.
    """
    settings: dict[str, list[float]] = {}
    kinds = numbers()
    for each in given:
        field, _, values = each.partition("=")
        if field not in kinds:
            raise Failure(f"--set {each}: the target has no number {field!r}", f"they are {', '.join(kinds)}")
        try:
            settings[field] = [kinds[field](value) for value in values.split(",")]
        except ValueError:
            raise Failure(f"--set {each}: is not {field}=A,B,... with {kinds[field].__name__}s") from None
    return settings
