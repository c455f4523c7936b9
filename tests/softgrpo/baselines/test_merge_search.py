"""The search for the merge: what wins, what is told of the others, and that test windows and names stay out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softgrpo.baselines.merge_search import search_merges
from softgrpo.common.artifacts import MERGES
from softgrpo.config import ExperimentConfig, FusionChoice, FusionConfig
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.searched import SearchedLists
from softgrpo.stages.merge_files import load_merges, save_merges
from tests.softgrpo.baselines.cases import small_config, small_prepared

RECIPROCAL = FusionConfig(method="score", normalisation="rank_reciprocal", k=1)
QUOTA = FusionConfig(method="quota", k=1)
NAMES = ("A", "B")


def judged(scores: list[float], target: int, fusion: FusionConfig) -> SearchedLists:
    """Returns ten windows with the lists 1, 2 and 3, 2 of A and B; A's scores are given, B's are 2 and 1."""
    items = torch.tensor([[[1, 2], [3, 2]]] * 10)
    targets = torch.full((10, 1), target)
    return SearchedLists.of(JudgedLists.build(items, torch.tensor([[scores, [2.0, 1.0]]] * 10), targets, fusion))


def test_the_merge_that_is_best_on_validation_windows_wins() -> None:
    # Item 2 is second in both lists. Reciprocal ranks at weights (0.5, 0.5) give it 1/2 as they give 1 and 3: the tie goes to the
    # better rank, so item 2 is never first. With raw scores 9 and 8 of A, it has 0.5 * 8 + 0.5 * 1 = 4.5, as item 1 has; at
    # (0.4, 0.6) it has 3.8 and item 1 has 3.6: only raw scores find it.
    raw = FusionConfig(method="score", normalisation="none", k=1)
    found = search_merges(
        [RECIPROCAL, raw, QUOTA],
        lambda fusion: judged([9.0, 8.0], 2, fusion),
        lambda fusion: judged([9.0, 8.0], 2, fusion),
        NAMES,
        10,
        seed=1,
    )
    assert found.chosen == raw and found.static.best.name == "grid"
    assert [each.best.valid_ndcg for each in found.tried] == [0.0, 1.0, 0.0]
    assert [each.fusion for each in found.tried] == [RECIPROCAL, raw, QUOTA]
    assert found.tried[1].best == found.static.best


def test_weights_are_searched_on_policy_windows_and_merges_chosen_on_validation_windows() -> None:
    raw = FusionConfig(method="score", normalisation="none", k=1)
    found = search_merges(
        [RECIPROCAL, raw],
        lambda fusion: judged([9.0, 8.0], 2, fusion),  # raw scores are better here
        lambda fusion: judged([9.0, 8.0], 1, fusion),  # A alone is right here, under any merge
        NAMES,
        10,
        seed=1,
    )
    assert found.chosen == RECIPROCAL  # the earlier of equally good ones
    assert found.static.best.name == "A" and found.static.best.valid_ndcg == 1.0


def test_all_searches_look_at_every_merge() -> None:
    asked = []

    def judge(fusion: FusionConfig) -> SearchedLists:
        asked.append(fusion)
        return judged([9.0, 8.0], 2, fusion)

    merges = [RECIPROCAL, FusionConfig(method="score", normalisation="none", k=1), QUOTA]
    found = search_merges(merges, judge, judge, NAMES, 10, 1, ["cem"])
    assert asked == [each for merge in merges for each in (merge, merge)]
    assert [each.name for each in found.static.candidates] == ["A", "B", "uniform", "grid", "cem"]
    assert found.chosen == merges[1]


def test_the_search_survives_files(tmp_path: Path) -> None:
    judge = lambda fusion: judged([9.0, 8.0], 2, fusion)  # noqa: E731
    found = search_merges([QUOTA, RECIPROCAL], judge, judge, NAMES, 10, 1)
    save_merges(tmp_path, found)
    assert load_merges(tmp_path) == found


def test_auto_tries_every_way_of_merging() -> None:
    names = [merge.name for merge in FusionChoice(k=7).merges]
    assert names == [
        *("rrf", "rrf, k 10", "rrf, k 2", "score, none", "score, minmax", "score, zscore", "score, softmax"),
        *("score, percentile", "score, rank_reciprocal", "score, rank_exp", "score, platt", "quota"),
    ]
    assert {merge.k for merge in FusionChoice(k=7).merges} == {7}
    assert [merge.key for merge in FusionChoice(k=7).merges][1:5] == [
        *("rrf_k_10", "rrf_k_2", "score_none", "score_minmax")
    ]
    own = [merge.name for merge in FusionChoice(rrf_k=30).merges if merge.method == "rrf"]
    assert own == ["rrf, k 30", "rrf", "rrf, k 10", "rrf, k 2"]  # what the user names is tried too


@pytest.mark.parametrize("method", ["rrf", "score", "quota"])
def test_a_named_method_is_the_only_one(method: str) -> None:
    choice = FusionChoice.model_validate({"method": method, "normalisation": "zscore", "rrf_k": 5, "k": 3})
    (merge,) = choice.merges
    assert merge.model_dump() == choice.model_dump()


def test_bounds_are_searched_within_and_their_cost_is_known() -> None:
    config = small_config(baselines=())
    bounds = {"method": "quota", "k": 5, "max_share": {"Left": 0.2}}
    held = ExperimentConfig.model_validate(config.model_dump() | {"fusion": bounds})
    search = small_prepared(held).merges
    assert search.chosen.bounds == ((0.0, 0.0), (0.2, 1.0))
    assert all(merge.best.weights[0] <= 0.2 + 1e-6 for merge in search.tried)
    named = config.model_dump() | {"fusion": {**search.chosen.unbounded.model_dump(), "k": 5}}
    free = small_prepared(ExperimentConfig.model_validate(named)).merges
    assert search.unbounded == free.static.best and free.unbounded is None
    assert search.unbounded.valid_ndcg >= search.static.best.valid_ndcg


def test_what_was_searched_is_stored_and_read_again(tmp_path: Path) -> None:
    for number, max_share in enumerate(({}, {"Left": 0.2})):
        fusion = {"method": "rrf", "k": 5, "max_share": max_share}
        search = small_prepared(
            ExperimentConfig.model_validate(small_config().model_dump() | {"fusion": fusion})
        ).merges
        folder = tmp_path / str(number)
        folder.mkdir()
        save_merges(folder, search)
        assert load_merges(folder) == search
        assert ("share" in (folder / MERGES).read_text(encoding="utf-8")) == bool(max_share)
