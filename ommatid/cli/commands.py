"""The commands about programs, targets and operators: arguments, a call into the library, printing."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from ommatid.cli.console import CHECK_FAILED, Failure, print_json
from ommatid.cli.options import (
    Working,
    common,
    default_output,
    emit,
    facts_text,
    load_variant,
    rendered,
    require_writable,
    stored_preprocess,
    variant_facts,
    variant_option,
)
from ommatid.isa.program import Program
from ommatid.isa.program_file import save, write_whole
from ommatid.isa.target import DEFAULT_TARGET, load_target, preset_names
from ommatid.runtime.images import load_input

# --- run, profile ------------------------------------------------------------------------------------------


@click.command("run")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help="A .png, .jpg, .npy or .npz file."
)
@click.option(
    "--strict",
    is_flag=True,
    help="Execute in the plainest way: one thread, no special instructions, the same bits.",
)
@variant_option
@common("A folder for the outputs as .npy files.")
def run_command(
    program_path: str,
    inputs: tuple[str, ...],
    strict: bool,
    variant: int | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run PROGRAM (.omm) on files.

    The smallest variant that fits them runs; pictures are brought to the size of the first, or of --variant.
    """
    from ommatid.runtime.session import InferenceSession

    session = InferenceSession(load_variant(program_path, variant), strict=strict)
    feeds = read_feeds(session.program, inputs)
    begin = time.perf_counter()
    with Working("running", quiet or as_json):
        results = session.run(None, feeds)
    wall = time.perf_counter() - begin
    named = dict(zip([o.name for o in session.get_outputs()], results, strict=True))
    if output:
        Path(output).mkdir(parents=True, exist_ok=True)
        for name, array in named.items():
            _save_npy(Path(output) / f"{name.replace('/', '_')}.npy", array)
    facts = {
        "outputs": {
            n: {
                "dtype": str(a.dtype),
                "shape": list(a.shape),
                "sha256": hashlib.sha256(a.tobytes()).hexdigest(),
            }
            for n, a in named.items()
        },
        "cycles": session.cycles,
        "latency_ms": session.cycles / session.program.target.clock_mhz / 1e3,
        "wall_s": round(wall, 3),
    }
    if as_json:
        print_json("run", facts)
    else:
        for name, array in named.items():
            click.echo(f"{name}  {array.dtype} {list(array.shape)}  {_glance(array)}")
        click.echo(
            f"{facts['cycles']:,} cycles, {facts['latency_ms']:.3f} ms on {session.program.target.name}; simulated in {wall:.2f} s"
        )


def _glance(array: np.ndarray[Any, Any]) -> str:
    """The largest entry of a small vector of scores, else the range."""
    flat = array.reshape(-1)
    return f"min {flat.min():.6g}, max {flat.max():.6g} at {int(flat.argmax())}" if flat.size else "empty"


def _save_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    write_whole(path, buffer.getvalue())


