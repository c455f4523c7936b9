"""The comparison table of a run with bounds on the recallers' shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softgrpo.evaluation.beyond import beyond_accuracy
from softgrpo.evaluation.cases import extreme_cases
from softgrpo.evaluation.lift import lift_at
from softgrpo.evaluation.rows import UNBOUNDED
from tests.softgrpo.evaluation.setup_small import KEYS, USERS, Small, small

FREE = ("Left", "Right", UNBOUNDED, "ranker")
"""Rows that do not keep the bounds."""


@pytest.fixture(scope="module")
def held() -> Small:
    return small(max_share={"Left": 0.2}, min_share={"Right": 0.2})


def test_every_other_row_keeps_the_bounds(held: Small) -> None:
    assert set(held.comparison.table["method"]) == {*KEYS, UNBOUNDED}
    for method in held.comparison.methods:
        left = method.weights[:, 0] / method.weights.sum(1)
        assert method.keeps_bounds == (method.key not in FREE) or method.key == "ranker"
        assert bool((left <= 0.2 + 1e-6).all()) == (method.key not in {*FREE, "ranker"} - {"Right"}), method.key


def test_rows_without_bounds_are_those_of_a_run_without(held: Small, case: Small) -> None:
    metrics = [name for name in case.comparison.table if name.startswith(("ndcg", "recall", "hit", "mrr"))]
    bounded, free = (each.comparison.table.set_index("method")[metrics] for each in (held, case))
    for key, same in {"Left": "Left", "Right": "Right", "ranker": "ranker", UNBOUNDED: "global_grid"}.items():
        assert bounded.loc[key].to_dict() == free.loc[same].to_dict()
    assert bounded.loc["grpo_multi", "ndcg@5"] < free.loc["grpo_multi", "ndcg@5"]
    assert bounded.loc["oracle_weights", "ndcg@5"] < free.loc["oracle_weights", "ndcg@5"]


def test_a_row_beyond_the_bounds_is_judged_at_the_nearest_weights(held: Small, case: Small) -> None:
    """Policy weights of 0.9 and 0.1 are judged as 0.2 and 0.8, by a comparison that has no bounds."""
    inside = torch.tensor([[0.2, 0.8], [0.1, 0.9]], dtype=torch.float64).repeat(USERS // 2, 1)
    expected = case.judged.metrics(inside, (5,))["ndcg@5"].numpy()
    windows = held.comparison.windows
    assert np.array_equal(windows[windows["method"] == "grpo_multi"]["ndcg@5"], expected)


def test_lift_cases_and_exposure_take_single_recallers_as_they_are(held: Small, case: Small) -> None:
    best, count = held.comparison.best_single, np.arange(USERS)
    assert best == case.comparison.best_single
    lifts = [
        lift_at(each.comparison, each.judged, count, {"grpo_multi": "a", best: "b"}, each.config.evaluation, 1).ndcg
        for each in (held, case)
    ]
    assert lifts[0]["b"].equals(lifts[1]["b"]) and not lifts[0]["a"].equals(lifts[1]["a"])
    shown = extreme_cases(held.comparison, held.judged, held.corpus, held.windows, "grpo_multi", "Left")
    first = {f"{held.corpus.items['title'].iloc[row[0][0]] or row[0][0]}" for row in held.items}
    assert {each.reference[0].title.removeprefix("item ") for each in shown} <= first
    exposed = beyond_accuracy(held.judged, held.comparison.methods, ("Left", "Right"), np.ones(40, dtype=np.int64), 5)
    shares = exposed.set_index("method")["share_Left"]
    assert shares["Left"] == 1.0 and shares["grpo_multi"] < 0.5
