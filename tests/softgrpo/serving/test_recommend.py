"""Recommendations against plain Python: lists, parts of the score, users without a test window, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.merging import merge_by_quota, plain_lists
from softgrpo.baselines.item_ranker import Ranking
from softgrpo.baselines.merge_search import MergeSearch, TriedMerge
from softgrpo.baselines.static_mixture import Candidate, StaticMixture
from softgrpo.common.records import CandidateLists, Part
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import write_windows
from softgrpo.errors import CandidateError, ConfigError, PolicyError
from softgrpo.presets import resolve
from softgrpo.ranking.fusion import align, contributions, merged_lists
from softgrpo.recallers.stored_lists import write_candidates
from softgrpo.serving.recommend import NO_TEST_WINDOW, NO_WINDOW, NOT_IN_DATA, recommend, stored_weights
from softgrpo.serving.recommended import Recommended, as_records, write_recommended
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.merge_files import save_merges, save_static
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.support.fusion_cases import merge_by_value

NAN = float("nan")
NAMES = ("A", "B")
STATIC = (0.75, 0.25)
LEARNED = np.array([[1.0, 0.0], [0.5, 0.5]])
"""Weights on the test windows of u0 and u1."""


@pytest.fixture
def config() -> ExperimentConfig:
    said = {"recall.recallers": ["A", "B"], "recall.files": {"A": "a", "B": "b"}, "fusion.method": "rrf"}
    return resolve("shop", "tiny", overrides=said)


@pytest.fixture
def prepared(tmp_path: Path, config: ExperimentConfig) -> Prepared:
    """u0 and u1 have a test window, u2 only a policy window, u3 none; lists of two recallers, three items deep."""
    corpus = corpus_of([[0, 1, 2], [1, 2, 3], [0, 3], [9, 8]])
    windows = windows_of(
        [(0, Part.POLICY, 1, 2), (0, Part.TEST, 2, 3), (1, Part.TEST, 2, 3), (2, Part.POLICY, 1, 2)], [1, 2, 1, 2]
    )
    items = [
        [[2, 3, 4], [4, 5, -1]],
        [[3, 4, 5], [6, 3, -1]],  # u0, test
        [[4, 5, 6], [5, 9, 4]],  # u1, test
        [[3, 7, 8], [8, 6, 5]],  # u2, policy; item 3, its target, is u2's by now and must not be recommended
    ]
    scores = [[[3.0, 2.0, 1.0] for _ in range(2)] for _ in items]
    lists = CandidateLists(NAMES, np.array(items, np.int32), np.array(scores, np.float32))
    lists.scores[lists.items < 0] = NAN
    for name in ("split", "data"):
        (tmp_path / name).mkdir()
    write_corpus(tmp_path / "split", corpus)
    write_windows(tmp_path / "split", windows)
    write_candidates(tmp_path / "data" / "candidates.parquet", lists)
    best = Candidate("grid", STATIC, 0.1, 0.2)
    save_static(tmp_path / "data", StaticMixture(best, best, (best,)))
    return Prepared(config, tmp_path / "split", tmp_path / "data")


def rrf(rank: int) -> float:
    """What one unit of weight gives to the item at a rank."""
    return 1 / (60 + rank)


def listed(recommended: Recommended, user: str) -> list[str]:
    rows = recommended.items[recommended.items["user"] == user]
    assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
    return [str(item) for item in rows["item"]]


def test_the_lists_of_the_test_window_with_the_policys_weights(prepared: Prepared) -> None:
    """u0 gets A's list alone; u1's items 5 (ranks 2 and 1), 4 (1 and 3), 9 (B's 2), 6 (A's 3) at equal weights."""
    found = recommend(prepared, LEARNED, ["u1", "u0"], 3)
    assert found.users["user"].tolist() == ["u1", "u0"]
    assert found.users["weights"].tolist() == ["grpo_multi", "grpo_multi"] and set(found.users["reason"]) == {""}
    assert found.users[["weight_A", "weight_B"]].values.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert listed(found, "u0") == ["i3", "i4", "i5"]
    assert listed(found, "u1") == ["i5", "i4", "i9"]
    first = found.items.iloc[0]
    assert (first["from_A"], first["from_B"]) == pytest.approx((0.5 * rrf(2), 0.5 * rrf(1)))
    assert first["score"] == pytest.approx(0.5 * (rrf(1) + rrf(2)))
    alone = found.items[found.items["user"] == "u0"]
    assert alone["from_B"].tolist() == [0, 0, 0]  # item 3 is in B's list too, whose weight is 0
    assert found.fallbacks == {}


def test_the_merge_is_the_one_that_the_run_chose(prepared: Prepared) -> None:
    """Raw scores, 3 to 1 in both lists: u1's item 5 has 2 of A and 3 of B, item 4 has 3 of A and 1 of B, item 9 has 2 of B."""
    raw, best = FusionConfig(method="score", normalisation="none"), Candidate("grid", STATIC, 0.1, 0.2)
    tried = (TriedMerge(FusionConfig(), best), TriedMerge(raw, best))
    save_merges(prepared.data, MergeSearch(tried, raw, StaticMixture(best, best, (best,))))
    found = recommend(prepared, LEARNED, ["u1"], 3)
    assert listed(found, "u1") == ["i5", "i4", "i9"]
    assert found.items["score"].tolist() == [2.5, 2.0, 1.0]


