from __future__ import annotations

import dataclasses
import html
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from softgrpo.common.records import Part
from softgrpo.data.windows import later_training_share, tied_target_share
from softgrpo.evaluation.beyond import beyond_accuracy, mean_popularity
from softgrpo.evaluation.cases import data_facts, extreme_cases
from softgrpo.evaluation.coverage import coverage_of
from softgrpo.evaluation.drivers import drivers_of
from softgrpo.evaluation.formatting import LeastP, render_terminal, verdict
from softgrpo.evaluation.lift import Lift, lift_at
from softgrpo.evaluation.plot_style import GRID, INK, SOFT
from softgrpo.evaluation.report import write_report
from softgrpo.evaluation.report_content import Choice, MergeRow, Report
from softgrpo.evaluation.window_metrics import WindowMetrics
from softgrpo.policy.shift import InputShift
from tests.softgrpo.evaluation.setup_small import HISTORY, ITEMS, KEYS, NAMES, USERS, Small

FIGURES = [
    *("comparison", "lift", "gains", "history", "popularity", "coverage", "weights", "drivers"),
    *("recallers", "sft", "confusion", "training"),
]


def make_report(case: Small) -> Report:
    cases = extreme_cases(
        case.comparison, case.judged, case.corpus, case.windows, "grpo_multi", case.comparison.best_single, count=2
    )
    curve = pd.DataFrame({"step": [0, 1, 2], "value": [0.1, 0.2, 0.3]})
    facts = data_facts(case.corpus, case.windows, 0.0, later_training_share(case.corpus, case.windows))
    history = np.full(USERS, HISTORY)
    confusion = pd.DataFrame([[9.0, 3.0], [2.0, 11.0]], index=["Left", "Right"], columns=["Left", "Right"])
    return Report(
        config=case.config,
        comparison=case.comparison,
        merge="score, minmax",
        merges=(
            MergeRow("score, minmax", "grid", (0.3, 0.7), 0.25, 0.125, chosen=True),
            MergeRow("quota", "Left", (1.0, 0.0), 0.24, 0.375, chosen=False),
        ),
        static=case.static,
        gates=(Choice("Trees | of a kind", "a <choice>", 0.123),),
        facts=facts,
        focus="grpo_multi",
        learnt="A sentence on what was learnt.",
        head={"language model": "a <model>"},
        history=history,
        curves={"reward": curve},
        sft_curves={"loss": curve},
        recaller_curves={name: {"recall_loss": curve, "recall_valid_ndcg": curve} for name in ("Left", "Right")},
        confusion=confusion,
        cases=cases,
        coverage=coverage_of(case.config.recall.recallers, case.items, case.targets),
        lift=lift_at(
            case.comparison,
            case.judged,
            np.arange(USERS),
            {"grpo_multi": "SofT", "Left": "L", "static": "S"},
            case.config.evaluation,
            case.config.seed,
        ),
        beyond=beyond_accuracy(
            case.judged, case.comparison.methods, case.config.recall.recallers, np.arange(ITEMS), case.config.fusion.k
        ),
        popularity=mean_popularity(case.targets, np.arange(ITEMS)),
        shifts=(InputShift("A: match | <b>", 0.126, -2.7), InputShift("history length", 0.0, 0.3)),
        drivers=drivers_of(
            case.config.recall.recallers, case.comparison.method("grpo_multi").weights.numpy(), case.numbers, NAMES
        ),
    )


@pytest.fixture(scope="module")
def written(case: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(make_report(case), folder)
    return folder


def test_winners_and_losers(case: Small) -> None:
    winners = [item for item in make_report(case).cases if item.gain > 0]
    assert len(winners) == 2
    first = winners[0]
    assert first.gain >= winners[1].gain
    assert first.history == HISTORY
    assert len(first.targets) == 2
    assert any(shown.hit for shown in first.merged)
    assert {shown.title for shown in first.merged if shown.hit} <= set(first.targets)


def test_items_without_a_title_show_their_token(case: Small) -> None:
    from softgrpo.evaluation.cases import _title

    assert _title(case.corpus, 0) == "item 0"


def test_html_is_self_contained_and_escaped(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert not re.search(r'(src|href|action)="(?!#)', page), "the page asks for something outside it"
    assert "<script" not in page and "url(http" not in page and "@import" not in page
    assert page.count("<svg") == 2 * len(FIGURES), "each in a form for desks and one for phones"
    assert "<b>" not in page
    assert "&lt;small&gt;" in page
    assert "a &lt;choice&gt;" in page and "a &lt;model&gt;" in page
    assert ">nan<" not in page and "nan%" not in page


def test_the_contents_lead_to_every_section(written: Path) -> None:
    page = (written / "report.html").read_text()
    links = re.findall(r'href="#([a-z]+)">', page.split("<main>")[0])
    assert links == ["table", "beyond", *FIGURES, "costs", "measured", "cases", "glossary"]
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids)), "figures share ids"
    for reference in re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', page):
        assert "".join(reference) in ids


