"""`softgrpo recommend` on a stored run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softgrpo.flows.cli import main
from softgrpo.flows.results.recommendation import recommend_from_run
from tests.flows.command.stored_run import run


def test_all_users_are_written_and_chosen_ones_are_shown(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["recommend", run_id, *where]) == 0
    shown = capsys.readouterr()
    written = output / "recommendations" / f"{run_id}.parquet"
    assert "6 users, 30 items" in shown.out and "users/s" in shown.out and str(written) in shown.out
    assert (
        shown.err
        == "note: the run stored no choice of validation windows among its methods: SofT-GRPO gives the weights\n"
    )
    table = pd.read_parquet(written)
    assert table["user"].nunique() == 6 and (table.groupby("user").size() == 5).all()
    assert np.allclose(table["from_A"] + table["from_B"], table["score"])
    assert (table["weights"] == "grpo_multi").all()

    assert (
        main(["recommend", run_id, "--users", "u3", "stranger", "--k", "2", "--to", str(tmp_path / "r.json"), *where])
        == 0
    )
    shown = capsys.readouterr()
    assert "u3" in shown.out and "from A" in shown.out
    assert "note: 1 of 2 users get the static mixture (not in the run's data" in shown.err and "stranger" in shown.err
    records = json.loads((tmp_path / "r.json").read_text())
    assert [record["source"] for record in records] == ["grpo_multi", "static"]
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

    monkeypatch.setattr("softgrpo.flows.results.recommendation.recommend_from_run", with_title)
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
    monkeypatch.setattr(
        "softgrpo.flows.results.recommendation.stored_weights", lambda folder, recallers, method: np.ones((6, 3)) / 3
    )
    assert main(["recommend", run_id, "--output", str(output)]) == 2
    assert "policy outputs of shape (6, 3)" in capsys.readouterr().err


# ---------------------------------------------------------------- the method


@pytest.fixture(scope="module")
def stored_chosen_run(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, str, str]:
    """Runs the stages of today: output folder, id of a whole run, and id of one that ended with the stage gates."""
    folder = tmp_path_factory.mktemp("chosen-run")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return folder, run(folder, gates=True), run(folder, 3, gates=True)


@pytest.fixture
def chosen_run(stored_chosen_run: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, str]:
    """The same, where no other test's MLflow is in the environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return stored_chosen_run


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[Any], str]:
    """Returns the records that the command prints, and what it says."""
    assert main(["recommend", *words, "--json"]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_the_best_method_is_the_default_and_any_other_is_asked_by_its_key(
    chosen_run: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lists of items in their order, see `stored_run`; the ranker takes the best rank, and of two the lower item."""
    output, whole, _ = chosen_run
    where = (whole, "--users", "u0", "--output", str(output))
    records = {
        method: told(capsys, *where, "--method", method)[0][0] for method in ("best", "gate_thirds", "B", "grpo_multi")
    }
    assert {method: record["source"] for method, record in records.items()} == {
        "best": "ranker",
        "gate_thirds": "gate_thirds",
        "B": "B",
        "grpo_multi": "grpo_multi",
    }
    assert records["gate_thirds"]["weights"] == {"A": 0.2, "B": 0.8}
    ranked = records["best"]
    assert ranked["weights"] is None and ranked["items"][0]["from"] is None and ranked["items"][0]["score"] == 0
    numbers = [int(item["item"].removeprefix("i")) for item in ranked["items"]]
    start = numbers[0]  # of A's list; B's begins 7 later
    assert numbers == [start, start + 7, start + 1, start + 8, start + 2]
    assert records["B"]["items"][0]["item"] == f"i{start + 7}"
    assert told(capsys, *where)[0] == [ranked]
    assert main(["recommend", *where]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("method: Item ranker, boosted trees (ranker, best of all on validation windows)\n")
    assert "nan" not in shown.out and shown.err == ""


def test_a_run_that_ended_with_gates_recommends_too(
    chosen_run: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Gates are asked now; who has no test window gets the static mixture, whatever the method."""
    output, _, gates = chosen_run
    where = (gates, "--users", "u0", "stranger", "--output", str(output))
    (user, stranger), said = told(capsys, *where, "--method", "gate_thirds")
    assert user["weights"] == pytest.approx({"A": 0.2, "B": 0.8}) and user["source"] == "gate_thirds"
    assert stranger["source"] == "static" and stranger["weights"] == {"A": 0.75, "B": 0.25} and "stranger" in said
    (user, stranger), _ = told(capsys, *where)
    assert user["source"] == "ranker" and stranger["source"] == "static" and stranger["items"][0]["from"]


@pytest.mark.parametrize(("kind", "known"), [(1, "B, gate_thirds, ranker, grpo_multi"), (2, "B, gate_thirds, ranker")])
def test_a_method_that_a_run_does_not_have_is_refused(
    kind: int, known: str, chosen_run: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(chosen_run[kind]), "--method", "boosting", "--output", str(chosen_run[0])]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"method 'boosting'. It must be best or a row of the run that can be used on new windows: {known}." in said
    assert not (chosen_run[0] / "recommendations").exists()


def test_a_run_of_an_earlier_version_gives_the_weights_that_it_stored(
    run_id: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, _ = told(capsys, run_id, "--users", "u0", "--method", "grpo_multi", "--output", str(output))
    assert records[0]["source"] == "grpo_multi"
    assert main(["recommend", run_id, "--method", "ranker", "--output", str(output)]) == 2
    assert "new windows: grpo_multi. Name one of them" in " ".join(capsys.readouterr().err.split())
