"""The operator table and its document."""

from pathlib import Path

from ommatid.compiler.operators import table
from ommatid.compiler.operators_doc import document


def test_document_is_what_the_table_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "operators.md"
    assert page.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_rule_explains_itself() -> None:
    assert all(rule for _, _, rule in table())
