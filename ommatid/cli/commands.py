"""The commands: arguments, a call into the library, printing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ommatid.cli.console import CHECK_FAILED, Failure, print_json
from ommatid.compiler.variants import shape_variants, shapes_text
from ommatid.isa.program import Program
from ommatid.isa.program_file import load, save, write_whole
from ommatid.isa.target import DEFAULT_TARGET, load_target, preset_names
from ommatid.runtime.images import Preprocess, load_input, preprocess_from
from ommatid.runtime.variants import shapes_of

Command = Callable[..., Any]


def common(output: str | None = None) -> Callable[[Command], Command]:
    """The options of every command; ``output`` is the help of -o."""

    def decorate(function: Command) -> Command:
        function = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)
        function = click.option("-q", "--quiet", is_flag=True, help="No progress, no messages.")(function)
        function = click.option("-v", "--verbose", is_flag=True, help="More messages.")(function)
        function = click.version_option(package_name="ommatid")(function)
        return click.option(
            "-o", "--output", type=click.Path(), help=output or "Write what is printed to this file."
        )(function)

    return decorate


def emit(text: str, output: str | None) -> None:
    """Print a text, or write it to a file."""
    if output:
        write_whole(output, (text + "\n").encode())
    else:
        click.echo(text)


def rendered(*parts: Any, width: int = 150) -> str:
    """Rich renderables as plain text."""
    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    for part in parts:
        console.print(part)
    return console.export_text().rstrip()


class Working:
    """A spinner with the time elapsed on standard error, for people."""

    def __init__(self, text: str, quiet: bool) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
        self.progress.add_task(text)

    def __enter__(self) -> Working:
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()


# --- options of models ------------------------------------------------------------------------------------


def parse_shapes(values: tuple[str, ...]) -> dict[str, list[tuple[int, ...]]]:
    """``NAME=1,3,H,W`` options as a table: the shapes of each input, in their order."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for value in values:
        name, _, dims = value.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.split(","))
        except ValueError:
            raise Failure(f"--shape {value}: is not NAME=1,3,H,W", "separate the sizes by commas") from None
        shapes.setdefault(name, []).append(shape)
        if not name or min(shape) < 1:
            raise Failure(f"--shape {value}: is not NAME=1,3,H,W with sizes of at least 1")
    return shapes


