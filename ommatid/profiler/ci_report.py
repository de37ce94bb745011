"""Verdicts of a CI run as a table, JUnit XML, Markdown and GitHub annotations."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from rich.table import Table

from ommatid.profiler.regression import Verdict


def ci_table(verdicts: Sequence[Verdict]) -> Table:
    """For a terminal."""
    table = Table("network", "status", "what changed", header_style="bold")
    for verdict in verdicts:
        table.add_row(verdict.name, verdict.status, "\n".join(verdict.lines()))
    return table


def junit_xml(verdicts: Sequence[Verdict]) -> bytes:
    """A test case for each network."""
    failed = sum(not v.ok for v in verdicts)
    suite = ElementTree.Element("testsuite", name="ommatid", tests=str(len(verdicts)), failures=str(failed))
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="ommatid.ci", name=verdict.name)
        text = "\n".join(verdict.lines())
        if not verdict.ok:
            failure = ElementTree.SubElement(case, "failure", type=verdict.status, message=verdict.lines()[0])
            failure.text = text
        elif text:
            ElementTree.SubElement(case, "system-out").text = text
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def ci_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table, for a comment or a summary."""
    lines = ["| network | status | what changed |", "| --- | --- | --- |"]
    for verdict in verdicts:
        cells = [verdict.name, verdict.status, "<br>".join(verdict.lines())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def github_annotations(verdicts: Sequence[Verdict], file: str) -> list[str]:
    """Lines that GitHub shows beside the baseline: errors, and notices of improvements."""
    levels = {"improved": "notice", "ok": ""}
    return [
        f"::{level} file={_escaped(file, ',:')},title={_escaped(f'{v.name} {v.status}', ',:')}::{_escaped(line)}"
        for v in verdicts
        if (level := levels.get(v.status, "error"))
        for line in v.lines()
    ]


def _escaped(text: str, more: str = "") -> str:
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
