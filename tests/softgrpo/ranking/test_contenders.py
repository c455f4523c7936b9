from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softgrpo.config import FusionConfig
from softgrpo.ranking.aligned import Aligned, target_positions
from softgrpo.ranking.fusion import align, contenders, merged_lists, target_ranks
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.metrics import ndcg
from tests.support.fusion_cases import pad, weights_for, windows

METHODS = st.sampled_from(
    [("score", "minmax"), ("score", "zscore"), ("score", "none"), ("rrf", "minmax"), ("quota", "minmax")]
)


def fusion_of(method: str, normalisation: str, k: int) -> FusionConfig:
    return FusionConfig.model_validate({"method": method, "normalisation": normalisation, "k": k})


@given(windows(), METHODS, st.integers(1, 6), st.data())
def test_the_first_k_stay_under_all_weights(lists, method: tuple[str, str], k: int, data: st.DataObject) -> None:
    items, scores = lists
    fusion = fusion_of(*method, k)
    aligned = align(*pad(items, scores), fusion)
    kept = contenders(aligned, fusion)
    assert kept.items.shape[1] <= aligned.items.shape[1]
    weights = torch.from_numpy(data.draw(weights_for(len(items), len(items[0]))))
    assert torch.equal(merged_lists(kept, weights, fusion, k), merged_lists(aligned, weights, fusion, k))
    targets = torch.tensor([[0, 3, 9, -1]] * len(items))
    ranks = [target_ranks(a, target_positions(a, targets), weights, fusion, k) for a in (kept, aligned)]
    assert torch.equal(ranks[0], ranks[1])


def test_by_hand() -> None:
    # Values 1/1, 1/2, 1/3. Cut-off 1: in the first list only 1 and 4 are not beaten. 2 is behind 1. 4 is third there and first in
    # the second list; 5 is beaten by 4 in the only list that holds it.
    fusion = FusionConfig(method="score", normalisation="rank_reciprocal", k=1)
    aligned = align(*pad([[[1, 2, 4], [4, 5]]], [[[3.0, 2.0, 1.0], [2.0, 1.0]]]), fusion)
    kept = contenders(aligned, fusion)
    assert kept.items.tolist() == [[1, 4]]
    assert kept.ranks.tolist() == [[[0, 2], [3, 0]]]  # 3, the depth, is "missing"
    assert kept.values[0].tolist() == [[1.0, pytest.approx(1 / 3)], [0.0, 1.0]]
    assert kept.lists.tolist() == [[[0, 1, 2, 2], [1, 2, 2, 2]]]


def test_a_negative_value_beats_nothing_that_is_missing() -> None:
    # In the first list 2 and 3 have z-scores below 0, less than the 0 of an item that is missing there. So they have better ranks
    # than 7 in each list that holds 7, and yet weights (1, 0.1) put 7 before both: 1.41, -0.59 + 0.12, -0.82 + 0, 0 - 0.12.
    fusion = FusionConfig(method="score", normalisation="zscore", k=2)
    aligned = align(*pad([[[1, 2, 3], [2, 3, 7]]], [[[10.0, 1.0, 0.0], [3.0, 2.0, 1.0]]]), fusion)
    kept = contenders(aligned, fusion)
    assert kept.items.tolist() == [[1, 2, 3, 7]]
    assert merged_lists(kept, torch.tensor([[[1.0, 0.1]]]), fusion, 2).tolist() == [[[1, 7]]]


def pairwise(aligned: Aligned, k: int) -> list[list[int]]:
    """Returns the items of each window that fewer than k others beat, by comparing all pairs."""
    beats = torch.ones(len(aligned), aligned.items.shape[1], aligned.items.shape[1], dtype=torch.bool)
    for m in range(aligned.num_recallers):
        ranks, values = aligned.ranks[:, m], aligned.values[:, m]
        beats &= (ranks[:, None, :] <= ranks[:, :, None]) & (values[:, None, :] >= values[:, :, None])
    beats &= (aligned.items >= 0)[:, None, :]
    kept = (beats.count_nonzero(-1) - 1 < k) & (aligned.items >= 0)
    return [row[keep].tolist() for row, keep in zip(aligned.items, kept, strict=True)]


