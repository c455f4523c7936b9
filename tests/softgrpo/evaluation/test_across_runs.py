"""Several runs in one table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import EvaluationConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.across_runs import EvaluatedRun, compare_runs
from softgrpo.evaluation.formatting import least_p

SETTINGS = EvaluationConfig(bootstrap=400)
USERS = (10, 10, 11, 12)  # user 10 has two windows


def make_run(name: str, scores: dict[str, list[float]]) -> EvaluatedRun:
    """A run from NDCG@10 per method and window; the first method is the best single recaller."""
    frames = [
        pd.DataFrame({"method": key, "window": range(4), "user": USERS, "ndcg@10": values})
        for key, values in scores.items()
    ]
    kinds = ["single"] + ["learned"] * (len(scores) - 1)
    table = pd.DataFrame({"method": list(scores), "label": list(scores), "kind": kinds})
    return EvaluatedRun(name, table.assign(vs_single=[np.nan] + [0.1] * (len(scores) - 1)), pd.concat(frames))


@pytest.fixture
def first() -> EvaluatedRun:
    return make_run("a", {"BPR": [0.1, 0.3, 0.4, 0.6], "grpo_multi": [0.2, 0.4, 0.5, 0.7]})


@pytest.fixture
def second() -> EvaluatedRun:
    return make_run("b", {"Pop": [0.0, 0.0, 0.0, 0.0], "grpo_multi": [0.5, 0.7, 0.5, 0.7]})


def test_differences_are_means_over_users_against_the_first_run(first: EvaluatedRun, second: EvaluatedRun) -> None:
    table = compare_runs([first, second], "grpo_multi", "ndcg@10", SETTINGS, seed=0).set_index("method")
    # users: 10 averages its two windows. a/BPR: (0.2 + 0.4 + 0.6) / 3 = 0.4
    assert table.loc["a/BPR", "ndcg@10"] == pytest.approx(0.4)
    # a/grpo_multi: (0.3 + 0.5 + 0.7) / 3 = 0.5; b/grpo_multi: (0.6 + 0.5 + 0.7) / 3 = 0.6
    assert table.loc["b/grpo_multi", "vs_single"] == pytest.approx(0.6 - 0.4)
    assert table.loc["b/grpo_multi", "vs_first"] == pytest.approx(0.6 - 0.5)
    assert table.loc["a/grpo_multi", "vs_single_low"] == pytest.approx(0.1)  # the same difference for every user
    assert np.isnan(table.loc["a/grpo_multi", "vs_first"])
    assert table.loc["b/Pop", "run"] == "b"
    assert table.loc["b/Pop", "label"] == "b: Pop"


def test_other_windows_are_refused(first: EvaluatedRun, second: EvaluatedRun) -> None:
    shorter = replace(second, windows=second.windows[second.windows["window"] < 3])
    with pytest.raises(DataError, match="run 'b' on 3 test windows and run 'a' on 4"):
        compare_runs([first, shorter], "grpo_multi", "ndcg@10", SETTINGS, seed=0)
    others = replace(second, windows=second.windows.assign(user=13))
    with pytest.raises(DataError, match="same windows of the same users"):
        compare_runs([first, others], "grpo_multi", "ndcg@10", SETTINGS, seed=0)


def test_a_missing_row_or_metric_is_named(first: EvaluatedRun, second: EvaluatedRun) -> None:
    with pytest.raises(DataError, match="without the row sft_multi"):
        compare_runs([first, second], "sft_multi", "ndcg@10", SETTINGS, seed=0)
    with pytest.raises(DataError, match="run 'a' without ndcg@7"):
        compare_runs([first, second], "grpo_multi", "ndcg@7", SETTINGS, seed=0)


def test_metrics_that_one_run_lacks_are_left_out(first: EvaluatedRun, second: EvaluatedRun) -> None:
    richer = replace(first, windows=first.windows.assign(mrr=0.5))
    table = compare_runs([richer, second], "grpo_multi", "ndcg@10", SETTINGS, seed=0)
    assert "mrr" not in table
    assert len(table) == 4


def test_p_values_are_those_of_the_rows_that_are_asked_about(first: EvaluatedRun, second: EvaluatedRun) -> None:
    table = compare_runs([first, second], "grpo_multi", "ndcg@10", SETTINGS, seed=0).set_index("method")
    tested = table[["vs_single_p", "vs_first_p"]].notna()
    assert tested.loc["a/grpo_multi"].tolist() == [True, False]  # itself the reference of the second
    assert tested.loc["b/grpo_multi"].tolist() == [True, True]
    assert not tested.drop(["a/grpo_multi", "b/grpo_multi"]).to_numpy().any()
    # every user gains 0.1 over a/BPR: no draw is at most 0, (0 + 1) / (400 + 1) twice, and three tests
    assert table.loc["a/grpo_multi", "vs_single_p"] == pytest.approx(3 * 2 / 401)
    assert least_p(table, SETTINGS.bootstrap).value == pytest.approx(3 * 2 / 401)
    assert table.loc["a/grpo_multi", "vs_single_p_bound"]
    assert not table.drop(["a/grpo_multi", "b/grpo_multi"])[["vs_single_p_bound", "vs_first_p_bound"]].to_numpy().any()
