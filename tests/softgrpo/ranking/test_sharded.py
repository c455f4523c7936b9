"""Windows that are aligned a shard at a time give what they give at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softgrpo.config import FusionConfig
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.sharded import ShardedLists, best_of, ndcg_of, recallers_of, shards_of, windows_at

GRID = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)


def made_up(fusion: FusionConfig) -> JudgedLists:
    """Returns seven windows of two lists of six over nine items."""
    rng = np.random.default_rng(0)
    items = torch.from_numpy(np.argsort(rng.random((7, 2, 9)), axis=2)[:, :, :6])
    scores = torch.from_numpy(-np.sort(-rng.random((7, 2, 6), dtype=np.float32), axis=2))
    return JudgedLists.build(items, scores, torch.from_numpy(rng.integers(0, 9, (7, 1))), fusion)


def in_shards(whole: JudgedLists, step: int, asked: list[int] | None = None) -> ShardedLists:
    def build(places: np.ndarray) -> JudgedLists:
        if asked is not None:
            asked.append(len(places))
        return whole.select(torch.from_numpy(places))

    return ShardedLists(build, len(whole), step, whole.fusion, 2, whole.targets)


@pytest.mark.parametrize("step", [1, 3, 7])
@pytest.mark.parametrize("method", ["rrf", "score", "quota"])
def test_no_number_depends_on_the_size_of_a_shard(step: int, method: str) -> None:
    whole = made_up(FusionConfig(method=method, k=3))
    sharded = in_shards(whole, step)
    own = torch.from_numpy(np.random.default_rng(1).dirichlet((1, 1), (7, 2)))
    assert (len(sharded), recallers_of(sharded), recallers_of(whole)) == (7, 2, 2)
    assert torch.equal(ndcg_of(sharded, GRID), whole.ndcg(GRID))
    assert torch.equal(ndcg_of(sharded, own), whole.ndcg(own))
    assert torch.equal(best_of(sharded, GRID), whole.ndcg(GRID).argmax(1))
    places = np.array([5, 0, 5])
    assert torch.equal(windows_at(sharded, places).targets, whole.targets[places])
    assert torch.equal(windows_at(whole, places).targets, whole.targets[places])


def test_a_single_shard_is_aligned_once_and_several_in_each_pass() -> None:
    whole = made_up(FusionConfig(k=3))
    for step, expected in ((7, [7]), (3, [3, 3, 1, 3, 3, 1])):
        asked: list[int] = []
        sharded = in_shards(whole, step, asked)
        for _ in range(2):
            parts = [part for part, _ in shards_of(sharded)]
        assert asked == expected
        assert [(part.start, part.stop) for part in parts] == ([(0, 7)] if step == 7 else [(0, 3), (3, 6), (6, 7)])
