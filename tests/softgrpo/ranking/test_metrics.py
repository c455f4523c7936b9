from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softgrpo.errors import DataError
from softgrpo.ranking import metrics
from softgrpo.ranking.aligned import ABSENT

# Three targets: ranks 2 and 5, and one that is not in the list.
RANKS = torch.tensor([2, ABSENT, 5])
THREE = torch.tensor(3)


def log2(value: int) -> float:
    return math.log2(value)


def test_ndcg_by_hand() -> None:
    ideal = 1 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert metrics.ndcg(RANKS, THREE, 5).item() == pytest.approx((1 / log2(3) + 1 / log2(6)) / ideal, abs=1e-12)
    assert metrics.ndcg(RANKS, THREE, 4).item() == pytest.approx((1 / log2(3)) / ideal, abs=1e-12)
    assert metrics.ndcg(RANKS, THREE, 2).item() == pytest.approx((1 / log2(3)) / (1 / log2(2) + 1 / log2(3)), abs=1e-12)
    assert metrics.ndcg(RANKS, THREE, 1).item() == 0


def test_recall_hit_and_mrr_by_hand() -> None:
    assert metrics.recall(RANKS, THREE, 5).item() == pytest.approx(2 / 3)
    assert metrics.recall(RANKS, THREE, 1).item() == 0
    assert [metrics.hit(RANKS, k).item() for k in (1, 2)] == [0, 1]
    assert metrics.mrr(RANKS, 100).item() == 1 / 2
    assert metrics.mrr(RANKS, 1).item() == 0


def test_recall_divides_by_all_targets_even_beyond_k() -> None:
    assert metrics.recall(torch.tensor([1, 2, 3]), THREE, 2).item() == pytest.approx(2 / 3)
    assert metrics.ndcg(torch.tensor([1, 2, 3]), THREE, 2).item() == 1


def test_targets_that_nobody_retrieves_count_and_padding_does_not() -> None:
    ranks = torch.tensor([[1, ABSENT, ABSENT], [1, ABSENT, ABSENT]])
    assert metrics.recall(ranks, torch.tensor([3, 1]), 10).tolist() == pytest.approx([1 / 3, 1])


def test_a_sample_axis_broadcasts() -> None:
    ranks = torch.stack([RANKS, RANKS.flip(0), torch.full((3,), ABSENT)]).expand(4, 3, 3)
    assert metrics.ndcg(ranks, torch.full((4, 1), 3), 5).shape == (4, 3)
    assert metrics.ndcg(ranks, torch.full((4, 1), 3), 5)[0, 2] == 0


def test_names_of_all_metrics() -> None:
    values = metrics.all_metrics(RANKS, THREE, (5, 2), 100)
    assert list(values) == ["ndcg@2", "ndcg@5", "recall@2", "recall@5", "hit@2", "hit@5", "mrr"]


def test_a_window_without_targets_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 windows without a target.*\[DATA-024\]"):
        metrics.ndcg(RANKS, torch.tensor([0]), 5)


@given(st.lists(st.integers(1, 30), unique=True, min_size=1, max_size=8), st.integers(1, 30))
def test_ndcg_equals_the_loop_and_stays_in_range(ranks: list[int], k: int) -> None:
    gain = sum(1 / log2(rank + 1) for rank in ranks if rank <= k)
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(ranks)) + 1))
    value = metrics.ndcg(torch.tensor(ranks), torch.tensor(len(ranks)), k).item()
    assert value == pytest.approx(gain / ideal, abs=1e-12)
    assert 0 <= value <= 1 + 1e-12


@pytest.mark.slow
@pytest.mark.xdist_group("ranx")
def test_ranx_gives_the_same_metrics() -> None:
    from ranx import Qrels, Run, evaluate

    generator = torch.Generator().manual_seed(5)
    lists = torch.stack([torch.randperm(60, generator=generator)[:30] for _ in range(20)])
    targets = torch.stack([torch.randperm(60, generator=generator)[:4] for _ in range(20)])
    equal = lists[:, None] == targets[..., None]  # (20, 4, 30)
    ranks = torch.where(equal.any(-1), equal.int().argmax(-1) + 1, ABSENT)
    qrels = Qrels({f"q{b}": {f"d{item}": 1 for item in row} for b, row in enumerate(targets.tolist())})
    run = Run(
        {f"q{b}": {f"d{item}": 30.0 - place for place, item in enumerate(row)} for b, row in enumerate(lists.tolist())}
    )
    ours = metrics.all_metrics(ranks, torch.full((20,), 4), (3, 10, 30), 30)
    names = {name: name.replace("hit@", "hit_rate@") for name in ours}
    theirs = evaluate(qrels, run, list(names.values()))
    for name, other in names.items():
        assert ours[name].mean().item() == pytest.approx(theirs[other], abs=1e-9), name
