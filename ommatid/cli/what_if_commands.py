"""The commands about other chips: explain, sweep."""

from __future__ import annotations

import click

from ommatid.cli.console import print_json
from ommatid.cli.options import Working, common, emit, load_variant, variant_option


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