def parse_floats(option: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers separated by commas."""
    if text is None:
        return default
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError:
        raise Failure(f"{option} {text}: is not a list of numbers separated by commas") from None


def names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(dict.fromkeys(n for n in (text or "").split(",") if n))


def shape_option(function: Command) -> Command:
    """--shape, --inputs, --outputs and --target."""
    function = click.option(
        "--shape",
        multiple=True,
        metavar="NAME=1,3,H,W",
        help="Fix an input's shape; several make variants.",
    )(function)
    function = click.option("--inputs", metavar="NAMES", help="Cut the graph: begin at these tensors.")(
        function
    )
    function = click.option("--outputs", metavar="NAMES", help="Cut the graph: end at these tensors.")(
        function
    )
    return click.option(
        "--target", default=DEFAULT_TARGET, show_default=True, metavar="NAME|F.toml", help="The chip."
    )(function)


def variant_option(function: Command) -> Command:
    """--variant."""
    return click.option(
        "--variant", type=click.IntRange(0), help="Of a program for several shapes, this one."
    )(function)


def load_variant(path: str, number: int | None, quiet: bool = True) -> Program:
    """A program, or one variant of it alone; unless ``quiet``, a note says that the first stands for all.

    Raises:
        Failure: there is no such variant.
    """
    program = load(path)
    if number is None:
        if program.others and not quiet:
            click.echo(f"note: {variant_names(program)[0]}; --variant names another", err=True)
        return program
    if number >= len(program.variants):
        raise Failure(f"{path}: has no variant {number}", f"it holds {', '.join(variant_names(program))}")
    return program.variants[number]


def variant_names(program: Program) -> list[str]:
    """What each variant is called: its number and its inputs' shapes."""
    return [f"variant {n} ({shapes_text(shapes_of(v.inputs))})" for n, v in enumerate(program.variants)]


def variant_facts(program: Program) -> list[dict[str, Any]]:
    """Each variant's shapes and sizes, for ``compile`` and ``inspect``."""
    return [
        {
            "inputs": {port.name: list(port.shape) for port in variant.inputs},
            "outputs": {port.name: list(port.shape) for port in variant.outputs},
            "instructions": len(variant.instructions),
            "dram_bytes": variant.dram_bytes,
        }
        for variant in program.variants
    ]


def default_output(source: str) -> str:
    """The program's file beside its source."""
    if not Path(source).name:
        raise Failure(f"{source!r}: is not the path of a file")
    return str(Path(source).with_suffix(".omm"))


def require_writable(path: str) -> None:
    """Refuse an output path that cannot be one before the work begins."""
    if Path(path).is_dir():
        raise Failure(f"{path}: is a folder", "give -o the path of a file")
    if not Path(path).parent.is_dir():
        raise Failure(f"{path}: its folder does not exist", "make the folder first")


# --- compile ------------------------------------------------------------------------------------------------


@click.command("compile")
@click.argument("model", type=click.Path())
@shape_option
@click.option("--calibration", metavar="DIR|F.npz", help="Real inputs: images, .npy files, or one .npz.")
@click.option("--activations", type=click.Choice(["int8", "uint8"]), default="uint8", show_default=True)
@click.option(
    "--method",
    type=click.Choice(["minmax", "percentile", "entropy"]),
    default="minmax",
    show_default=True,
    help="How ranges are chosen.",
)
@click.option("--mean", help="Channel means of images scaled to 0..1.")
@click.option("--std", help="Channel deviations of images scaled to 0..1.")
@click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True)
@click.option("--resize", type=click.Choice(["stretch", "letterbox"]), default="stretch", show_default=True)
@click.option(
    "--save-qdq",
    type=click.Path(),
    help="Write the quantised ONNX model too; F-1.onnx ... for further variants.",
)
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
    activations: str, method: str, mean: str | None, std: str | None, color: str, resize: str, save_qdq: str | None,
    no_cpu: bool, optimize: int, output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compile MODEL (.onnx) to a program for a target."""
    from ommatid.compiler.pipeline import compile_model

    path = output or default_output(model)
    require_writable(path)
    default = Preprocess()
    how = Preprocess(
        parse_floats("--mean", mean, default.mean), parse_floats("--std", std, default.std), color, resize
    )
    begin = time.perf_counter()
    with Working(f"compiling {model}", quiet or as_json):
        program = compile_model(
            model, target, optimize, {"preprocess": how.to_dict(), "model": Path(model).name},
            shapes=parse_shapes(shape), inputs=names(inputs), outputs=names(outputs), calibration=calibration,
            preprocess=how, activations=activations, method=method,
            cpu=not no_cpu, save_qdq=save_qdq,
        )  # fmt: skip
    save(program, path)
    facts = compile_facts(program, path, time.perf_counter() - begin)
    if as_json:
        print_json("compile", facts)
    elif not quiet:
        if calibration is None and "none given" in str(program.info.get("calibration")):
            click.echo(
                "note: no calibration data was given; ranges come from random input unless the model was quantised",
                err=True,
            )
        click.echo(facts_text(facts))


def compile_facts(program: Program, path: str, seconds: float) -> dict[str, Any]:
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
    }


def facts_text(facts: dict[str, Any]) -> str:
    """Facts as two columns; a line for each variant where there are several."""
    wide = max(len(k) for k in facts)
    several = facts["variants"] if len(facts["variants"]) > 1 else []
    rows = [*((k, v) for k, v in facts.items() if k != "variants"), *(("variant", v) for v in several)]
    return "\n".join(f"{k:<{wide}}  {f'{v:,}' if isinstance(v, int) else v}" for k, v in rows)


# --- run, profile, compare -----------------------------------------------------------------------------------


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


def stored_preprocess(program: Program) -> Preprocess:
    """How the program's images are prepared."""
    return preprocess_from(program.info["preprocess"]) if "preprocess" in program.info else Preprocess()