def test_contents_and_sections_agree(case: Small, written: Path, tmp_path: Path) -> None:
    """Every section is in the contents, in the order of the page, also where a report has fewer of them."""
    report = make_report(case)
    write_report(dataclasses.replace(report, beyond=None, popularity=None, cases=(), sft_curves={}), tmp_path)
    for folder in (written, tmp_path):
        head, body = (folder / "report.html").read_text().split("<main>")
        assert re.findall(r'href="#(.*?)"', head) == re.findall(r'<section id="(.*?)"', body)


def test_halves_of_a_row_come_in_pairs(written: Path) -> None:
    kinds = re.findall(r'<section id="([a-z]+)"( class="half")?>', (written / "report.html").read_text())
    places = [place for place, (_, half) in enumerate(kinds) if half]
    pairs = {(kinds[place][0], kinds[place + 1][0]) for place in places[::2]}
    assert {("history", "popularity"), ("sft", "confusion")} <= pairs
    assert "gains" not in {kinds[place][0] for place in places}


RAW = "The merge 'score, none' multiplies weights with raw scores"


def test_raw_scores_explain_the_rows_of_one_recaller(case: Small, written: Path, tmp_path: Path) -> None:
    """Said below the table and below the confusion matrix, and only of the merge whose weights cannot be compared."""
    write_report(dataclasses.replace(make_report(case), merge="score, none"), tmp_path)
    text = html.unescape((tmp_path / "report.html").read_text())
    table, confusion = (
        text.split(f'<section id="{name}"')[1].split("</section>")[0] for name in ("table", "confusion")
    )
    assert f"SFT single and SofT-GRPO single show the recaller with the largest weight alone. {RAW}" in table
    assert RAW in confusion and text.count(RAW) == 2
    assert (tmp_path / "report.md").read_text().count(RAW) == 2
    assert all("raw scores" not in (written / name).read_text() for name in ("report.html", "report.md"))


def test_blank_places_are_explained(case: Small, written: Path, tmp_path: Path) -> None:
    note = "Places from recallers are blank for Item ranker: such a row orders the items"
    assert all((written / name).read_text().count(note) == 1 for name in ("report.html", "report.md"))
    weighing = tuple(method for method in case.comparison.methods if method.weighs)
    comparison = dataclasses.replace(case.comparison, methods=weighing)
    write_report(dataclasses.replace(make_report(case), comparison=comparison), tmp_path)
    assert "are blank for" not in (tmp_path / "report.html").read_text()


def test_every_row_is_explained(case: Small, written: Path) -> None:
    glossary = (written / "report.html").read_text().split('<section id="glossary">')[1]
    terms = re.findall(r"<dt>(.*?)</dt><dd>(.{20,}?)</dd>", glossary)
    assert [html.unescape(term) for term, _ in terms][: len(KEYS)] == list(case.comparison.table["label"])
    assert "chosen on validation" in (written / "report.html").read_text()


def test_figures_follow_the_theme_and_their_text_stays_text(written: Path) -> None:
    page = (written / "report.html").read_text()
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert all("<text" in figure and "var(--ink)" in figure for figure in figures)
    assert not any(colour in figure for figure in figures for colour in (INK, SOFT, GRID)), (
        "a colour for light pages only"
    )
    assert ">Oracle weights</text>" in figures[0]
    assert "var(" not in (written / "figures" / "comparison.svg").read_text(), "the file by itself knows no theme"


def test_signs_of_nothing_are_left_out(written: Path) -> None:
    for name in ("report.html", "report.md"):
        assert not re.search(r"[-+]0\.0+\b(?!\d)", (written / name).read_text())


