"""`compare` on stored runs: side by side, or averaged over their seeds; on tiny stages."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from softgrpo.errors import ConfigError
from softgrpo.flows.cli import main
from softgrpo.flows.results.comparison import _check_same_users, short_ids
from softgrpo.flows.results.differences import differing_settings
from tests.support.fake_groups import FakeGroups


def make(output: Path, **said: object) -> str:
    """Runs a whole pipeline; returns the id of its run."""
    from prefect import flow

    from softgrpo.flows.pipeline import execute
    from softgrpo.presets import resolve

    config = resolve(
        "ml-100k",
        "tiny",
        overrides={"evaluation.bootstrap": 400, **{name.replace("__", "."): value for name, value in said.items()}},
    )
    result = flow(lambda: execute(FakeGroups().plan(config), config, output=output), validate_parameters=False)()
    return result.run_id


def test_seeds_are_averaged_and_other_runs_refused(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(output, seed=seed) for seed in (1, 2, 3)]
    other = make(output, seed=4, grpo__top_p=0.5)
    where = ["--output", str(output)]
    assert main(["compare", *runs, "--seeds", *where]) == 0
    told = capsys.readouterr().out
    assert "± seeds" in told and "Best single recaller of each seed" in told
    assert "is better than the best static mixture of each seed" in told
    assert main(["compare", *runs, "--seeds", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"]: row["ndcg@10_spread"] for row in found["rows"]}["grpo_multi"] == pytest.approx(0)
    assert main(["compare", runs[0], other, "--seeds", *where]) == 2
    assert "that differ in grpo.top_p" in capsys.readouterr().err
    again = make(output, seed=1)
    assert main(["compare", runs[0], again, "--seeds", *where]) == 2
    assert "with the seeds 1, 1" in capsys.readouterr().err
    assert main(["compare", runs[0], other[:6], *where]) == 0  # side by side they may differ in anything
    told = capsys.readouterr().out
    assert f"\n{other[:6]}: grpo_multi has the same NDCG@10 as {runs[0][:6]} for every user." in told
    assert "against SofT-GRPO of the first run" in told  # as in the verdict
    assert f"{runs[0][:6]}  seed 1, bootstrap=400, ml-100k tiny\n" in told
    assert f"{other[:6]}  seed 4, top_p=0.5, bootstrap=400, ml-100k tiny\n" in told
    assert main(["compare", runs[0], other, "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run_id"] for run in found["runs"]] == [runs[0], other]
    assert {row["run"] for row in found["rows"]} == {run["label"] for run in found["runs"]}
    assert main(["compare", runs[0], runs[0][:6], *where]) == 2  # one run under two names
    assert "two or more different runs" in capsys.readouterr().err


def test_a_comparison_is_written_as_a_page(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(output, seed=1), make(output, seed=2, grpo__top_p=0.5)]
    words = ["compare", *runs, "--output", str(output), "--to", str(tmp_path / "page"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    labels = [run["label"] for run in found["runs"]]
    assert found["differences"] == {
        "seed": dict(zip(labels, ("1", "2"), strict=True)),
        "grpo.top_p": dict(zip(labels, ("1.0", "0.5"), strict=True)),
    }
    page = tmp_path / "page" / "comparison.html"
    assert found["html"] == str(page)
    assert "These 2 runs differ in seed and grpo.top_p." in page.read_text()
    assert len(pd.read_parquet(page.with_suffix(".parquet"))) == len(found["rows"])
    assert main(words) == 2  # nothing is written over unasked
    assert "Add --overwrite" in capsys.readouterr().err
    words.append("--overwrite")
    assert main(words) == 0
    page.rename(tmp_path / "elsewhere.html")
    assert main(words) == 2
    assert "an earlier comparison (comparison.html and comparison.parquet)" in capsys.readouterr().err


def test_settings_that_change_no_number_do_not_differ() -> None:
    one = {"seed": "1", "data.data_path": "/a", "limits.stage_hours": "1", "recall.settings.BPR.epochs": "3"}
    other = {"seed": "1", "data.data_path": "/b", "limits.stage_hours": "2"}
    differing = differing_settings({"one": one, "other": other})
    assert differing == {"recall.settings.BPR.epochs": {"one": "3", "other": "not set"}}


def test_short_ids_tell_runs_apart() -> None:
    assert short_ids(["0123456789", "abcdefabcd"]) == ["012345", "abcdef"]
    assert short_ids(["0123456789", "0123456a89"]) == ["01234567", "0123456a"]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ({"data.dataset": "ml-100k"}, {"data.dataset": "ml-1m"}, "data.dataset"),
        ({"seed": "1", "data.max_users": "30"}, {"seed": "2", "data.max_users": "30"}, "seed"),
        ({"data.max_users": "30"}, {"data.max_users": "null"}, "data.max_users"),
    ],
)
def test_runs_of_other_users_are_refused(first: dict[str, str], second: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=f"runs that differ in {name}.*the same users"):
        _check_same_users({"a": first, "b": second})


def test_the_seed_and_the_place_of_the_data_may_differ_where_all_users_are_tested() -> None:
    _check_same_users({"a": {"seed": "1", "data.data_path": "x"}, "b": {"seed": "2", "data.data_path": "y"}})


def test_stored_runs_of_users_drawn_by_other_seeds_are_refused(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (make(output, data__max_users=30, seed=seed) for seed in (1, 2))
    for words in ([], ["--seeds"]):
        assert main(["compare", first, second, *words, "--output", str(output)]) == 2
        assert "data.max_users draws other users with another seed" in capsys.readouterr().err
