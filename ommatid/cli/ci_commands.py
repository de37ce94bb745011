"""The commands that compare: diff, ci."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ommatid.cli.console import CHECK_FAILED, print_json
from ommatid.cli.options import Working, common, emit, rendered, require_writable
from ommatid.isa.program_file import write_whole


@click.command("diff")
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option("--fail-on-change", is_flag=True, help="Exit with status 1 if anything differs.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--variant", type=click.IntRange(0), default=0, help="Of programs for several shapes, this one."
)
@common()
def diff_command(
    before: str, after: str, fail_on_change: bool, markdown: bool, variant: int,
    output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Say what changed from BEFORE to AFTER: programs (.omm), or profiles as `profile --json` printed them."""
    from ommatid.profiler.diff import diff, diff_markdown, diff_table, read_rows

    result = diff(read_rows(before, variant), read_rows(after, variant))
    if as_json:
        print_json("diff", {"before": before, "after": after} | result.to_dict())
    elif markdown:
        emit(diff_markdown(result).rstrip(), output)
    elif result.changed or not quiet:
        emit(rendered(diff_table(result)) if result.changed else "no change", output)
    if fail_on_change and result.changed:
        raise click.exceptions.Exit(CHECK_FAILED)


@click.command("ci")
@click.argument("action", type=click.Choice(["update", "check"]))
@click.argument("networks", metavar="[NAMES]...", nargs=-1)
@click.option("--baseline", required=True, metavar="F.toml", help="What networks cost and give.")
@click.option("--junit-xml", type=click.Path(), help="Write a test case for each network.")
@click.option("--markdown", type=click.Path(), help="Write a table in Markdown.")
@click.option("--github", is_flag=True, help="Print annotations for GitHub Actions.")
@common()
def ci_command(
    action: str, networks: tuple[str, ...], baseline: str, junit_xml: str | None, markdown: str | None, github: bool,
    output: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Compare the networks of a baseline with what it holds, or write what they are now.

    NAMES are networks of the baseline (default: all), or new models (.onnx, beside it) to update with.
    """
    from ommatid.profiler import ci_report
    from ommatid.profiler.baseline import read_baseline, write_baseline
    from ommatid.profiler.regression import check, update

    for each in filter(None, (baseline, junit_xml, markdown)):
        require_writable(each)
    held, folder = read_baseline(baseline), Path(baseline).parent
    with Working(f"{action} of {baseline}", quiet or as_json):
        if action == "update":
            held, verdicts = update(held, networks, folder)
            write_baseline(baseline, held)
        else:
            verdicts = check(held, networks, folder, baseline)
    ok = action == "update" or all(verdict.ok for verdict in verdicts)
    if junit_xml:
        write_whole(junit_xml, ci_report.junit_xml(verdicts))
    if markdown:
        write_whole(markdown, ci_report.ci_markdown(verdicts).encode())
    facts: dict[str, Any] = {"action": action, "ok": ok, "networks": [v.to_dict() for v in verdicts]}
    if as_json:
        print_json("ci", facts)
    elif not quiet or not ok:
        emit(rendered(ci_report.ci_table(verdicts)), output)
    if github and not as_json:
        click.echo("\n".join(ci_report.github_annotations(verdicts, baseline)))
    if not ok:
        raise click.exceptions.Exit(CHECK_FAILED)