def test_markdown_table_is_rectangular_and_escaped(written: Path) -> None:
    text = (written / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 6
    shifts = next(table for table in tables if table.startswith("| input |"))
    assert shifts.splitlines()[2:] == [
        "| A: match \\| &lt;b> | +0.13 | -2.70 |",
        "| history length | 0.00 | +0.30 |",
    ]
    merges = next(table for table in tables if table.startswith("| merge |"))
    assert merges.splitlines()[2:] == [
        "| score, minmax (chosen on validation) | grid: 0.30 0.70 | 0.2500 | 0.1250 |",
        "| quota | Left: 1.00 0.00 | 0.2400 | 0.3750 |",
    ]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert tables[0].count("\n") == 2 + len(KEYS)
    assert "<b>" not in text
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (written / link).stat().st_size > 1000


def test_the_same_run_writes_the_same_bytes(case: Small, written: Path, tmp_path: Path) -> None:
    write_report(make_report(case), tmp_path)
    assert {path.suffix for path in (written / "figures").iterdir()} == {".png", ".svg"}
    for path in written.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes(), path.name


def test_a_run_that_learnt_nothing_has_sentences_for_figures(case: Small, tmp_path: Path) -> None:
    """The focus gives everybody the weights of the reference, which are the weights of the best recaller; nothing was trained."""
    report, best = make_report(case), case.comparison.best_single
    windows = case.comparison.windows
    same = windows[windows["method"] == best].reset_index(drop=True)
    replaced = [same.assign(method=key) if key in ("grpo_multi", "static") else frame
                for key, frame in windows.groupby("method", sort=False)]  # fmt: skip
    equal = torch.eye(2, dtype=torch.float64)[case.config.recall.recallers.index(best)].expand(USERS, 2)
    methods = tuple(
        dataclasses.replace(method, weights=equal) if method.kind in ("gate", "learned") else method
        for method in case.comparison.methods
    )
    lift = Lift(pd.DataFrame({name: [0.1, 0.2] for name in ("SofT", "L", "S")}, index=pd.Index([1, 2], name="k")))
    nothing_found = dataclasses.replace(report.coverage, found=0, hits=(0, 0), unique=(0, 0), shared=((0, 0), (0, 0)))
    measured = WindowMetrics.of(pd.concat(replaced, ignore_index=True))
    comparison = dataclasses.replace(case.comparison, measured=measured, methods=methods)
    bare = dataclasses.replace(
        report,
        comparison=comparison,
        gates=(),
        curves={},
        sft_curves={"loss": report.sft_curves["loss"].head(1)},
        recaller_curves={},
        confusion=report.confusion * 0,
        cases=(),
        coverage=nothing_found,
        lift=lift,
        drivers=drivers_of(case.config.recall.recallers, equal.numpy(), case.numbers, NAMES),
    )
    assert bare.drivers is None
    write_report(bare, tmp_path)
    assert [path.name for path in sorted((tmp_path / "figures").glob("*.png"))] == ["comparison.png"]
    text = (tmp_path / "report.md").read_text()
    page = html.unescape((tmp_path / "report.html").read_text())
    for sentence in (
        "SofT, L and S have the same NDCG@k at every k",
        "gives every user the NDCG@5 of both references: no user gains, none loses.",
        "No recaller finds a target: all 60 are in no list.",
        "SofT-GRPO multi gives every user the same weights",
        "The weights of SofT-GRPO multi do not differ between users by more than 0.001: nothing drives them.",
        "SFT was not evaluated on a validation window",
        "No step was taken: this training was left out",
    ):
        assert sentence in page and sentence in text.replace("\\_", "_"), sentence
    assert "Rows learned without the language model" not in text and "Users who won" not in text


SMALL = LeastP(0.0076, 10_000)


def test_verdicts_are_honest() -> None:
    row = {"label": "X", "vs_single": 0.01, "vs_single_relative": 0.1, "vs_single_low": -0.01, "vs_single_high": 0.03}
    assert "X cannot be told apart from B: +0.0100 NDCG@5 (+10.0%)" in verdict(
        row | {"vs_single_p": 0.2}, "vs_single", "B", 5, SMALL
    )
    assert "X is better than B" in verdict(row | {"vs_single_p": 0.01}, "vs_single", "B", 5, SMALL)
    assert "X is worse than B" in verdict(row | {"vs_single": -0.01, "vs_single_p": 0.01}, "vs_single", "B", 5, SMALL)
    assert verdict(row | {"vs_single_p": 0.2}, "vs_single", "B", 5, LeastP(0.06, 100)).startswith(
        "Too few bootstrap draws"
    )
    bound = verdict(row | {"vs_single_p": 0.0076, "vs_single_p_bound": True}, "vs_single", "B", 5, SMALL)
    assert bound.endswith("corrected p ≤ 0.0076 (the least that 10,000 draws can show).")
    assert "not tested" in verdict(row | {"vs_single_p": math.nan}, "vs_single", "B", 5, SMALL)


def test_terminal_table(case: Small) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_terminal(case.comparison.table, 5))
    text = console.export_text()
    assert "SofT-GRPO multi" in text
    assert "NDCG@5 against" in text
    assert f"{case.comparison.table['ndcg@5'][0]:.4f}" in text
    assert f"{case.comparison.table['ndcg@10'][0]:.4f}" in text


