"""Places of a page that are filled behind the stage, costs, comparisons; and how the pages look in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from softgrpo.evaluation.comparison_page import FEW_ROWS, ComparisonPage, render_comparison, rows_of_figure
from softgrpo.evaluation.pages.costs import Cost, costs_html, costs_markdown, costs_of, without_cost
from softgrpo.evaluation.pages.provenance import (
    COSTS,
    PROVENANCE,
    Provenance,
    fill,
    place,
    provenance_html,
    provenance_markdown,
)
from softgrpo.evaluation.report import write_report
from tests.softgrpo.evaluation.setup_small import Small
from tests.softgrpo.evaluation.test_report import make_report


@pytest.fixture(scope="module")
def written(case: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(make_report(case), folder)
    return folder


def test_a_place_is_filled_again_and_nothing_else_changes() -> None:
    page = f"before\n{place(PROVENANCE, 'empty')}\nbetween\n{place(COSTS)}\nbehind"
    once = fill(page, PROVENANCE, r"first \1")
    assert once == page.replace("empty", r"first \1")
    assert fill(once, PROVENANCE, "second") == page.replace("empty", "second")
    assert fill("a page of an earlier version", PROVENANCE, "text") == "a page of an earlier version"


def test_facts_are_escaped_and_only_addresses_are_links() -> None:
    links = {"MLflow run": "http://127.0.0.1:5000/#/runs/1?a=1&b=2", "other": "javascript:alert(1)"}
    provenance = Provenance({"run": "<b>x</b>", "command": "softgrpo run 'a b'"}, links)
    html = provenance_html(provenance)
    assert "&lt;b&gt;x" in html and "<code>softgrpo run &#x27;a b&#x27;</code>" in html
    assert re.findall(r'href="([^"]*)"', html) == ["http://127.0.0.1:5000/#/runs/1?a=1&amp;b=2"]
    assert "- command: `softgrpo run 'a b'`" in provenance_markdown(provenance)


def test_both_files_of_a_report_have_both_places(written: Path) -> None:
    for name in ("report.html", "report.md"):
        page = (written / name).read_text()
        assert "XYZ" in fill(page, PROVENANCE, "XYZ") and "XYZ" in fill(page, COSTS, "XYZ")


def test_a_row_costs_all_that_it_needs(case: Small) -> None:
    costs = costs_of(case.comparison.table, 5, {"Left": 1.0, "Right": 2.5}, merge=0.5, policy=20.0)
    assert [cost.milliseconds for cost in costs] == [1.0, 2.5, 4.0, 24.0]
    assert [cost.kind for cost in costs] == ["single", "single", "static", "learned"]
    assert "| SofT-GRPO multi | " in costs_markdown(costs, 5) and " | 24 |" in costs_markdown(costs, 5)


def test_the_chosen_method_has_a_point_where_its_cost_is_known(case: Small) -> None:
    """A static row costs the lists and the merge, SFT what SofT-GRPO does; the time of gates and rankers is not measured."""
    table, times = case.comparison.table, ({"Left": 1.0, "Right": 2.5}, 0.5, 20.0)
    labels = table.set_index("method")["label"]
    for best, expected in (("uniform_rrf", 4.0), ("sft_multi", 24.0), ("static", 4.0)):
        costs = costs_of(table, 5, *times, best)
        assert {cost.label: cost.milliseconds for cost in costs}[labels[best]] == expected
        assert len(costs) == (4 if best == "static" else 5)
        said = without_cost(table, costs, best)
        assert said.startswith("No point for 2 rows learned without the language model: what they add")
    costs = costs_of(table, 5, *times, "ranker")
    said = without_cost(table, costs, "ranker")
    assert len(costs) == 4
    assert said.startswith("No point for Item ranker (chosen on validation windows) and 1 row")
    assert said in costs_html(costs, 5, said) and costs_markdown(costs, 5, said).endswith(said)
    assert without_cost(table[table["kind"].isin(["single", "static"])], costs) == ""


def test_costs_are_drawn_in_their_order_and_labels_apart() -> None:
    costs = [
        Cost("<A>", "single", 0.1, 1.0),
        Cost("B", "single", 0.1, 1.1),
        Cost("D", "single", 0.1, 1.2),
        Cost("C", "learned", 0.2, 100.0),
    ]
    page = costs_html(costs, 10)
    html, phone = re.findall("<svg.*?</svg>", page)
    assert "&lt;A&gt;: 1 ms" in html and "<A>" not in page
    assert re.findall(r">(\d\. [^ ]+) [\d.]+ ms<", phone) == ["1. C:", "2. &lt;A&gt;:", "3. B:", "4. D:"]
    assert re.findall(r'middle">(\d)</text>', phone.partition("<circle")[2]) == ["1", "2", "3", "4"]
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)]
    assert len(places) == 4 and places[0][0] > places[1][0] and places[0][1] < places[1][1]  # C first: the highest
    labels = sorted(float(y) for y in re.findall(r'y="([\d.]+)">(?:&lt;A|B|C|D)', html))
    assert all(lower - upper >= 15 for upper, lower in pairwise(labels))


def comparison_page(case: Small, differences: dict[str, dict[str, str]]) -> ComparisonPage:
    table = pd.concat([case.comparison.table.assign(run=run, method=f"{run}/" + case.comparison.table["method"],
                                                    label=f"{run}: " + case.comparison.table["label"])
                       for run in ("one", "two")], ignore_index=True)  # fmt: skip
    return ComparisonPage(
        "<two> runs",
        {"one": "first", "two": "second"},
        differences,
        ("A <verdict>.",),
        table,
        5,
        {"vs_single": "the best single recaller", "vs_static": "SofT-GRPO of the first run"},
        "A note.",
        {"MLflow": "http://127.0.0.1:5000/compare"},
    )


def test_the_first_line_names_what_differs(case: Small) -> None:
    page = comparison_page(case, {"seed": {"one": "1", "two": "2"}, "fusion.method": {"one": "rrf", "two": "<score>"}})
    assert page.first_line == "These 2 runs differ in seed and fusion.method."
    html = render_comparison(page)
    texts = [re.sub("<[^>]*>", "", line) for line in html.split("<header>")[1].splitlines() if line.strip()]
    assert texts[:2] == ["&lt;two&gt; runs", page.first_line]
    assert "&lt;score&gt;" in html and "A &lt;verdict&gt;." in html
    assert html.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!#|http://127)', html)
    assert comparison_page(case, {}).first_line == "These 2 runs differ in no setting that changes a number."


def test_p_stands_with_its_difference_and_only_where_there_is_one(case: Small) -> None:
    page = comparison_page(case, {})
    nothing = [float("nan")] * (len(page.table) - 3)
    page.table["vs_static_p"] = [0.25, 0.00001, 0.0076, *nothing]
    page.table["vs_static_p_bound"] = [False, True, True, *[False] * len(nothing)]
    page.table["vs_single_p"] = float("nan")
    table = render_comparison(page).split('<table class="main">')[1].split("</table>")[0]
    assert re.findall(r"<small>(p .*?)</small>", table) == ["p = 0.2500", "p &lt; 0.0001", "p ≤ 0.0076"]
    headings = re.findall(r"<th scope=.col.[^>]*>(.*?)</th>", table)
    assert headings[2:4] == ["difference to the best single recaller", "difference to SofT-GRPO of the first run"]
    assert "p" not in headings


def test_of_many_rows_the_figure_shows_those_that_matter(case: Small) -> None:
    table = comparison_page(case, {}).table
    assert len(table) > FEW_ROWS
    best = case.comparison.best_single
    wanted = [f"{run}/{key}" for run in ("one", "two") for key in (best, "static", "sft_multi", "grpo_multi")]
    assert sorted(rows_of_figure(table)["method"]) == sorted(wanted)
    assert len(rows_of_figure(table.head(FEW_ROWS))) == FEW_ROWS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "these tests need chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


OVERFLOW = "document.scrollingElement.scrollWidth - window.innerWidth"
FRAMES = """[...document.querySelectorAll('.frame')].filter(frame => frame.checkVisibility()).map(frame => {
  const inner = frame.querySelector('.wide'), hint = frame.querySelector('.hint');
  return [inner.scrollWidth > inner.clientWidth, hint.clientHeight, hint.nextElementSibling === inner]; })"""
"""Of each figure that is shown: whether it scrolls sideways, how high the line is that says so, and whether that comes first."""
TINTS = """[...document.querySelectorAll('tr.learned td, tr.gate td, tr.ranker td')].map(cell => {
  const colour = getComputedStyle(cell).backgroundColor.match(/[\\d.]+/g); return colour.length < 4 ? 1 : Number(colour[3]); })"""
"""How opaque the colours of rows are."""
CONTRAST = """() => {
  const channel = value => { value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const ratio = colour => { const own = light(colour); return (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05); };
  const texts = [...document.querySelectorAll('p, td, tbody th, figcaption, dt, dd, a, svg text')].filter(
    element => element.checkVisibility() && element.textContent.trim());
  return Math.min(...texts.filter(element => !element.textContent.match(/^\\d+%?$/)).map(
    element => ratio(element.tagName === 'text' ? getComputedStyle(element).fill : getComputedStyle(element).color)));
}"""


def opened(browser: Browser, path: Path, width: int, scheme: str) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(path.as_uri())
    return page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_pages_fit_their_screens_and_can_be_read(
    case: Small, written: Path, tmp_path: Path, browser: Browser, name: str
) -> None:
    path = written / "report.html"
    if name == "comparison":
        path = tmp_path / "comparison.html"
        path.write_text(render_comparison(comparison_page(case, {"seed": {"one": "1", "two": "2"}})))
    for width in (390, 1280, 1920):
        for scheme in ("light", "dark"):
            page = opened(browser, path, width, scheme)
            assert page.evaluate(OVERFLOW) <= 0, (width, scheme)
            assert page.evaluate(CONTRAST) >= 4.5, (width, scheme)
            table = page.locator("table.main")
            holder = page.locator(".wide:has(> table.main)")
            assert table.evaluate("table => table.scrollWidth") <= holder.evaluate("holder => holder.clientWidth") + 1
            shown = [cell.inner_text() for cell in table.locator("thead th").all() if cell.is_visible()]
            words = {"report": "Δ ", "comparison": "difference to "}[name]
            assert shown[0] == "method" and any(text.startswith(words) for text in shown)
            assert ("p" in shown) == (name == "report")
            if width == 390 and name == "report":
                assert shown == ["method", "NDCG@5", "Δ best static", "p"]
                share = r"\([+-]\d+\.\d%\)"  # the relative difference to the best static mixture
                assert re.search(share, table.locator("tr.learned").last.inner_text())
            for scrolls, hint, above in page.evaluate(FRAMES):
                assert scrolls == (hint > 0) and above, (width, scheme)
                assert not scrolls or width > 390, "a figure that hides a part on a phone"
            assert all(0 < tint < 1 for tint in page.evaluate(TINTS)), "shadows show through coloured rows"
            page.close()
