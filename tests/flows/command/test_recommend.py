"""`softgrpo recommend` on a stored run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.cli import main
from flows.results.recommendation import recommend_from_run


def test_all_users_are_written_and_chosen_ones_are_shown(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["recommend", run_id, *where]) == 0
    shown = capsys.readouterr()
    written = output / "recommendations" / f"{run_id}.parquet"
    assert "6 users, 30 items" in shown.out and "users/s" in shown.out and str(written) in shown.out
    assert shown.err == ""
    table = pd.read_parquet(written)
    assert table["user"].nunique() == 6 and (table.groupby("user").size() == 5).all()
    assert np.allclose(table["from_A"] + table["from_B"], table["score"])
    assert (table["weights"] == "policy").all()

    assert (
        main(["recommend", run_id, "--users", "u3", "stranger", "--k", "2", "--to", str(tmp_path / "r.json"), *where])
        == 0
    )
    shown = capsys.readouterr()
    assert "u3" in shown.out and "from A" in shown.out
    assert "note: 1 of 2 users get the static mixture (not in the run's data" in shown.err and "stranger" in shown.err
    records = json.loads((tmp_path / "r.json").read_text())
    assert [record["source"] for record in records] == ["policy", "static"]
    assert [item["item"] for item in records[0]["items"]] == table[table["user"] == "u3"]["item"].tolist()[:2]


def test_lists_of_chosen_users_are_shown_and_leave_those_of_all_alone(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["recommend", run_id, *where]) == 0
    (written,) = (output / "recommendations").iterdir()
    before = written.read_bytes()
    capsys.readouterr()
    assert main(["recommend", run_id, "--users", "u1", "u2", *where]) == 0
    shown = capsys.readouterr().out
    assert "u1" in shown and shown.endswith("\n2 users, 10 items\n")
    assert [path.read_bytes() for path in (output / "recommendations").iterdir()] == [before]
    many = [f"stranger{number}" for number in range(11)]
    assert main(["recommend", run_id, "--users", *many, *where]) == 2
    assert "11 users. Lists of chosen users are shown, up to 10 of them" in capsys.readouterr().err
    assert main(["recommend", run_id, "--users", *many, "--to", str(tmp_path / "many.parquet"), *where]) == 0
    assert pd.read_parquet(tmp_path / "many.parquet")["user"].nunique() == 11
    assert [path.read_bytes() for path in (output / "recommendations").iterdir()] == [before]


@pytest.mark.parametrize("wrong", ["u1,u2", "u1,", ",u2"])
def test_users_with_commas_between_them_are_told_how(
    wrong: str, run_id: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", run_id, "--users", wrong, "u3", "--output", str(output)]) == 2
    known = " ".join(part for part in wrong.split(",") if part)
    assert f"Users are separated by spaces: --users {known}" in capsys.readouterr().err


def test_a_name_may_have_a_comma(run_id: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", run_id, "--users", "u1,stranger", "--output", str(output)]) == 0
    assert "u1,stranger" in capsys.readouterr().err  # gets the static mixture, like anybody who is not in the data


def test_titles_in_brackets_are_shown_as_they_are(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_title(*given: Any) -> Any:
        made = recommend_from_run(*given)
        made.recommended.items["title"] = ["Avanti[health and Beauty]", "[/x]", "a\nb", "d", "e"]
        return made

    monkeypatch.setattr("flows.results.recommendation.recommend_from_run", with_title)
    assert main(["recommend", run_id, "--users", "u1", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert all(title in shown for title in ("Avanti[health and Beauty]", "[/x]", "a\\nb"))


def test_json_goes_to_the_standard_output_and_nothing_is_written(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = tmp_path / "users.txt"
    users.write_bytes(b"\xef\xbb\xbfu1\n\n u2 \n")  # with the mark that some editors begin a file with
    assert main(["recommend", run_id, "--users-from", str(users), "--json", "--output", str(output)]) == 0
    assert [record["user"] for record in json.loads(capsys.readouterr().out)] == ["u1", "u2"]
    assert not (output / "recommendations").exists()


def test_candidates_of_another_pool_are_refused(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.results.recommendation.stored_weights", lambda folder, recallers: np.ones((6, 3)) / 3)
    assert main(["recommend", run_id, "--output", str(output)]) == 2
    assert "policy outputs of shape (6, 3)" in capsys.readouterr().err
