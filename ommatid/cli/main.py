"""The ``ommatid`` command: a group that imports a command's code only when it runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ommatid.cli.console import run_guarded

#: Command: its line in the help, in the order of use.
COMMANDS = {
    "demo": "Read a scanned page with a trained text detector on the NPU.",
    "check": "Say for every node of a model where it runs, and why.",
    "compile": "Compile an ONNX model to a program (.omm).",
    "run": "Run a program on the functional simulator.",
    "profile": "Say where the cycles of a program go.",
    "compare": "Compare a program with ONNX Runtime, tensor by tensor.",
    "explain": "Say what limits a program, and what a larger chip would give.",
    "sweep": "Compile networks for many chips, and compare them.",
    "diff": "Say what changed between two programs or profiles.",
    "ci": "Check networks against a baseline, or update it.",
    "inspect": "Say what made a program, for what, with what.",
    "verify": "Prove that a program is safe on its target.",
    "disasm": "Print a program as assembly.",
    "asm": "Make a program from assembly.",
    "targets": "List the targets.",
    "ops": "List the operators that run on the NPU.",
}

#: The file of a command, where it is not commands.py.
FILES = {
    **dict.fromkeys(("check", "compile", "compare"), "model_commands"),
    **dict.fromkeys(("diff", "ci"), "ci_commands"),
    **dict.fromkeys(("explain", "sweep"), "what_if_commands"),
}


class LazyGroup(click.Group):
    """Commands by name; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ommatid.cli.{FILES.get(cmd_name, 'commands')}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ommatid.isa import release

        click.echo(f"ommatid {release()}")
        ctx.exit()


@click.group(cls=LazyGroup)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Compile ONNX vision networks for an edge NPU, run them bit-exactly, and see where the cycles go."""


def main(arguments: list[str] | None = None) -> Any:
    """The entry point of the command ``ommatid``."""
    given = sys.argv[1:] if arguments is None else arguments
    run_guarded(lambda: cli.main(args=given, prog_name="ommatid", standalone_mode=False), "--json" in given)
