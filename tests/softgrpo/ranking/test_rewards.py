from __future__ import annotations

import itertools
import math

import pytest
import torch

from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.errors import DataError, TrainingError
from softgrpo.ranking.fusion import align, target_ranks
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.metrics import ndcg
from softgrpo.ranking.rewards import LogProbabilityReward, RankingReward, training_reward
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
    monkeypatch.setattr("softgrpo.ranking.judged._CELLS", 300)
    assert torch.equal(judged.ndcg(grid), whole)
    reward = RankingReward(judged.aligned, targets, fusion)
    assert torch.equal(reward(grid.expand(11, -1, -1), {"index": torch.arange(11)}), whole.float())
    picked = judged.select(torch.tensor([4, 4]))
    for row, g in itertools.product(range(2), range(6)):
        assert picked.ndcg(grid)[row, g] == whole[4, g]
    with pytest.raises(TrainingError, match=r"11.*\[TRAINING-018\]"):
        judged.ndcg(grid.expand(3, -1, -1))


@pytest.mark.parametrize("method", ["score", "quota", "rrf"])
def test_items_that_were_left_out_once_are_not_looked_at_again(method, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    scores, items = torch.randn(40, 3, 60, generator=generator).topk(25)
    targets = torch.randint(0, 60, (40, 2), generator=generator)
    judged = JudgedLists.build(items, scores, targets, FusionConfig(method=method, k=5))
    weights = torch.softmax(torch.randn(40, 6, 3, generator=generator), -1)
    everybody = {"index": torch.arange(40)}
    expected = {k: training_reward(judged, "ndcg", k)(weights, everybody) for k in (3, None)}
    thin = judged.contending
    assert thin.aligned.items.shape[1] < judged.aligned.items.shape[1]
    monkeypatch.setattr("softgrpo.ranking.judged.contenders", None)  # it copies all windows
    for k, whole in expected.items():
        assert torch.equal(training_reward(thin, "ndcg", k)(weights, everybody), whole)
    for kind, k in (("ndcg", 6), ("log_probability", None)) if method != "quota" else (("ndcg", 6),):
        with pytest.raises(TrainingError, match=r"first 5 places.*\[TRAINING-029\]"):
            training_reward(thin, kind, k)


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


# ---------------------------------------------------------------- denser rewards in training


def standardised_log_softmax(*scores: float) -> list[float]:
    """Plain Python: scores with mean 0 and standard deviation 1, then the log softmax."""
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)) or 1.0
    z = [(score - mean) / deviation for score in scores]
    total = math.log(sum(map(math.exp, z)))
    return [each - total for each in z]


def test_log_probabilities_by_hand() -> None:
    reward = LogProbabilityReward(align(*pad(ITEMS, SCORES), FUSION), TARGETS, FUSION)
    weights = torch.tensor([[[0.6, 0.4], [1.0, 0.0], [0.0, 1.0]]] * 3)
    # window 0, items 1 to 4, values 1 and 1/2 in each list; target 3 is listed, target 8 is not and does not count
    mixed = standardised_log_softmax(0.6, 0.3, 0.4, 0.2)[2]
    first = standardised_log_softmax(1.0, 0.5, 0.5, 0.5)[2]  # 3 and 4 are left out and get the score of the last item
    second = standardised_log_softmax(0.5, 0.5, 1.0, 0.5)[2]
    # window 1, items 5, 6, 7, target 5
    lone = [standardised_log_softmax(*scores)[0] for scores in ((0.6, 0.4, 0.2), (1.0, 1.0, 1.0), (0.5, 1.0, 0.5))]
    # window 2, item 9 alone: it is certain whatever the weights, even where the merged list is empty
    expected = torch.tensor([[mixed, first, second], lone, [0.0, 0.0, 0.0]])
    assert torch.allclose(reward(weights, {"index": torch.arange(3)}), expected, atol=1e-6)
    assert second > mixed > first


@pytest.mark.parametrize("normalisation", ["none", "minmax", "zscore"])
def test_log_probabilities_do_not_depend_on_the_size_of_scores(normalisation) -> None:
    generator = torch.Generator().manual_seed(5)
    scores, items = torch.randn(7, 3, 30, generator=generator).topk(8)
    targets = items[:, :2, 3]
    fusion = FusionConfig(method="score", normalisation=normalisation)
    weights, index = torch.softmax(torch.randn(7, 5, 3, generator=generator), -1), {"index": torch.arange(7)}
    small, large = (
        LogProbabilityReward(align(items, factor * scores, fusion), targets, fusion)(weights, index)
        for factor in (1, 8)
    )
    assert torch.allclose(small, large, atol=1e-4) and (small < 0).all()


def test_windows_without_a_listed_target_earn_nothing_and_do_not_respond() -> None:
    targets = torch.tensor([[8, -1], [5, -1], [9, -1]])
    reward = LogProbabilityReward(align(*pad(ITEMS, SCORES), FUSION), targets, FUSION)
    assert reward.responsive(seed=0).tolist() == [False, True, True]
    assert reward(torch.tensor([[[0.6, 0.4], [0.1, 0.9]]]), {"index": torch.tensor([0])}).tolist() == [[0.0, 0.0]]


def test_a_deeper_cut_off_tells_more_weights_apart() -> None:
    """Target 2 is second in the first list: with k = 1 no weights reach it, with k = 3 the first recaller's do better."""
    judged = JudgedLists.build(
        torch.tensor([[[1, 2], [3, 4]]]),
        torch.tensor([[[2.0, 1.0], [2.0, 1.0]]]),
        torch.tensor([[2]]),
        FusionConfig(method="score", normalisation="rank_reciprocal", k=1),
    )
    weights = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    plain, deep = (training_reward(judged, "ndcg", k) for k in (None, 3))
    assert plain.responsive(0).tolist() == [False] and deep.responsive(0).tolist() == [True]
    assert plain(weights, {"index": torch.tensor([0])}).tolist() == [[0.0, 0.0]]
    # (0.9, 0.1): 1 (.9), 2 (.45), 3 (.1): second place; (0.1, 0.9): 3 (.9), 4 (.45), 1 (.1), 2 (.05): fourth, beyond 3
    assert deep(weights, {"index": torch.tensor([0])}).tolist() == [[pytest.approx(1 / math.log2(3)), 0.0]]
    assert isinstance(training_reward(judged, "log_probability", None), LogProbabilityReward)
    assert judged.fusion.k == 1, "what is reported keeps its cut-off"


def test_a_merge_without_scores_has_no_log_probability() -> None:
    fusion = FusionConfig(method="quota")
    with pytest.raises(TrainingError, match=r"log_probability with the merge quota.*\[TRAINING-022\]"):
        LogProbabilityReward(align(*pad(ITEMS, SCORES), fusion), TARGETS, fusion)
