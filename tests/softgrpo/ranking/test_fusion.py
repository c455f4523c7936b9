from __future__ import annotations

import itertools
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softgrpo.config import FusionConfig, MergeMethod, Normalisation
from softgrpo.errors import CandidateError, TrainingError
from softgrpo.ranking.aligned import ABSENT, target_positions
from softgrpo.ranking.fusion import align, merged_lists, target_ranks
from tests.support.fusion_cases import Lists, merge_by_quota, merge_by_value, pad, weights_for, windows

NORMALISATIONS = [name for name in get_args(Normalisation) if name != "platt"]
ALL = [FusionConfig(method="score", normalisation=name) for name in NORMALISATIONS] + [
    FusionConfig(method="rrf"),
    FusionConfig(method="quota"),
]
IDS = [f"{config.method}-{config.normalisation}" for config in ALL]


def merge(lists: Lists, weights: list[float], fusion: FusionConfig, k: int = 8) -> list[int]:
    scores = [[float(-rank) for rank in range(len(row))] for row in lists]
    aligned = align(*pad([lists], [scores]), fusion)
    merged = merged_lists(aligned, torch.tensor([[weights]]), fusion, k)[0, 0].tolist()
    return [item for item in merged if item >= 0]


def test_alignment_of_two_lists() -> None:
    aligned = align(
        *pad([[[5, 2], [2, 9, 5]]], [[[3.0, 1.0], [9.0, 8.0, 7.0]]]), FusionConfig(method="score", normalisation="none")
    )
    assert aligned.items.tolist() == [[2, 5, 9]]
    assert aligned.ranks.tolist() == [[[1, 0, 3], [0, 2, 1]]]
    assert aligned.values.tolist() == [[[1, 3, 0], [9, 7, 8]]]
    assert aligned.lists.tolist() == [[[1, 0, 3, 3], [0, 2, 1, 3]]]
    assert (len(aligned), aligned.num_recallers, aligned.depth) == (1, 2, 3)
    assert target_positions(aligned, torch.tensor([[9, 4, -1, 2]])).tolist() == [[2, -1, -1, 0]]


def test_score_by_hand() -> None:
    # item 1: 0.7/1 + 0.3/3 = 0.8; item 2: 0.7/2 + 0.3/1 = 0.65; item 4: 0.7/3 = 0.233; item 3: 0.3/2 = 0.15
    assert merge([[1, 2, 4], [2, 3, 1]], [0.7, 0.3], FusionConfig(method="score", normalisation="rank_reciprocal")) == [
        1,
        2,
        4,
        3,
    ]


def test_ties_break_by_best_rank_then_item() -> None:
    fusion = FusionConfig(method="score", normalisation="percentile")
    assert merge([[9, 3], [4, 8]], [0.5, 0.5], fusion) == [4, 9, 3, 8]


def test_quota_by_hand() -> None:
    # shares 2/3 and 1/3. t=1: A (.67 > .33) takes 1. t=2: A 4/3-1 = .33 < B .67: B skips 1 (used), takes 7. t=3: A 2-1 = 1 takes 2.
    # t=4: A 8/3-2 = .67 takes 3 (B 4/3-1 = .33). t=5: A 10/3-3 = .33, B 5/3-1 = .67: B takes 8. t=6: A has ended, B takes 9.
    assert merge([[1, 2, 3], [1, 7, 8, 9]], [2 / 3, 1 / 3], FusionConfig(method="quota")) == [1, 7, 2, 3, 8, 9]


def test_quota_ties_go_to_the_better_item() -> None:
    # t=1 a tie: next items 5 and 4, both of best rank 0: the lower id. t=2: A .5*2-0 = 1. t=3 a tie again: 6 or 4 -> used: 3.
    assert merge([[5, 6], [4, 3]], [0.5, 0.5], FusionConfig(method="quota")) == [4, 5, 3, 6]


