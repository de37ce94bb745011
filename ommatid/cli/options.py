"""What commands share: options, progress and printing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ommatid.cli.console import Failure
from ommatid.compiler.variants import shapes_text
from ommatid.isa.program import Program
from ommatid.isa.program_file import load, write_whole
from ommatid.isa.target import DEFAULT_TARGET
from ommatid.runtime.images import Preprocess, preprocess_from
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
    """A spinner and a bar with the time elapsed on standard error, for people."""

    def __init__(self, text: str, quiet: bool) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
        self.text, self.task = text, self.progress.add_task(text, total=None)

    def say(self, doing: str, share: float | None = None) -> None:
        """Show what is being done at the moment, and which share of it is, if that is known."""
        self.progress.update(
            self.task, description=f"{self.text}: {doing}", completed=share or 0, total=share and 1
        )

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


def calibration_options(function: Command) -> Command:
    """--calibration, and how its images are prepared."""
    for option in reversed(_CALIBRATION):
        function = option(function)
    return function


_CALIBRATION = (
    click.option("--calibration", metavar="DIR|F.npz", help="Real inputs: images, .npy files, or one .npz."),
    click.option("--mean", help="Channel means of images scaled to 0..1."),
    click.option("--std", help="Channel deviations of images scaled to 0..1."),
    click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True),
    click.option(
        "--resize", type=click.Choice(["stretch", "letterbox"]), default="stretch", show_default=True
    ),
)


def preprocessing(mean: str | None, std: str | None, color: str, resize: str) -> Preprocess:
    """How images are prepared, by the options."""
    default = Preprocess()
    return Preprocess(
        parse_floats("--mean", mean, default.mean), parse_floats("--std", std, default.std), color, resize
    )


def minimum_options(function: Command) -> Command:
    """--min-sqnr-db and --min-cosine."""
    function = click.option("--min-cosine", type=float, help="Fail if an output of the network is below.")(
        function
    )
    return click.option("--min-sqnr-db", type=float, help="Fail if an output of the network is below.")(
        function
    )


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


def facts_text(facts: dict[str, Any]) -> str:
    """Facts as two columns; a line for each variant where there are several."""
    wide = max(len(k) for k in facts)
    several = facts["variants"] if len(facts["variants"]) > 1 else []
    rows = [*((k, v) for k, v in facts.items() if k != "variants"), *(("variant", v) for v in several)]
    return "\n".join(f"{k:<{wide}}  {f'{v:,}' if isinstance(v, int) else v}" for k, v in rows)


def stored_preprocess(program: Program) -> Preprocess:
    """How the program's images are prepared."""
    return preprocess_from(program.info["preprocess"]) if "preprocess" in program.info else Preprocess()
