"""Tables on terminals of all widths, and as plain lines off them: no number is cut, and foreign text is text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from rich.table import Column, Table

from softgrpo.flows.command.output import foreign, print_comparison, print_table, wrapped
from softgrpo.flows.command.runs import as_table, dispensable

LABELS = ("BPR (best single)", "Best static mixture (cross-entropy method)", "SofT-GRPO multi")
METRICS = {"ndcg@5": 0.1111, "ndcg@10": 0.2222, "ndcg@20": 0.3333, "recall@10": 0.4444, "recall@20": 0.5555}
DIFFERENCES = {"vs_single": 0.01, "vs_single_relative": 0.045, "vs_single_low": -0.0123, "vs_single_high": 0.0345}
INTERVAL = "[-0.0123, +0.0345]"
NUMBER = re.compile(r"[+-]?\d+\.\d*%?")
WHOLE = {"0.2222", "0.3333", "0.4444", "0.5555", "+0.0100", "+4.5%", "-0.0123", "+0.0345", "0.0321"}
STYLE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def comparison() -> pd.DataFrame:
    rows = [
        {"method": label, "label": label, "kind": "learned", **METRICS, **DIFFERENCES, "vs_single_p": 0.0321}
        for label in LABELS
    ]
    rows[0] |= dict.fromkeys([*DIFFERENCES, "vs_single_p"], float("nan"))
    return pd.DataFrame(rows)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes standard output a terminal of some width."""

    def make(width: int) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    return make


def test_off_a_terminal_each_row_is_one_line(comparison: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(comparison, 10)
    title, names, *rows = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert len(title) == 1 and title[0].startswith("Test windows")
    assert names == ["method", "NDCG@10", "NDCG@20", "Recall@10", "Recall@20", "Δ", "Δ %", "interval", "p (Holm)"]
    metrics = ["0.2222", "0.3333", "0.4444", "0.5555"]
    assert rows == [
        [LABELS[0], *metrics, "-", "-", "-", "-"],
        *([label, *metrics, "+0.0100", "+4.5%", INTERVAL, "0.0321"] for label in LABELS[1:]),
    ]


def test_a_table_of_several_runs_shows_the_reference_of_its_verdict(
    comparison: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    differences = {name.replace("single", "first"): value * 2 for name, value in DIFFERENCES.items()}
    print_comparison(comparison.assign(**differences, vs_first_p=0.5), 10, "SofT-GRPO of A", "--json", "vs_first")
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title.endswith("Δ in NDCG@10 against SofT-GRPO of A")
    assert all(row.split()[-5:] == ["+0.0200", "+9.0%", "[-0.0246,", "+0.0690]", "0.5000"] for row in rows)


@pytest.mark.parametrize(
    ("width", "missing"),
    [
        (200, None),
        (140, None),
        (120, "Recall@20, Recall@10"),
        (100, "Recall@20, Recall@10, NDCG@20, Δ"),
        (80, "Recall@20, Recall@10, NDCG@20, Δ, p (Holm)"),
        (60, "Recall@20, Recall@10, NDCG@20, Δ, p (Holm)"),
        (40, "Recall@20, Recall@10, NDCG@20, Δ, p (Holm)"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    width: int,
    missing: str | None,
    comparison: pd.DataFrame,
    terminal: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal(width)
    print_comparison(comparison, 10)
    shown = STYLE.sub("", capsys.readouterr().out)
    assert shown.count(INTERVAL) == shown.count("+4.5%") == 2 and shown.count("0.2222") == 3
    assert "…" not in shown and set(NUMBER.findall(shown)) <= WHOLE
    lines = [line for line in shown.splitlines() if "Too narrow" not in line]
    if width >= 60:
        assert max(map(len, lines)) <= width and "┏" in shown
    else:
        assert "┏" not in shown  # nothing fits: the terminal wraps plain lines
    assert (f"Too narrow for: {missing}; the report has all columns." in shown) == (missing is not None)
    assert ("Too narrow" in shown) == (missing is not None)


def test_long_titles_wrap_before_a_column_goes(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(60)
    table = Table("title", Column("from A", no_wrap=True))
    table.add_row("a title of many words " * 9, "0.1234")
    print_table(table, ["from A"], "the file")
    shown = STYLE.sub("", capsys.readouterr().out)
    assert "from A" in shown and "0.1234" in shown and shown.count("many") == 9


@pytest.mark.parametrize("width", [None, 80])
def test_foreign_text_is_no_markup_and_moves_no_cursor(
    width: int | None, terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if width is not None:
        terminal(width)
    table = Table(Column(foreign("from [b]"), no_wrap=True))
    for title in ("Avanti[health and Beauty]", "[/x]", "two\nlines", "\x1b[2J", "愛 :smile:"):
        table.add_row(foreign(title))
    print_table(table)
    shown = STYLE.sub("", capsys.readouterr().out)
    for text in ("from [b]", "Avanti[health and Beauty]", "[/x]", "two\\nlines", "\\x1b[2J", "愛 :smile:"):
        assert text in shown
    assert "\x1b[2J" not in shown


def test_a_sentence_breaks_between_words_and_not_inside_a_number() -> None:
    sentence = "A is better than B: +0.0123 NDCG@10 (+1.5%), interval [+0.0010, +0.0200], corrected p = 0.01."
    assert wrapped(sentence, 60) == (
        "A is better than B: +0.0123 NDCG@10 (+1.5%), interval\n  [+0.0010, +0.0200], corrected p = 0.01."
    )
    assert wrapped(sentence, 86).endswith("corrected\n  p = 0.01.")
    assert wrapped(sentence, 1000) == sentence
    assert wrapped("a" * 90, 80) == "a" * 90  # a path or an address stays one word


def listed(**changes: Any) -> Any:
    """A stored run as `list_pipelines` gives it."""
    run = {
        "run_id": "a" * 32,
        "started": "2026-01-02T03:04:05+00:00",
        "name": "a run",
        "status": "FINISHED",
        "dataset": "ml-100k",
        "size": "tiny",
        "recallers": ["BPR", "ItemKNN"],
        "merge": "rrf",
        "seed": 42,
        "debug": False,
        "changed": "",
        "k": 10,
        "ndcg": 0.25,
    }
    return run | changes


def test_the_list_of_runs_marks_debug_runs_and_keeps_what_differs() -> None:
    table = as_table(
        [listed(), listed(run_id="b" * 32, seed=7, debug=True, size="mini"), listed(run_id="c" * 32, ndcg=None)]
    )
    assert [str(cell) for cell in table.columns[-1].cells] == ["NDCG@10 0.2500", "NDCG@10 0.2500 (debug)", ""]
    # a narrow terminal first does without what is alike in all runs, last without what differs
    assert dispensable(table) == ["changed settings", "merge", "dataset", "recallers", "started", "seed", "size"]