@pytest.mark.parametrize("fusion", ALL, ids=IDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_merges_equal_the_plain_python_ones(fusion: FusionConfig, data: st.DataObject) -> None:
    items, scores = data.draw(windows())
    weights = data.draw(weights_for(len(items), len(items[0])))
    aligned = align(*pad(items, scores), fusion)
    merged = merged_lists(aligned, torch.tensor(weights), fusion, 12)
    for b, g in itertools.product(range(len(items)), range(2)):
        if fusion.method == "quota":
            expected = merge_by_quota(items[b], weights[b, g])
        else:
            unions = aligned.items[b].tolist()
            values = [
                [float(aligned.values[b, m, unions.index(item)]) for item in row] for m, row in enumerate(items[b])
            ]
            expected = merge_by_value(items[b], values, weights[b, g])
        assert merged[b, g].tolist() == (expected + [-1] * 12)[:12]


@pytest.mark.parametrize("fusion", ALL, ids=IDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_ranks_agree_with_merged_lists(fusion: FusionConfig, data: st.DataObject) -> None:
    items, scores = data.draw(windows())
    weights = torch.tensor(data.draw(weights_for(len(items), len(items[0]))))
    k = data.draw(st.integers(1, 12))
    aligned = align(*pad(items, scores), fusion)
    targets = torch.tensor([[*range(10), 77, -1]] * len(items))
    ranks = target_ranks(aligned, target_positions(aligned, targets), weights, fusion, k)
    merged = merged_lists(aligned, weights, fusion, k)
    for b, g, t in itertools.product(*map(range, ranks.shape)):
        target = int(targets[b, t])
        found = merged[b, g].tolist().index(target) + 1 if target >= 0 and target in merged[b, g] else ABSENT
        assert ranks[b, g, t] == found


@pytest.mark.parametrize("fusion", ALL, ids=IDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_one_hot_weights_give_the_recallers_own_list(fusion: FusionConfig, data: st.DataObject) -> None:
    items, scores = data.draw(windows())
    aligned = align(*pad(items, scores), fusion)
    recallers = len(items[0])
    merged = merged_lists(aligned, torch.eye(recallers).expand(len(items), -1, -1), fusion, 7)
    for b, m in itertools.product(range(len(items)), range(recallers)):
        assert merged[b, m].tolist() == (items[b][m] + [-1] * 7)[:7]


@pytest.mark.parametrize("fusion", ALL, ids=IDS)
def test_batch_shape_and_selection_change_nothing(fusion: FusionConfig) -> None:
    generator = torch.Generator().manual_seed(3)
    scores, items = torch.randn(9, 3, 40, generator=generator).topk(20)
    weights = torch.softmax(torch.randn(9, 5, 3, generator=generator), -1)
    aligned = align(items, scores, fusion)
    whole = merged_lists(aligned, weights, fusion, 15)
    for b, g in itertools.product(range(9), range(5)):
        alone = merged_lists(aligned.select(torch.tensor([b])), weights[b : b + 1, g : g + 1], fusion, 15)
        assert torch.equal(alone[0, 0], whole[b, g])


def test_fewer_candidates_than_k_and_empty_lists() -> None:
    for fusion in ALL:
        aligned = align(*pad([[[], []], [[3], []]], [[[], []], [[1.0], []]]), fusion)
        weights = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]])
        assert merged_lists(aligned, weights, fusion, 3).tolist() == [[[-1, -1, -1]], [[3, -1, -1]]]
        positions = target_positions(aligned, torch.tensor([[3], [3]]))
        assert target_ranks(aligned, positions, weights, fusion, 3).tolist() == [[[ABSENT]], [[1]]]


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([[[1, -1, 2]]], [[[3.0, 2.0, 1.0]]], "gap"),
        ([[[1, 2, 1]]], [[[3.0, 2.0, 1.0]]], "repeats"),
        ([[[1, 2, 3]]], [[[3.0, float("nan"), 1.0]]], "finite"),
    ],
)
def test_bad_lists_are_refused(items: list[Lists], scores: list[list[list[float]]], message: str) -> None:
    with pytest.raises(CandidateError, match=message):
        align(torch.tensor(items), torch.tensor(scores), FusionConfig())


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], [-0.1, 1.1], [0.0, 0.0], [float("inf"), 1.0]])
def test_bad_weights_are_refused(bad: list[float]) -> None:
    fusion = FusionConfig()
    aligned = align(*pad([[[1], [2]]], [[[1.0], [1.0]]]), fusion)
    with pytest.raises(TrainingError, match=r"1 of 2 weight vectors.*\[TRAINING-017\]"):
        merged_lists(aligned, torch.tensor([[bad, [0.5, 0.5]]]), fusion, 2)
    with pytest.raises(TrainingError, match=r"shape.*\[TRAINING-016\]"):
        merged_lists(aligned, torch.tensor([[0.5, 0.5]]), fusion, 2)