def test_who_has_no_test_window_gets_the_static_mixture_and_is_told_so(prepared: Prepared) -> None:
    found = recommend(prepared, LEARNED, ["u2", "u3", "nobody", "u0"], 3)
    assert found.users["weights"].tolist() == ["static", "static", "static", "grpo_multi"]
    assert found.fallbacks == {NO_TEST_WINDOW: ["u2"], NO_WINDOW: ["u3"], NOT_IN_DATA: ["nobody"]}
    assert found.users.loc[:2, ["weight_A", "weight_B"]].values.tolist() == [list(STATIC)] * 3
    # u2: 8 has 0.75/62 + 0.25/61, 7 has 0.75/61, 6 and 5 are B's
    assert 0.75 * rrf(2) + 0.25 * rrf(1) > 0.75 * rrf(1)
    assert listed(found, "u2") == ["i8", "i7", "i6"]
    # sums of 1 / rank over the two test windows: A 4: 1/2 + 1, 3: 1, 5: 1/3 + 1/2, 6: 1/3; B 5: 1, 6: 1, 3: 1/2, 9: 1/2, 4: 1/3
    # so A's common list is 4, 3, 5 and B's is 5, 6, 3: 3 has 0.75/62 + 0.25/63, 5 has 0.75/63 + 0.25/61, 4 has 0.75/61
    assert 0.75 * rrf(2) + 0.25 * rrf(3) > 0.75 * rrf(3) + 0.25 * rrf(1) > 0.75 * rrf(1)
    assert listed(found, "nobody") == ["i3", "i5", "i4"]
    assert listed(found, "u3") == ["i3", "i5", "i4"]  # has 9 and 8, which are in none of them


def test_a_ranker_orders_the_items_itself(prepared: Prepared, tmp_path: Path) -> None:
    """Of u0 and u1, who have a test window: its scores stand, and no recaller has a part. u2 gets the static mixture."""
    ranking = Ranking(np.array([[6, 3, -1], [9, 5, 4]]), np.array([[2.5, -1.0, NAN], [0.3, 0.2, 0.1]]))
    found = recommend(prepared, ranking, ["u1", "u2", "u0"], 2, "ranker")
    assert found.users["weights"].tolist() == ["ranker", "static", "ranker"]
    assert found.users["weight_A"].isna().tolist() == [True, False, True]
    assert [listed(found, user) for user in ("u1", "u2", "u0")] == [["i9", "i5"], ["i8", "i7"], ["i6", "i3"]]
    own = found.items[found.items["user"] != "u2"]
    assert own["score"].tolist() == [0.3, 0.2, 2.5, -1.0] and own[["from_A", "from_B"]].isna().all(axis=None)
    records = list(as_records(found))
    assert [record["weights"] for record in records] == [None, {"A": 0.75, "B": 0.25}, None]
    assert records[0]["items"][0]["from"] is None and records[1]["items"][0]["from"] is not None
    write_recommended(tmp_path / "r.json", found)
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == records


def test_nobody_is_recommended_what_is_already_theirs(prepared: Prepared) -> None:
    item = prepared.corpus.item.copy()
    item[prepared.corpus.offsets[3]] = (
        5  # u3, who has no window, now has item 5: A's common list becomes 4, 3 and B's 6, 3
    )
    prepared.__dict__["corpus"] = replace(prepared.corpus, item=item)
    assert listed(recommend(prepared, LEARNED, ["u3"], 3), "u3") == ["i3", "i4", "i6"]