@click.command("profile")
@click.argument("program_path", metavar="PROGRAM", type=click.Path())
@click.option("--csv", type=click.Path(), help="Write the layers as CSV.")
@click.option("--top", type=click.IntRange(1), help="Only the costliest layers.")
@variant_option
@common()
def profile_command(
    program_path: str,
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
    from ommatid.profiler.table import layer_table, summary, to_csv

    result = profile(load_variant(program_path, variant, quiet or as_json))
    if csv:
        write_whole(csv, to_csv(result).encode())
    if as_json:
        print_json("profile", result.to_dict())
    else:
        emit(rendered(summary(result), layer_table(result, top)), output)


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
@click.option("--min-sqnr-db", type=float, help="Fail if an output is below.")
@click.option("--min-cosine", type=float, help="Fail if an output is below.")
@variant_option
@common()
def compare_command(
    model: str, program_path: str, data: str | None, mode: str, min_sqnr_db: float | None, min_cosine: float | None,
    variant: int | None, output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compare PROGRAM with MODEL (float, or the QDQ model it was made from) in ONNX Runtime."""
    from ommatid.profiler.compare import compare_files

    program = load_variant(program_path, variant, quiet or as_json)
    with Working("comparing", quiet or as_json):
        reports = compare_files(program, model, data, mode, stored_preprocess(program))
    reports.sort(key=lambda r: r.sqnr_db)
    worst = reports[0].name if reports else None
    if as_json:
        print_json("compare", {"tensors": [r.to_dict() for r in reports], "worst": worst})
    else:
        table = Table("tensor", "mode", "reference", "SQNR dB", "cosine", "max error", "equal")
        for r in reports:
            table.add_row(
                r.name,
                r.mode,
                r.reference,
                f"{r.sqnr_db:.1f}",
                f"{r.cosine:.5f}",
                f"{r.max_abs_error:.4g}",
                f"{100 * r.equal:.2f}%",
            )
        emit(rendered(table), output)
    below = [
        r
        for r in reports
        if (min_sqnr_db is not None and r.sqnr_db < min_sqnr_db)
        or (min_cosine is not None and r.cosine < min_cosine)
    ]
    if below:
        raise Failure(
            f"{program_path}: tensor {below[0].name!r} has {below[0].sqnr_db:.1f} dB, cosine {below[0].cosine:.5f}",
            "see the table",
            exit_code=CHECK_FAILED,
        )


# --- check, verify, inspect ------------------------------------------------------------------------------------


@click.command("check")
@click.argument("model", type=click.Path())
@shape_option
@common()
def check_command(
    model: str, target: str, shape: tuple[str, ...], inputs: str | None, outputs: str | None,
    output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Say for every node of MODEL where it runs, by which rule, and what would change that."""
    from ommatid.compiler.front import FrontOptions, check_nodes

    load_target(target)
    with Working(f"checking {model}", quiet or as_json):
        front = FrontOptions(inputs=names(inputs), outputs=names(outputs))
        by_name: dict[str, Any] = {}
        for variant in shape_variants(parse_shapes(shape)):  # a node that one of them cannot take counts
            for row in check_nodes(model, replace(front, shapes=variant)):
                if row.name not in by_name or row.placement == "cpu":
                    by_name[row.name] = row
        rows = list(by_name.values())
    npu = sum(r.placement == "npu" for r in rows)
    facts = {
        "nodes": [
            {"name": r.name, "op": r.op, "placement": r.placement, "rule": r.rule, "hint": r.hint}
            for r in rows
        ],
        "npu_node_count": npu,
        "cpu_node_count": len(rows) - npu,
        "ok": npu == len(rows),
    }
    if as_json:
        print_json("check", facts)
    else:
        table = Table("node", "operator", "placement", "rule or reason", "hint")
        for r in rows:
            table.add_row(r.name, r.op, r.placement, r.rule, r.hint)
        emit(rendered(table, f"{npu} of {len(rows)} nodes run on the NPU"), output)
    if npu < len(rows):
        raise click.exceptions.Exit(CHECK_FAILED)


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