@pytest.fixture(scope="module")
def ranx_lists() -> tuple[torch.Tensor, torch.Tensor]:
    scores, items = torch.randn(12, 2, 30, generator=torch.Generator().manual_seed(1)).topk(10)
    return items, scores


@pytest.mark.slow
@pytest.mark.xdist_group("ranx")
@pytest.mark.parametrize(
    ("fusion", "norm"),
    [
        (FusionConfig(method="score", normalisation="minmax"), "min-max"),
        (FusionConfig(method="score", normalisation="zscore"), "zmuv"),
        (FusionConfig(method="score", normalisation="percentile"), "rank"),
        (FusionConfig(method="score", normalisation="none"), None),
        (FusionConfig(method="rrf", rrf_k=60), "rrf"),
    ],
)
def test_ranx_gives_the_same_values(ranx_lists, fusion: FusionConfig, norm: str | None) -> None:
    from ranx import Run, fuse
    from ranx.fusion import rrf

    items, scores = ranx_lists
    runs = [
        Run(
            {
                f"q{b}": {f"d{i}": float(s) for i, s in zip(items[b, m].tolist(), scores[b, m], strict=True)}
                for b in range(12)
            }
        )
        for m in range(2)
    ]
    weights = [0.5, 0.5] if norm == "rrf" else [0.7, 0.3]
    fused = rrf(runs, k=60) if norm == "rrf" else fuse(runs, norm=norm, method="wsum", params={"weights": weights})
    aligned = align(items, scores, fusion)
    merged = merged_lists(aligned, torch.tensor(weights).expand(12, 1, 2), fusion, 20)[:, 0]
    total = np.einsum("bmc,m->bc", aligned.values.double().numpy(), [1, 1] if norm == "rrf" else weights)
    for b in range(12):
        theirs = fused.run[f"q{b}"]
        union = [item for item in aligned.items[b].tolist() if item >= 0]
        assert total[b, : len(union)] == pytest.approx([theirs[f"d{item}"] for item in union], abs=1e-5)
        in_our_order = [theirs[f"d{item}"] for item in merged[b].tolist() if item >= 0]
        assert len(in_our_order) == len(union)
        assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(in_our_order))


def test_a_method_that_nothing_handles_is_refused_at_import() -> None:
    code = (
        "import typing, softgrpo.config as config\n"
        "config.MergeMethod = typing.Literal[(*typing.get_args(config.MergeMethod), 'no_such_method')]\n"
        "import softgrpo.ranking.fusion"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (
        done.stderr.splitlines()[-1].startswith("AssertionError") and "no_such_method" in done.stderr.splitlines()[-1]
    )


@pytest.mark.parametrize("method", get_args(MergeMethod))
def test_only_methods_that_read_the_normalisation_change_with_it(method: MergeMethod) -> None:
    items, scores = pad([[[5, 2, 7]]], [[[9.0, 8.0, 1.0]]])
    fusions = [FusionConfig(method=method, normalisation=name) for name in ("minmax", "zscore")]
    values = [align(items, scores, fusion).values for fusion in fusions]
    assert torch.equal(*values) is not fusions[0].reads_normalisation
