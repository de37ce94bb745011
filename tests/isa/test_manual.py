"""The committed manual is what the generator makes, and says something of every instruction."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ommatid.isa import manual
from ommatid.isa.instructions import INSTRUCTIONS
from ommatid.isa.target import load_target, preset_names

DOCS = Path(__file__).parents[2] / "docs"


def test_committed_tables_are_current(tmp_path: Path) -> None:
    shutil.copy(DOCS / "isa.md", tmp_path)
    manual.main(str(tmp_path))
    for name in ("isa.md", "targets.md"):
        made, committed = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
        assert made == committed, f"docs/{name} is out of date: run `make docs`"


@pytest.mark.parametrize("mnemonic", [row.mnemonic for row in INSTRUCTIONS])
def test_every_instruction_has_a_section_with_time_and_table(mnemonic: str) -> None:
    text = (DOCS / "isa.md").read_text(encoding="utf-8")
    sections = re.findall(rf"^### {mnemonic}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(sections) == 1
    prose, table = sections[0].split(f"<!-- table:{mnemonic} -->")
    assert re.search(r"(Port cycles: |\bB = |It takes)", prose)
    assert mnemonic in ("load", "store", "end") or "List" in prose
    assert table.startswith("\nOpcode ")


def test_a_field_shows_offset_type_limits_and_meaning() -> None:
    table = manual.instruction_table(next(row for row in INSTRUCTIONS if row.mnemonic == "conv"))
    cells = next(line for line in table.splitlines() if "`acc_pixel`" in line).strip("| ").split(" | ")
    assert cells[1:] == ["`acc_pixel`", "u32", "bytes", "multiple of 4", "from one output pixel to the next"]
    assert int(cells[0]) % 4 == 0
    assert "| acc | ACC | written; read too if `accumulate` | `acc` |" in table


def test_missing_and_unknown_markers_are_refused() -> None:
    text = (DOCS / "isa.md").read_text(encoding="utf-8")
    with pytest.raises(manual.ManualError, match="one table for conv, not 0"):
        manual.fill(text.replace("table:conv ", "table:other "))
    with pytest.raises(manual.ManualError, match="'other'"):
        manual.fill(text + "<!-- table:other -->\n<!-- /table -->\n")


def test_targets_page_names_every_preset_and_key() -> None:
    page = manual.targets_page()
    for name in preset_names():
        assert f"`{name}`" in page
        assert all(f"| `{key}` |" in page for key in load_target(name).to_dict() if key != "name")
