"""Several seeds in one table: averaged for each user first, each against its own references."""

from __future__ import annotations

import numpy as np
import pytest

from softgrpo.config import EvaluationConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.across_runs import EvaluatedRun, average_seeds
from softgrpo.evaluation.formatting import render_terminal
from tests.softgrpo.evaluation.test_across_runs import make_run

SETTINGS = EvaluationConfig(bootstrap=400)


@pytest.fixture
def seeds() -> list[EvaluatedRun]:
    """Two seeds; users 10 (two windows), 11 and 12. The best single recaller is BPR in one and Pop in the other."""
    one = {"BPR": [0.2, 0.2, 0.4, 0.6], "Pop": [0.1] * 4, "static": [0.3] * 4, "grpo_multi": [0.4, 0.4, 0.5, 0.6]}
    two = {"Pop": [0.4, 0.0, 0.3, 0.1], "BPR": [0.0] * 4, "static": [0.5] * 4, "grpo_multi": [0.6, 0.6, 0.5, 0.1]}
    return [make_run("seed 1", one), make_run("seed 2", two)]


def test_means_differences_and_spread_by_hand(seeds: list[EvaluatedRun]) -> None:
    table = average_seeds(seeds, "ndcg@10", SETTINGS, seed=0).set_index("method")
    # grpo_multi by user: 10: (0.4 + 0.6) / 2, 11: (0.5 + 0.5) / 2, 12: (0.6 + 0.1) / 2
    assert table.loc["grpo_multi", "ndcg@10"] == pytest.approx((0.5 + 0.5 + 0.35) / 3)
    # best single: BPR of seed 1 (0.2, 0.4, 0.6), Pop of seed 2 (0.2, 0.3, 0.1)
    assert table.loc["best_single", "ndcg@10"] == pytest.approx((0.2 + 0.35 + 0.35) / 3)
    assert table.loc["grpo_multi", "vs_single"] == pytest.approx((0.5 + 0.5 + 0.35 - 0.2 - 0.35 - 0.35) / 3)
    assert table.loc["grpo_multi", "vs_static"] == pytest.approx((0.5 + 0.5 + 0.35) / 3 - 0.4)
    # means of the seeds: (0.4 + 0.5 + 0.6) / 3 = 0.5 and (0.6 + 0.5 + 0.1) / 3 = 0.4
    assert table.loc["grpo_multi", "ndcg@10_spread"] == pytest.approx(np.std([0.5, 0.4], ddof=1))
    assert list(table.index) == ["best_single", "BPR", "Pop", "static", "grpo_multi"]
    assert np.isnan(table.loc["best_single", "vs_single"]) and np.isnan(table.loc["static", "vs_static"])


def test_equal_runs_have_no_spread_and_the_numbers_of_each(seeds: list[EvaluatedRun]) -> None:
    table = average_seeds([seeds[0], seeds[0], seeds[0]], "ndcg@10", SETTINGS, seed=0).set_index("method")
    assert table["ndcg@10_spread"].to_numpy() == pytest.approx(0.0)
    assert table.loc["grpo_multi", "ndcg@10"] == pytest.approx(0.5)
    assert table.loc["BPR", "vs_single"] == 0.0


def test_other_users_are_refused(seeds: list[EvaluatedRun]) -> None:
    windows = seeds[1].windows.assign(user=seeds[1].windows["user"].replace(12, 13))
    with pytest.raises(DataError, match="averaged for each user"):
        average_seeds([seeds[0], EvaluatedRun("other", seeds[1].table, windows)], "ndcg@10", SETTINGS, seed=0)


def test_runs_without_the_metric_or_the_mixture_are_refused(seeds: list[EvaluatedRun]) -> None:
    with pytest.raises(DataError, match="without ndcg@20"):
        average_seeds(seeds, "ndcg@20", SETTINGS, seed=0)
    bare = make_run("bare", {"BPR": [0.1] * 4, "grpo_multi": [0.2] * 4})
    with pytest.raises(DataError, match="'bare' without ndcg@10 or without the row static"):
        average_seeds([seeds[0], bare], "ndcg@10", SETTINGS, seed=0)


def test_the_spread_is_shown(seeds: list[EvaluatedRun]) -> None:
    table = average_seeds(seeds, "ndcg@10", SETTINGS, seed=0)
    for name in ("ndcg@20", "recall@10", "recall@20"):
        table[name] = 0.5
    rich = render_terminal(table, 10, "the best single recaller of each seed")
    headings = [str(column.header) for column in rich.columns]
    assert "± seeds" in headings
    place = headings.index("± seeds")
    assert list(rich.columns[place].cells)[-1] == "0.0707"
