"""The page in a browser: it asks for nothing, sorts, searches, tells of instructions, and shows the table's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ommatid.compiler.pipeline import compile_model
from ommatid.profiler import extras
from ommatid.profiler.graph import edges, places
from ommatid.profiler.profile import Profile, profile
from ommatid.profiler.report import opportunities, page_data, to_html
from ommatid.profiler.table import table
from tests.profiler.browser import opened
from tests.profiler.regressions import residual

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def result() -> Profile:
    return profile(compile_model(residual(), "ommatid-256", method="minmax"))


@pytest.fixture(scope="module")
def path(result: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(to_html(result), encoding="utf-8")
    return file


def shown(page: Any) -> list[list[str]]:
    """The layer table's cells."""
    rows: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#table tbody tr')].map(tr => [...tr.cells].map(td => td.textContent))"
    )
    return rows


def check_page(page: Any, result: Profile) -> None:
    """What holds of every page: the table, its order, the search, and an instruction under the pointer."""
    rows = table(result)
    cells = shown(page)
    assert [row[0] for row in cells] == [row["name"] for row in rows]
    assert sum(int(row[3].replace(",", "")) for row in cells) == result.cycles
    page.get_by_role("button", name="Cycles", exact=True).click()
    order = [int(row[3].replace(",", "")) for row in shown(page)]
    assert order == sorted(order, reverse=True)
    node = next(row["nodes"][-1] for row in rows if len(row["nodes"]) > 1)
    page.keyboard.press("/")
    page.keyboard.type(node)
    assert all(node.lower() in " ".join(row).lower() for row in shown(page)) and shown(page)
    page.locator("#search").fill("")
    page.locator("#goto").select_option(label=result.layers[1].name)
    page.locator("#plot-timeline").focus()
    for _ in range(12):
        if "Each bar is one" in page.locator("#merged").inner_text():
            break
        page.keyboard.press("+")
    told = page.evaluate(HOVER)
    assert any(line in told for line in ("mx.conv", "mx.dwconv", "load.load", "vx.")), told
    page.keyboard.press("0")


#: The text of the bar nearest to the middle, as the pointer over it shows it.
HOVER = """() => {
  const gd = document.getElementById("plot-timeline"), t = gd.data[0];
  const [low, high] = gd.layout.xaxis.range, middle = (low + high) / 2;
  let best = -1, near = Infinity;
  t.x.forEach((w, i) => {
    const away = Math.abs(t.base[i] + w / 2 - middle);
    if (t.y[i] !== "layer" && away < near) { near = away; best = i; }
  });
  Plotly.Fx.hover(gd, [{ curveNumber: 0, pointNumber: best }]);
  return gd.querySelector(".hoverlayer").textContent;
}"""


def test_in_a_browser(path: Path, result: Profile) -> None:
    with opened(path, "dark", 600) as (page, faults):
        check_page(page, result)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        assert page.evaluate("document.documentElement.scrollWidth") <= 600
        assert not faults


def test_what_the_page_holds(path: Path, result: Profile) -> None:
    assert path.stat().st_size < 6e6
    data = page_data(result)
    assert data["rows"] == table(result) and len(data["nodes"]) == len(result.nodes)
    assert (
        sum(len(queue["t"]) for queue in data["instructions"].values())
        == len(result.program.instructions) - 1
    )
    assert sum(map(sum, data["energy"])) == pytest.approx(sum(result.energy_uj.values()), rel=1e-3)
    assert 1 <= len(opportunities(result)) <= 3


def test_the_graph_is_that_of_the_network(result: Profile) -> None:
    names = [layer.name for layer in result.layers]
    pairs = edges(result.program)
    found = {(names[a], names[b]) for a, b in pairs}
    assert {("conv0", "conv1"), ("conv1", "conv2"), ("conv2", "conv3"), ("conv3", "pool")} <= found
    assert ("conv0", "conv3") not in found
    at = places(len(names), pairs)
    assert all(at[a][0] < at[b][0] for a, b in pairs) and len(set(at)) == len(at)


def test_a_package_that_is_missing() -> None:
    with pytest.raises(extras.MissingExtra, match="nobody_has_this") as caught:
        extras.needed("nobody_has_this", "report")
    assert "ommatid[report]" in caught.value.hint
