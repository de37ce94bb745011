"""A page in headless Chromium: what it says on the console, what it asks for, and pictures of its sections.

``python -m tests.profiler.browser PAGE FOLDER`` writes the pictures, in both themes and at two widths.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1400, 600)
SECTIONS = ("summary", "layers", "timeline", "sram", "roofline", "energy", "graph")


def chromium() -> str:
    """The browser's path; without one the test is skipped, and fails in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    return found


@contextlib.contextmanager
def opened(path: Path, theme: str = "light", width: int = WIDTHS[0]) -> Iterator[tuple[Any, list[str]]]:
    """The page once it has drawn itself, and a list of all that it should not have done."""
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        page.on(
            "console",
            lambda said: (
                faults.append(f"console: {said.text}") if said.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda asked: _note(faults, asked.url, path))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        yield page, faults
        browser.close()


def _note(faults: list[str], url: str, path: Path) -> None:
    if url != path.resolve().as_uri() and not url.startswith(("data:", "blob:")):
        faults.append(f"request: {url}")


def pictures(path: Path, folder: Path) -> None:
    """Every section in both themes and at both widths."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for width in WIDTHS:
            with opened(path, theme, width) as (page, faults):
                for section in SECTIONS:
                    page.locator(f"#{section}").screenshot(path=folder / f"{section}-{theme}-{width}.png")
                assert not faults, faults


if __name__ == "__main__":
    pictures(Path(sys.argv[1]), Path(sys.argv[2]))
