"""What every command shares: JSON, messages, errors and exit statuses."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import click

CHECK_FAILED, UNUSABLE, INTERNAL, INTERRUPTED = 1, 2, 3, 130

#: Command: the keys of its JSON object after "schema" (design 7).
JSON_KEYS: dict[str, tuple[str, ...]] = {
    "compile": (
        "program", "target", "npu_node_count", "cpu_node_count", "partitions", "instructions", "macs", "cycles",
        "lower_bound_cycles", "roofline_cycles", "dram_bytes", "compulsory_dram_bytes", "sram_peak_bytes",
        "dram_peak_bytes", "program_bytes", "compile_s", "variants", "findings", "accuracy", "front",
    ),
    "run": ("outputs", "cycles", "latency_ms", "wall_s"),
    "profile": ("cycles", "latency_ms", "fps", "bound", "utilization", "energy_uj", "cpu_partitions", "cores",
                "one_core_layers", "layers", "nodes"),
    "check": ("nodes", "npu_node_count", "cpu_node_count", "ok", "findings"),
    "compare": ("tensors", "worst"),
    "explain": ("bound", "cycles", "latency_ms", "lost", "what_ifs", "lines"),
    "sweep": ("points", "computed"),
    "diff": ("before", "after", "changed", "total", "layers"),
    "ci": ("action", "ok", "networks"),
    "verify": ("ok", "problems"),
    "disasm": ("text",),
    "asm": ("program",),
    "inspect": (
        "target", "info", "partitions", "inputs", "outputs", "metadata", "instructions", "layers", "dram_bytes", "variants",
    ),
    "targets": ("targets",),
    "ops": ("operators",),
    "demo": ("lines", "expected", "cycles", "latency_ms", "utilization", "picture", "program", "npu_macs_share"),
}  # fmt: skip


class Failure(click.ClickException):
    """An error for a person: one line, a hint, an exit status."""

    def __init__(self, message: str, hint: str = "", node: str = "", exit_code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.hint, self.node, self.status = hint, node, exit_code

    def show(self, file: Any = None) -> None:
        """Print it on standard error."""
        click.echo(f"error: {_one_line(self.message)}", err=True)
        if self.hint:
            click.echo(f"hint: {_one_line(self.hint)}", err=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def print_json(command: str, values: dict[str, Any]) -> None:
    """The command's one JSON object.

    Raises:
        TypeError: its keys are not those that JSON_KEYS declares.
    """
    if tuple(values) != JSON_KEYS[command]:
        raise TypeError(f"{command} prints {tuple(values)}, declared are {JSON_KEYS[command]}")
    click.echo(json.dumps({"schema": f"ommatid.{command}/1"} | clean(values), allow_nan=False))


def clean(value: Any) -> Any:
    """Plain JSON values: no NaN, no infinity, no NumPy types."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def run_guarded(work: Callable[[], Any], as_json: bool) -> None:
    """Run the command line; every error becomes one line (or JSON object) and an exit status."""
    try:
        status = work()
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_report(Failure("interrupted", exit_code=INTERRUPTED), as_json))
    except click.ClickException as error:
        failure = error if isinstance(error, Failure) else Failure(error.format_message(), _usage_hint(error))
        sys.exit(_report(failure, as_json))
    except Exception as error:
        if os.environ.get("OMMATID_DEBUG"):
            raise
        sys.exit(_report(as_failure(error), as_json))
    sys.exit(status if isinstance(status, int) else 0)  # click gives the status of ctx.exit() back


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else ""


def as_failure(error: Exception) -> Failure:
    """What an exception means to a person; an unknown one goes to a log file."""
    if isinstance(error, ValueError) and hasattr(error, "hint"):
        return Failure(str(error), error.hint, getattr(error, "node", ""))
    if isinstance(error, OSError) and error.filename:
        return Failure(f"{error.filename}: {error.strerror}", "check the path and its permissions")
    with tempfile.NamedTemporaryFile("w", prefix="ommatid-", suffix=".log", delete=False) as log:
        log.write("".join(traceback.format_exception(error)))
    return Failure(
        f"internal error ({type(error).__name__}); details are in {log.name}",
        "please report it with that file; OMMATID_DEBUG=1 shows it here", exit_code=INTERNAL,
    )  # fmt: skip


def _report(failure: Failure, as_json: bool) -> int:
    if as_json:
        keys = {
            "message": _one_line(failure.message),
            "node": failure.node,
            "hint": failure.hint,
            "exit": failure.status,
        }
        click.echo(json.dumps({"schema": "ommatid.error/1"} | keys))
    failure.show()
    return failure.status