@pytest.mark.parametrize(
    ("k", "ndcgs"),
    [
        (5, ["NDCG@5", "NDCG@10", "NDCG@20"]),
        (10, ["NDCG@10", "NDCG@20"]),
        (20, ["NDCG@10", "NDCG@20"]),
        (50, ["NDCG@10", "NDCG@20", "NDCG@50"]),
    ],
)
def test_the_terminal_table_always_shows_the_cut_off_of_the_differences(case: Small, k: int, ndcgs: list[str]) -> None:
    table = case.comparison.table.copy()
    for cutoff in (5, 10, 20, 50):
        table[f"ndcg@{cutoff}"] = cutoff / 100
    rich = render_terminal(table, k)
    headings = [str(column.header) for column in rich.columns]
    assert headings[1 : 1 + len(ndcgs)] == ndcgs
    assert not any(heading.startswith("NDCG") for heading in headings[1 + len(ndcgs) :])
    assert f"NDCG@{k} against" in str(rich.title)
    assert list(rich.columns[headings.index(f"NDCG@{k}")].cells) == [f"{k / 100:.4f}"] * len(table)


def test_tied_targets(case: Small) -> None:
    assert tied_target_share(case.corpus, case.windows, Part.TEST) == 0
    time = case.corpus.time.copy()
    time[HISTORY] = time[HISTORY - 1]  # the first target of user 0 is tied with the item before it
    time[HISTORY + 2] = time[HISTORY + 1]  # across users: no tie
    tied = dataclasses.replace(case.corpus, time=time)
    assert tied_target_share(tied, case.windows, Part.TEST) == 1 / (2 * USERS)
    timeless = dataclasses.replace(case.corpus, time=np.full_like(time, np.nan))
    assert math.isnan(tied_target_share(timeless, case.windows, Part.TEST))
    facts = data_facts(timeless, case.windows, math.nan, later_training_share(timeless, case.windows))
    assert facts["test targets with a tied time"] == "no usable times"
    later = "training interactions later than a test window's first target"
    assert later not in facts
    # times count through the users: user n trains on four items at 10 n to 10 n + 3, so all later users are later, on average half
    share = sum(USERS - 1 - user for user in range(USERS)) / USERS**2
    assert make_report(case).facts[later] == f"{share:.1%}, mean over test windows"


def test_no_control_character_reaches_a_report(case: Small, tmp_path: Path) -> None:
    evil = "T\x1b[2J\0\u202e\u2066<b>|"
    report = make_report(case)
    spoilt = dataclasses.replace(
        report.cases[0],
        user=evil,
        latest=(evil,),
        targets=(evil,),
        merged=(dataclasses.replace(report.cases[0].merged[0], title=evil),),
    )
    config = report.config.model_copy(update={"data": report.config.data.model_copy(update={"dataset": evil})})
    facts = {evil: evil}
    gates = (Choice(evil, evil, 0.1),)
    write_report(
        dataclasses.replace(report, cases=(spoilt,), config=config, facts=facts, gates=gates, curves={}), tmp_path
    )
    for name, escaped in (
        ("report.md", r"T\\x1b\[2J\\x00\\u202e\\u2066&lt;b>\|"),
        ("report.html", r"T\x1b[2J\x00\u202e\u2066&lt;b&gt;|"),
    ):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert not set(text) & set("\x1b\0\u202e\u2066")
        assert text.count(escaped) >= 7
