from __future__ import annotations

import itertools
import math

import pytest
import torch

from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.errors import DataError, TrainingError
from softgrpo.ranking.fusion import align, target_ranks
from softgrpo.ranking.metrics import ndcg
from softgrpo.ranking.rewards import JudgedLists, RankingReward
from tests.support.fusion_cases import pad

FUSION = FusionConfig(method="score", normalisation="rank_reciprocal", k=2)
ITEMS = [[[1, 2], [3, 4]], [[5], [6, 7]], [[], [9]]]
SCORES = [[[2.0, 1.0], [2.0, 1.0]], [[1.0], [2.0, 1.0]], [[], [1.0]]]
TARGETS = torch.tensor([[3, 8], [5, -1], [9, -1]])


@pytest.fixture
def reward() -> RankingReward:
    return RankingReward(align(*pad(ITEMS, SCORES), FUSION), TARGETS, FUSION)


def test_rewards_by_hand(reward: RankingReward) -> None:
    weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.4]]] * 2)
    ideal = 1 + 1 / math.log2(3)  # two targets, cut-off 2
    second = 1 / math.log2(3)
    # window 0, target 3: not in the first list; first of the second; merged 1 (.6), 3 (.4): second place. Target 8 is a miss.
    # window 1, target 5: first; not in the list; merged 5 (.6), 6 (.4): first.
    expected = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1 / ideal, second / ideal]])
    result = reward(weights, {"index": torch.tensor([1, 0])})
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected)


def test_a_window_can_come_twice_and_order_does_not_matter(reward: RankingReward) -> None:
    weights = torch.softmax(torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)), -1)
    whole = reward(weights, {"index": torch.tensor([0, 2, 0])})
    for row, window in enumerate([0, 2, 0]):
        assert torch.equal(reward(weights[row : row + 1], {"index": torch.tensor([window])})[0], whole[row])


def test_weights_with_a_gradient_and_in_bf16_are_accepted(reward: RankingReward) -> None:
    weights = torch.tensor([[[0.5, 0.5]]], dtype=torch.bfloat16, requires_grad=True)
    assert not reward(weights, {"index": torch.tensor([1])}).requires_grad


@pytest.mark.parametrize(
    ("weights", "index", "code"),
    [
        ([[[math.nan, 1.0]]], [0], "TRAINING-017"),
        ([[[0.0, 0.0]]], [0], "TRAINING-017"),
        ([[[-1.0, 2.0]]], [0], "TRAINING-017"),
        ([[[0.5, 0.5]]], [0, 1], "TRAINING-016"),
        ([[[0.2, 0.3, 0.5]]], [0], "TRAINING-016"),
        ([[0.5, 0.5]], [0], "TRAINING-016"),
        ([[[0.5, 0.5]]], [3], "TRAINING-020"),
        ([[[0.5, 0.5]]], [-1], "TRAINING-020"),
    ],
)
def test_failures_raise_instead_of_scoring_zero(reward: RankingReward, weights, index, code: str) -> None:
    with pytest.raises(TrainingError) as caught:
        reward(torch.tensor(weights), {"index": torch.tensor(index)})
    assert caught.value.code == code


def test_targets_must_fit_the_lists() -> None:
    aligned = align(*pad(ITEMS, SCORES), FUSION)
    with pytest.raises(TrainingError, match=r"\[TRAINING-019\]"):
        RankingReward(aligned, TARGETS[:2], FUSION)
    with pytest.raises(DataError, match=r"\[DATA-024\]"):
        RankingReward(aligned, torch.full((3, 2), -1), FUSION)


@pytest.mark.parametrize("method", ["score", "quota", "rrf"])
def test_chunks_change_nothing(method, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    scores, items = torch.randn(11, 3, 30, generator=generator).topk(8)
    targets = torch.randint(0, 30, (11, 2), generator=generator)
    fusion = FusionConfig(method=method)
    judged = JudgedLists.build(items, scores, targets, fusion)
    grid = torch.softmax(torch.randn(6, 3, generator=generator), -1)
    whole = judged.ndcg(grid)
    monkeypatch.setattr("softgrpo.ranking.rewards._CELLS", 300)
    assert torch.equal(judged.ndcg(grid), whole)
    reward = RankingReward(judged.aligned, targets, fusion)
    assert torch.equal(reward(grid.expand(11, -1, -1), {"index": torch.arange(11)}), whole.float())
    picked = judged.select(torch.tensor([4, 4]))
    for row, g in itertools.product(range(2), range(6)):
        assert picked.ndcg(grid)[row, g] == whole[4, g]
    with pytest.raises(TrainingError, match=r"11.*\[TRAINING-018\]"):
        judged.ndcg(grid.expand(3, -1, -1))


def test_a_window_responds_where_weights_can_earn_more_or_less() -> None:
    lists = torch.tensor([[1, 2], [3, 4]])  # k = 1: the first item of the heavier recaller leads
    targets = torch.tensor([[1], [3], [2], [9]])  # led by the first, by the second, by neither, in no list
    scores = torch.tensor([2.0, 1.0]).expand(4, 2, -1)
    fusion = FusionConfig(method="score", normalisation="rank_reciprocal", k=1)
    judged = JudgedLists.build(lists.expand(4, -1, -1), scores, targets, fusion)
    assert judged.responsive(seed=0).tolist() == [True, True, False, False]
    both = JudgedLists.build(torch.tensor([[[1], [1]]]), torch.ones(1, 2, 1), torch.tensor([[1]]), fusion)
    assert judged.ndcg(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0], [0.0], [0.0], [0.0]]
    assert both.responsive(seed=0).tolist() == [False]  # always hit, whatever the weights
    assert judged.reachable.tolist() == [True, True, False, False] and both.reachable.tolist() == [True]


@pytest.mark.parametrize("method", ["score", "rrf", "quota"])
def test_where_no_target_is_reachable_every_weight_earns_nothing(method: MergeMethod) -> None:
    generator = torch.Generator().manual_seed(3)
    items = torch.stack([torch.randperm(40, generator=generator)[:12] for _ in range(120)]).view(40, 3, 12)
    scores = torch.randn(40, 3, 12, generator=generator).sort(descending=True).values
    targets = torch.randint(0, 40, (40, 1), generator=generator)
    judged = JudgedLists.build(items, scores, targets, FusionConfig(method=method, k=2))
    weights = torch.cat([torch.eye(3), torch.softmax(4 * torch.randn(500, 3, generator=generator), -1)])
    # over the whole lists, nothing left out
    ranks = target_ranks(judged.aligned, judged.positions, weights.expand(40, -1, -1), judged.fusion, 2)
    found = ndcg(ranks, judged.num_targets[:, None], 2).amax(1) > 0
    assert not found[~judged.reachable].any() and 0 < judged.reachable.sum() < 40
    assert found.sum() >= 0.8 * judged.reachable.sum(), "hardly a window is called reachable that is not"
