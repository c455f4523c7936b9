"""`softgrpo check-data`: what is understood of one's own data, for people and machines, and the command that it gives."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import softgrpo.flows.cli as cli
from softgrpo.data.corpus import read_corpus
from softgrpo.data.windows import make_windows
from softgrpo.presets import resolve
from tests.softgrpo.data.forms import FORMS, ROWS


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Returns what the command says to machines."""
    assert cli.main(["check-data", *words, "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


def test_what_is_understood_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = FORMS["ratings.csv"](tmp_path / "films")
    record = checked(capsys, str(place))
    assert record["files"] == {"interactions": str(place / "ratings.csv"), "items": str(place / "movies.csv")}
    assert {role: (column["name"], column["why"]) for role, column in record["columns"].items()} == {
        "user": ("userId", "a usual name"),
        "item": ("movieId", "a usual name"),
        "time": ("timestamp", "data.time_field"),
        "rating": ("rating", "data.rating_field"),
        "title": ("title", "a usual name"),
        "genres": ("genres", "a usual name"),
    }
    assert (record["users"], record["items"], record["rows"], record["repeated"]) == (12, 12, len(ROWS), 0)
    assert record["unit"] == "seconds" and record["titled"] == 1.0
    assert record["span"][0] == "2020-09-13 13:26"  # an hour after 1,600,000,000 seconds
    times = [(row[0], row[3]) for row in ROWS]
    assert record["tied"] == pytest.approx(sum(times.count(time) > 1 for time in times) / len(times))


def test_people_get_lines_and_the_command_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = FORMS["csv.gz"](tmp_path / "own")
    assert cli.main(["check-data", str(place)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "times      ISO 8601, from 2020-09-13 13:26 to 2020-09-14 00:30" in lines
    assert "column     time = date (a usual name)" in lines
    assert lines[-1].startswith(f"run        softgrpo run {place} full tiny")


def test_the_command_keeps_every_user_that_has_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Users of five items have no policy window in a split by shares with a 5-core filter; the suggestion serves them."""
    rows = [f"u{user},i{(user + item) % 40},{1_600_000_000 + item}" for user in range(40) for item in range(5)]
    (tmp_path / "short.csv").write_text("\n".join(["user,item,time", *rows, "lonely,new,1600000000"]) + "\n")
    record = checked(capsys, str(tmp_path / "short.csv"))
    assert record["suggested"] == {"split.method": "leave_last", "split.window": 1}
    assert record["kept"]["test"] == 40
    words = shlex.split(record["command"])
    assert words[:2] == ["softgrpo", "run"] and words[3:5] == ["full", "tiny"]
    flags = dict(zip(words[5::2], words[6::2], strict=True))
    config = resolve(
        words[2], "tiny", overrides={name.removeprefix("--"): value for name, value in flags.items()}, follow_data=False
    )
    corpus = read_corpus(config.data, config.seed)
    assert len(make_windows(corpus, config.split)) == 3 * 40


def test_settings_of_the_command_line_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{user},{item},{item}" for user in range(9) for item in range(9)]
    (tmp_path / "odd.csv").write_text("\n".join(["who,what,when", *rows]) + "\n")
    assert cli.main(["check-data", str(tmp_path / "odd.csv")]) == 2
    assert "'user_id'" in capsys.readouterr().err
    flags = ["--data.user_field", "who", "--data.item_field", "what", "--data.time_field", "when"]
    record = checked(capsys, str(tmp_path / "odd.csv"), *flags)
    assert record["columns"]["user"] == {"name": "who", "why": "data.user_field"}
    assert record["unit"] == "a unit of its own" and record["span"] == ["0", "8"]
    assert "--data.user_field who" in record["command"]


def test_data_that_keep_nobody_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.csv").write_text("user,item,time\nu,i,1\nu,j,2\n")
    assert cli.main(["check-data", str(tmp_path / "two.csv")]) == 2
    assert "[DATA-007]" in capsys.readouterr().err
