"""What a reader cannot see is shown as an escape, wherever text from elsewhere comes out; what is long is cut."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softgrpo.common.text import (
    LONGEST_LINE,
    LONGEST_WORD,
    MOST_LINES,
    one_line,
    shortened,
    visible,
    visible_json,
)
from softgrpo.errors import ConfigError
from softgrpo.evaluation.summary import Summary
from softgrpo.flows.command.common import print_json
from softgrpo.flows.results.prefect_page import escape, run_page
from softgrpo.flows.runtime.console import Short, Visible
from softgrpo.flows.runtime.failures import readable
from softgrpo.tasks.tracking.descriptions import plain

EVIL = "a\x1b[2J\0\u202eb\u2066c\x07\x9b31m\u200fd\ufeff"
"""Clears a terminal, ends a C string, turns the direction of letters, rings, and hides a mark."""
SHOWN = "a\\x1b[2J\\x00\\u202eb\\u2066c\\x07\\x9b31m\\u200fd\\ufeff"


def no_control(text: str, kept: str = "\n") -> bool:
    """Tells whether nothing of `EVIL` is in a text as it was."""
    return not (set(EVIL) - set("abcd[2J31m")) & (set(text) - set(kept))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("Amélie 愛 Любовь \U0001f600", "Amélie 愛 Любовь \U0001f600"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),  # one emoji
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),  # Persian
        ("thin\u2009and wide\u3000space\u00a0", "thin\u2009and wide\u3000space\u00a0"),
        ("line\nfeed\ttab\r", "line\\nfeed\\ttab\\r"),
        ("separators\u2028\u2029\x85", "separators\\u2028\\u2029\\x85"),
        ("half a pair \ud800, a tag \U000e0041", "half a pair \\ud800, a tag \\U000e0041"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text())
def test_json_means_the_same(text: str) -> None:
    written = visible_json(json.dumps({"title": text}, ensure_ascii=False, indent=1))
    assert json.loads(written) == {"title": text}
    assert visible(written, kept="\n") == written


def test_long_lines_and_long_texts_are_cut() -> None:
    assert shortened("short\nlines") == "short\nlines"
    cut = shortened("b" + "x" * 200_000 + "e")
    assert cut.startswith("bx") and cut.endswith("xe") and len(cut) < LONGEST_WORD + 40
    assert "[... 199,502 characters ...]" in cut  # 200,002 less 500
    assert shortened(f"a value {'x' * 9000} is wrong").endswith("xxx is wrong")
    line = shortened("two words " * 900)
    assert line.startswith("two words") and line.endswith("two words ") and len(line) < LONGEST_LINE + 40
    many = shortened("\n".join(["line"] * (MOST_LINES + 7)))
    assert many.count("\n") == MOST_LINES and many.endswith("... and 7 more lines")
    assert one_line("a\n  b\x1b ") == "a b\\x1b"


def test_errors_show_no_control_character_and_no_value_of_any_size() -> None:
    error = ConfigError(
        f"dataset '{EVIL}\nsecond line'", f"rule:\n  - {EVIL}", f"remedy {'x' * 200_000}", code="CONFIG-000"
    )
    shown = str(error)
    assert no_control(shown) and "\n  - a\\x1b" in shown and "second line" in shown.split("\n")[0]
    assert len(shown) < 2000
    assert error.received == f"dataset '{EVIL}\nsecond line'"  # whole, for who wants it
    assert no_control(readable(ValueError(EVIL * 10_000))) and len(readable(ValueError(EVIL * 10_000))) < 2000


def test_pages_show_no_control_character() -> None:
    assert no_control(escape(EVIL)) and no_control(plain(EVIL))
    summary = Summary(10, "grpo_multi", "BPR", "static", (f"Better than {EVIL}.",), "")
    page = run_page(None, summary, None, {"report": "`report.html`"}, [f"recall-{EVIL}"], ())
    assert no_control(page.replace("\n", "")) and "Better than" in page


@pytest.mark.parametrize("formatter", [Short("%(message)s"), Visible("%(message)s")])
def test_the_console_shows_no_control_character(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "title %s\nnext", (EVIL,), None)
    assert formatter.format(record) == f"title {SHOWN}\nnext"


def test_json_on_a_terminal_shows_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"title": EVIL})
    shown = capsys.readouterr().out
    assert no_control(shown) and json.loads(shown) == {"title": EVIL}