def read_feeds(program: Program, inputs: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Feeds from ``[NAME=]FILE`` options.

    Raises:
        Failure: a file cannot be read, or names no input.
    """
    ports = {p.name: p for p in program.inputs}
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for value in inputs:
        name, found, file = value.partition("=")
        if found and name not in ports and not Path(value).exists():
            raise Failure(f"-i {value}: the program has no input {name!r}", f"it has {', '.join(ports)}")
        if not found or name not in ports:
            name, file = next(iter(ports)), value
        path = Path(file)
        if not path.is_file():
            raise Failure(f"{file}: no such file", "give -i [NAME=]FILE with a .png, .jpg, .npy or .npz file")
        if path.suffix == ".npz":
            feeds |= _load_npz(path)
        else:
            feeds[name] = load_input(path, ports[name].shape, stored_preprocess(program))
    return feeds


def _load_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: cannot be read: {error}", "write it with numpy.savez") from None


@click.command("profile")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@click.option("--html", type=click.Path(), help="Write a page for a browser.")
@click.option("--trace", type=click.Path(), help="Write a trace for ui.perfetto.dev.")
@click.option("--csv", type=click.Path(), help="Write the layers as CSV.")
@click.option("--top", type=click.IntRange(1), help="Only the costliest layers.")
@variant_option
@common()
def profile_command(
    program_path: str,
    html: str | None,
    trace: str | None,
    csv: str | None,
    top: int | None,
    variant: int | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say where the cycles of PROGRAM go."""
    from ommatid.profiler.profile import profile
    from ommatid.profiler.report import to_html
    from ommatid.profiler.table import layer_table, summary, to_csv
    from ommatid.profiler.trace import to_trace

    for each in filter(None, (html, trace, csv)):
        require_writable(each)
    result = profile(load_variant(program_path, variant, quiet or as_json))
    if csv:
        write_whole(csv, to_csv(result).encode())
    if html:
        write_whole(html, to_html(result).encode())
    if trace:
        write_whole(trace, to_trace(result))
    if as_json:
        print_json("profile", result.to_dict())
    else:
        emit(rendered(summary(result), layer_table(result, top)), output)


# --- verify, inspect ------------------------------------------------------------------------------------


@click.command("verify")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@variant_option
@common()
def verify_command(
    program_path: str, variant: int | None, output: str | None, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Prove that PROGRAM touches only its own memory, cannot deadlock, and has no races."""
    from ommatid.isa.verifier import verify

    variants = load_variant(program_path, variant).variants
    problems = [
        f"variant {number}: {problem}" if len(variants) > 1 else problem
        for number, each in enumerate(variants)
        for problem in verify(each)
    ]
    if as_json:
        print_json("verify", {"ok": not problems, "problems": problems})
    elif problems or not quiet:
        emit("\n".join(problems) or f"{program_path}: no problem found", output)
    if problems:
        raise click.exceptions.Exit(CHECK_FAILED)


@click.command("inspect")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@variant_option
@common()
def inspect_command(
    program_path: str, variant: int | None, output: str | None, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Say what made PROGRAM, for what, with what."""
    program = load_variant(program_path, variant)
    facts = {
        "target": program.target.name,
        "info": program.info,
        "partitions": [
            {"placement": p.placement, "nodes": len(p.nodes), "reasons": list(dict.fromkeys(p.reasons))}
            for p in program.partitions
        ],
        "inputs": [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in program.inputs],
        "outputs": [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in program.outputs],
        "metadata": program.metadata,
        "instructions": len(program.instructions),
        "layers": len(program.layers),
        "dram_bytes": program.dram_bytes,
        "variants": variant_facts(program),
    }
    if as_json:
        print_json("inspect", facts)
    else:
        emit(facts_text(facts), output)


# --- disasm, asm, targets, ops, demo ---------------------------------------------------------------------------


@click.command("disasm")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@variant_option
@common()
def disasm_command(
    program_path: str, variant: int | None, output: str | None, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Print PROGRAM, or its first variant, as assembly; ``asm`` gives back the same file."""
    from ommatid.isa.assembly import disassemble

    text = disassemble(load_variant(program_path, variant, quiet or as_json))
    if as_json:
        print_json("disasm", {"text": text})
    elif output:
        write_whole(output, text.encode())
    else:
        click.echo(text, nl=False)


@click.command("asm")
@click.argument("source", type=click.Path())
@common("The program file (default: the source's name with .omm).")
def asm_command(source: str, output: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Make a program from assembly text."""
    from ommatid.isa.assembly import assemble

    path = output or default_output(source)
    try:
        program = assemble(Path(source).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Failure(f"{source}: is not text", "see `ommatid disasm`") from None
    except ValueError as error:  # not text, or not assembly
        raise Failure(f"{source}: {error}", getattr(error, "hint", "see `ommatid disasm`")) from None
    save(program, path)
    if as_json:
        print_json("asm", {"program": path})
    elif not quiet:
        click.echo(path)


@click.command("targets")
@common()
def targets_command(output: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the targets that ship with ommatid."""
    targets = [load_target(name) for name in preset_names()]
    if as_json:
        print_json("targets", {"targets": [t.to_dict() for t in targets]})
        return
    table = Table("", *(t.name for t in targets))
    for key in list(targets[0].to_dict())[1:]:
        table.add_row(key, *(str(t.to_dict()[key]) for t in targets))
    emit(rendered(table), output)


@click.command("ops")
@common()
def ops_command(output: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the operators that run on the NPU, and by which rule; all others run on the CPU."""
    from ommatid.compiler.operators import table as operator_table

    rows = operator_table()
    if as_json:
        print_json("ops", {"operators": [{"op": a, "placement": b, "rule": c} for a, b, c in rows]})
        return
    table = Table("operator", "placement", "rule")
    for row in rows:
        table.add_row(*row)
    emit(rendered(table), output)


@click.command("demo")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, metavar="NAME|F.toml", help="The chip.")
@common("The picture (default: ommatid-demo.png).")
def demo_command(target: str, output: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Read a scanned page: RapidOCR with its text detector running as NPU instructions."""
    from ommatid.profiler.demo import run_demo
    from ommatid.profiler.table import layer_table, summary

    picture = output or "ommatid-demo.png"
    with Working("compiling the detector (once), then reading the page", quiet or as_json):
        result = run_demo(picture, target)
    facts = result.facts()
    if as_json:
        print_json("demo", facts)
        return
    click.echo("The page reads:")
    for line in result.lines:
        click.echo(f"  {line}")
    click.echo(
        rendered(summary(result.profile), "The ten costliest layers:", layer_table(result.profile, 10))
    )
    click.echo(
        f"{100 * result.npu_macs_share:.1f}% of the detector's MACs ran on {result.target}; boxes are drawn in {picture}"
    )