def test_all_users_are_the_default_and_chunks_change_nothing(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recommend(prepared, LEARNED, None, 2)
    assert whole.users["user"].tolist() == ["u0", "u1", "u2", "u3"]
    monkeypatch.setattr("softgrpo.serving.recommend._CHUNK", 1)
    again = recommend(prepared, LEARNED, None, 2)
    pd.testing.assert_frame_equal(whole.items, again.items)
    assert (whole.items.groupby("user").size() == 2).all()


@pytest.mark.parametrize(
    ("learned", "users", "k", "kind", "message"),
    [
        (LEARNED, None, 4, ConfigError, "k = 4. A list is merged from lists of recall.depth = 3"),
        (LEARNED, None, 0, ConfigError, "k = 0"),
        (LEARNED, [], 3, ConfigError, "no user"),
        (LEARNED, ["u0", "u0"], 3, ConfigError, "2 users, 1 of them different"),
        (LEARNED[:1], None, 3, PolicyError, r"policy outputs of shape \(1, 2\)"),
    ],
)
def test_what_cannot_be_asked(
    prepared: Prepared, learned: Any, users: list[str] | None, k: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        recommend(prepared, learned, users, k)


def test_files_hold_the_same(prepared: Prepared, tmp_path: Path) -> None:
    found = recommend(prepared, LEARNED, ["u0", "u2"], 2)
    write_recommended(tmp_path / "deep" / "r.parquet", found)
    write_recommended(tmp_path / "r.json", found)
    table = pd.read_parquet(tmp_path / "deep" / "r.parquet")
    records = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert records == list(as_records(found))
    assert table["user"].tolist() == ["u0", "u0", "u2", "u2"]
    assert table["weights"].tolist() == ["grpo_multi", "grpo_multi", "static", "static"]
    assert [item["item"] for record in records for item in record["items"]] == table["item"].tolist()
    for record in records:
        assert sum(record["weights"].values()) == pytest.approx(1)
        for item in record["items"]:
            assert sum(item["from"].values()) == pytest.approx(item["score"])
    with pytest.raises(ConfigError, match=r"\.parquet or \.json"):
        write_recommended(tmp_path / "r.csv", found)


def test_outputs_of_another_pool_are_refused(tmp_path: Path) -> None:
    rows = [("static", 0.75, 0.25)] * 2 + [("grpo_multi", *row) for row in LEARNED]
    pd.DataFrame(rows, columns=["method", *NAMES]).to_parquet(tmp_path / "weights.parquet")
    assert stored_weights(tmp_path, NAMES).tolist() == LEARNED.tolist()
    with pytest.raises(PolicyError, match="stored no weights of it"):
        stored_weights(tmp_path, NAMES, "sft_multi")
    with pytest.raises(CandidateError, match="policy outputs over A, B"):
        stored_weights(tmp_path, ("B", "A"))


LISTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), min_size=2, max_size=3)


@settings(max_examples=150, deadline=None)
@given(LISTS, st.data(), st.sampled_from(["score", "rrf", "quota"]))
def test_parts_of_the_score_against_plain_python(
    rows: list[list[int]], data: st.DataObject, method: str
) -> None:  # fmt: skip
    """The parts sum to the value the list is ordered by; by quota, the turns are those of a simulation."""
    fusion = FusionConfig.model_validate({"method": method})
    pool, depth, k = len(rows), 5, 4
    whole = data.draw(st.lists(st.integers(0, 4), min_size=pool, max_size=pool).filter(any))
    weights = torch.tensor([whole], dtype=torch.float64)
    items = torch.full((1, pool, depth), -1)
    scores = torch.full((1, pool, depth), NAN)
    for index, row in enumerate(rows):
        items[0, index, : len(row)] = torch.tensor(row)
        scores[0, index, : len(row)] = torch.arange(len(row), 0, -1).float()
    aligned = align(items, scores, fusion)
    merged = merged_lists(aligned, weights[:, None], fusion, k)[:, 0]
    given_by = contributions(aligned, merged, weights, fusion)[0]
    found = [int(item) for item in merged[0] if item >= 0]
    assert (given_by[len(found) :] == 0).all()
    (lists,) = plain_lists(aligned)
    if method == "quota":
        assert found == merge_by_quota(lists, weights[0].tolist(), k)
        assert given_by[: len(found)].argmax(1).tolist() == turns(
            rows, [weight / sum(whole) for weight in whole], found
        )
        assert (given_by[: len(found)].sum(1) == 1).all()
        return
    plain = [[value for _, value in one] for one in lists]
    assert found == merge_by_value(rows, plain, weights[0].numpy())[:k]
    values = [dict(one) for one in lists]
    for place, item in enumerate(found):
        expected = [float(weights[0, m]) * values[m].get(item, 0.0) for m in range(pool)]
        assert given_by[place].tolist() == pytest.approx(expected, abs=1e-6)


def turns(rows: list[list[int]], weights: list[float], merged: list[int]) -> list[int]:
    """Returns the recaller whose turn it was at each step: the largest quota left among those whose next unused item it is."""
    taken, used, found = [0] * len(rows), set[int](), []
    for step, item in enumerate(merged, start=1):
        upcoming = [next((one for one in row if one not in used), None) for row in rows]
        due = [(weight * step - count, -m) for m, (weight, count) in enumerate(zip(weights, taken, strict=True))]
        able = [m for m, next_one in enumerate(upcoming) if next_one == item and weights[m] > 0]
        turn = max(able, key=lambda m: due[m])
        found.append(turn)
        taken[turn] += 1
        used.add(item)
    return found
