"""Metrics and merges on real lists against ranx: ml-100k, most popular items and nearest neighbours, made here by a few lines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from softgrpo.common.records import Part
from softgrpo.config import DataConfig, FusionConfig, SplitConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.windows import make_windows, targets_of
from softgrpo.ranking.fusion import merged_lists
from softgrpo.ranking.judged import JudgedLists

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranx")]  # which compiles itself once for each process

DEPTH, WINDOWS = 100, 150
KS = (5, 10, 20, 50)
Lists = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def real() -> Lists:
    """Items and scores (W, 2, D) and targets (W, T) of 150 test windows of ml-100k."""
    corpus = read_corpus(DataConfig(), 42)
    windows = make_windows(corpus, SplitConfig())
    rows = windows.of(Part.TEST)[:WINDOWS]
    within = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]
    trained = within < windows.train_end[corpus.user]
    shape = (corpus.num_users, corpus.num_items)
    seen = sp.csr_matrix((np.ones(trained.sum()), (corpus.user[trained], corpus.item[trained])), shape=shape)
    norms = np.maximum(np.sqrt(seen.sum(0).A1), 1.0)
    cosine = (seen.T @ seen).toarray() / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    popular: NDArray[np.float64] = seen.sum(0).A1
    lists = []
    for window in rows:
        history = corpus.sequence(int(windows.user[window]))[: windows.start[window]]
        lists.append([top(popular, history), top(cosine[:, history].sum(1), history)])
    items = torch.tensor(np.array([[pair[0] for pair in row] for row in lists]))
    scores = torch.tensor(np.array([[pair[1] for pair in row] for row in lists])).float()
    return items, scores, torch.from_numpy(targets_of(corpus, windows)[rows])


def top(scores: NDArray[np.float64], history: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the best unseen items and their scores, equal scores by item id."""
    masked = scores.copy()
    masked[history] = -np.inf
    order = np.argsort(-masked, kind="stable")[:DEPTH]
    return order, masked[order]


def as_run(items: torch.Tensor, scores: torch.Tensor) -> object:
    """Returns lists (W, D) as a run of ranx."""
    from ranx import Run

    return Run(
        {
            f"q{window:03}": {
                f"d{item}": float(score) for item, score in zip(row.tolist(), values, strict=True) if item >= 0
            }
            for window, (row, values) in enumerate(zip(items, scores, strict=True))
        }
    )


@pytest.mark.parametrize("method", ["rrf", "score", "quota"])
@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.3, 0.7]])
def test_metrics_agree_with_ranx(real: Lists, method: str, weights: list[float]) -> None:
    from ranx import Qrels, evaluate

    items, scores, targets = real
    fusion = FusionConfig.model_validate({"method": method})
    judged = JudgedLists.build(items, scores, targets, fusion)
    vectors = torch.tensor(weights, dtype=torch.float64).expand(WINDOWS, 2)
    ours = judged.metrics(vectors, KS)
    merged = merged_lists(judged.aligned, vectors[:, None], fusion, DEPTH)[:, 0]
    places = torch.arange(DEPTH, 0, -1).expand(WINDOWS, -1)
    qrels = Qrels(
        {f"q{window:03}": {f"d{item}": 1 for item in row if item >= 0} for window, row in enumerate(targets.tolist())}
    )
    names = {name: name.replace("hit@", "hit_rate@").replace("mrr", f"mrr@{DEPTH}") for name in ours}
    theirs = evaluate(qrels, as_run(merged, places), list(names.values()), return_mean=False)
    assert ours["hit@50"].mean() > 0.2, "lists that hit nothing prove nothing"
    for name, other in names.items():
        assert ours[name].numpy() == pytest.approx(theirs[other], abs=1e-9), name


@pytest.mark.parametrize(
    ("fusion", "norm"),
    [
        (FusionConfig(method="score", normalisation="minmax"), "min-max"),
        (FusionConfig(method="score", normalisation="zscore"), "zmuv"),
        (FusionConfig(method="score", normalisation="percentile"), "rank"),
        (FusionConfig(method="rrf", rrf_k=60), "rrf"),
    ],
)
def test_merges_agree_with_ranx(real: Lists, fusion: FusionConfig, norm: str) -> None:
    """The same values, and an order in which ranx's values never rise; scores are made different, so that ranks are clear."""
    from ranx import fuse
    from ranx.fusion import rrf

    items, scores, targets = real
    scores = scores.double() * (1 - 1e-4 * torch.arange(DEPTH))
    runs = [as_run(items[:, recaller], scores[:, recaller]) for recaller in range(2)]
    weights = [0.5, 0.5] if norm == "rrf" else [0.7, 0.3]
    fused = rrf(runs, k=60) if norm == "rrf" else fuse(runs, norm=norm, method="wsum", params={"weights": weights})
    judged = JudgedLists.build(items, scores, targets, fusion)
    merged = merged_lists(judged.aligned, torch.tensor(weights).expand(WINDOWS, 1, 2), fusion, 2 * DEPTH)[:, 0]
    scale = [1.0, 1.0] if norm == "rrf" else weights
    totals = torch.einsum("bmc,m->bc", judged.aligned.values.double(), torch.tensor(scale, dtype=torch.float64))
    for window in range(WINDOWS):
        theirs = fused.run[f"q{window:03}"]
        union = [item for item in judged.aligned.items[window].tolist() if item >= 0]
        expected = [theirs[f"d{item}"] for item in union]
        assert totals[window, : len(union)].tolist() == pytest.approx(expected, abs=1e-5)
        in_our_order = [theirs[f"d{item}"] for item in merged[window].tolist() if item >= 0]
        assert len(in_our_order) == len(union)
        assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(in_our_order))