def items_of(aligned: Aligned) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in aligned.items]


@settings(deadline=None)
@given(windows(), METHODS.filter(lambda method: method[0] != "quota"), st.integers(1, 6))
def test_the_same_items_stay_as_by_comparing_all_pairs(lists, method: tuple[str, str], k: int) -> None:
    items, scores = lists
    fusion = fusion_of(*method, k)
    aligned = align(*pad(items, scores), fusion)
    assert items_of(contenders(aligned, fusion)) == pairwise(aligned, k)


@pytest.mark.parametrize("normalisation", ["none", "zscore", "percentile"])
def test_the_same_items_stay_of_unions_of_many_words(normalisation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    lists = [torch.randn(5, 400, generator=generator).topk(90) for _ in range(4)]
    scores, items = (torch.stack([each[part] for each in lists], 1) for part in (0, 1))
    items[0, 1, 30:] = -1  # a shorter list
    fusion = fusion_of("score", normalisation, 7)
    aligned = align(items, scores, fusion)
    assert aligned.items.shape[1] > 3 * 64
    assert items_of(contenders(aligned, fusion)) == pairwise(aligned, 7)


def test_lists_that_rise_keep_their_items() -> None:
    # 3 is last in the only list and yet worth most: that a rank is better says nothing here.
    fusion = FusionConfig(method="score", normalisation="none", k=1)
    items, scores = torch.tensor([[[1, 2, 3]], [[1, 2, 3]]]), torch.tensor([[[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]])
    assert items_of(contenders(align(items, scores, fusion), fusion)) == [[1, 2, 3], [1]]


def test_quota_reads_the_first_k_of_each_list() -> None:
    fusion = FusionConfig(method="quota", k=2)
    aligned = align(*pad([[[1, 2, 3], [3, 4, 5]]], [[[3.0, 2.0, 1.0]] * 2]), fusion)
    kept = contenders(aligned, fusion)
    assert kept.items.tolist() == [[1, 2, 3, 4]]
    assert kept.lists.tolist() == [[[0, 1, 4], [2, 3, 4]]]


def test_lists_that_end_before_k_and_no_window_at_all() -> None:
    for method in ("score", "quota", "rrf"):
        fusion = fusion_of(method, "minmax", 10)
        aligned = align(*pad([[[1], []], [[], [2, 3]]], [[[1.0], []], [[], [2.0, 1.0]]]), fusion)
        assert contenders(aligned, fusion).items.tolist() == [[1, -1], [2, 3]]
        assert len(contenders(aligned.select(slice(0, 0)), fusion)) == 0


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, items = torch.randn(7, 3, 40, generator=generator).topk(20)
    fusion = FusionConfig(method="score", k=5)
    aligned = align(items, scores, fusion)
    whole = contenders(aligned, fusion)
    monkeypatch.setattr("softgrpo.ranking.aligned._ENTRIES", 1)
    in_pieces = align(items, scores, fusion)
    for expected, found in ((aligned, in_pieces), (whole, contenders(in_pieces, fusion))):
        for one, other in zip(vars(expected).values(), vars(found).values(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["score", "quota", "rrf"])
def test_rewards_are_those_of_the_whole_lists(method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    scores, items = torch.randn(9, 3, 60, generator=generator).topk(40)
    targets = torch.randint(0, 60, (9, 4), generator=generator)
    fusion = fusion_of(method, "minmax", 10)
    judged = JudgedLists.build(items, scores, targets, fusion)
    weights = torch.rand(9, 5, 3, generator=generator)
    ranks = target_ranks(judged.aligned, judged.positions, weights, fusion, 10)
    assert torch.equal(judged.ndcg(weights), ndcg(ranks, judged.num_targets[:, None], 10))
    assert judged.contending.aligned.items.shape[1] < judged.aligned.items.shape[1]
