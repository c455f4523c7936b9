"""An item-level ranker: boosted trees score each candidate item by itself, and their order is the row's own list.

All other rows weigh recallers. This one orders items, so it can tell two items of the same ranks and lists apart. The trees are
scikit-learn's: those of LightGBM, which has LambdaMART, need a system library that its wheel does not bring (docs/dependencies.md).
Legend: W windows, M recallers, D depth, C union size, T targets, F numbers, N sampled items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from softgrpo.baselines.item_numbers import Candidates, ItemKnowledge, ListedWindows, candidates_of
from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.rewards import judge_order

LEAVES = (8, 31)
ROUNDS = (50, 100, 200)
"""Sizes of a tree and numbers of trees; validation chooses."""
TREES: dict[str, float | int] = {"learning_rate": 0.1, "min_samples_leaf": 40, "l2_regularization": 1.0}
NEGATIVES = 40
"""Items that are no targets, drawn from each window that teaches."""
Scorer = Callable[[Candidates], dict[str, NDArray[np.float64]]]
"""From the candidates of w windows to scores (w, C) of each kind that the scorer has, by what people call it."""


@dataclass(frozen=True)
class RankerData:
    """What the ranker is fitted and chosen on, and what it is asked. There is no answer of an asked window in it.

    Attributes:
        train: Policy windows.
        train_targets: (W, T) their targets, -1 behind the last.
        valid: Validation windows.
        valid_targets: (W, T) likewise.
        asked: Windows whose items are to be ordered.
        knowledge: Of the items.
        k: Cut-off of the NDCG that validation windows choose by.
        seed: Of the drawn items and of the trees.
    """

    train: ListedWindows
    train_targets: NDArray[np.int32]
    valid: ListedWindows
    valid_targets: NDArray[np.int32]
    asked: ListedWindows
    knowledge: ItemKnowledge
    k: int
    seed: int


@dataclass(frozen=True)
class Ranking:
    """What the ranker says.

    Attributes:
        items: (W, D) int64 item ids of the asked windows, best first, -1 behind the end.
        valid_ndcg: Mean NDCG@`k` on validation windows, which it was chosen by.
        choice: What was chosen there, in words.
    """

    items: NDArray[np.int64]
    valid_ndcg: float
    choice: str


def best_first(candidates: Candidates, scores: NDArray[np.float64], depth: int) -> NDArray[np.int64]:
    """Orders items by their scores (w, C); of equal ones the best rank in a list comes first, then the lower id.

    Returns:
        (w, depth) int64 item ids, -1 behind the end.
    """
    worth = np.where(candidates.items >= 0, scores, -np.inf)
    order = np.lexsort((candidates.items, candidates.best, -worth), axis=1)[:, :depth]
    ordered = np.take_along_axis(candidates.items, order, axis=1)
    return np.pad(ordered, ((0, 0), (0, depth - ordered.shape[1])), constant_values=-1)


def is_target(items: NDArray[np.integer], targets: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Returns which of the items (w, C) are among the targets (w, T) of their window."""
    wanted = np.where(targets < 0, -2, targets)
    hits = np.zeros(items.shape, dtype=bool)
    for column in wanted.T:
        hits |= items == column[:, None]
    return hits


def telling(windows: ListedWindows, targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Returns the places, ascending, of the windows in which some list holds a target: no order of the others earns anything.

    Where there is none, the first window alone says so.
    """
    hit = is_target(windows.items.reshape(len(windows), -1), targets).any(1)
    return np.flatnonzero(hit) if hit.any() else np.zeros(1, dtype=np.int64)


def draw_examples(data: RankerData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draws what the trees learn from: of each training window in which a list holds a target, all targets and some other items.

    Returns:
        Numbers (N, F) and whether each item is a target (N,).
    """
    generator = np.random.default_rng(data.seed)
    teaching = telling(data.train, data.train_targets)
    numbers, labels = [], []
    for part, candidates in candidates_of(data.train.select(teaching), data.knowledge):
        hit = is_target(candidates.items, data.train_targets[teaching[part]])
        other = (candidates.items >= 0) & ~hit
        lot = np.where(other, generator.random(other.shape), np.inf)
        taken = hit | other & (lot.argsort(1).argsort(1) < NEGATIVES)
        numbers.append(candidates.numbers[taken])
        labels.append(hit[taken])
    return np.concatenate(numbers), np.concatenate(labels)


def fit_item_ranker(data: RankerData) -> Ranking:
    """Fits trees on the training windows; validation chooses their size and number.

    Without a target in any list, or with nothing else, there is nothing to learn, and items are ordered by their best rank. Trees
    work on one core: scoring takes many short turns, and on a busy machine threads that wait for each other take ten times as long.

    Raises:
        DataError: There are no training, no validation or no asked windows.
    """
    rule = "the item ranker is fitted on policy windows, chosen on validation windows and asked about test windows"
    for name, windows in (("policy", data.train), ("validation", data.valid), ("test", data.asked)):
        check_any_window(name, len(windows), rule)
    with threadpool_limits(1, user_api="openmp"):
        return _fit(data)


def _fit(data: RankerData) -> Ranking:
    numbers, labels = draw_examples(data)
    if labels.all() or not labels.any():
        scorers: list[Scorer] = [_by_rank]
    else:
        scorers = [partial(_by_trees, _fitted(numbers, labels, leaves, data.seed)) for leaves in LEAVES]
    tried = [
        (score, place, name)
        for place, scorer in enumerate(scorers)
        for name, score in _on_validation(scorer, data).items()
    ]
    score, place, name = max(tried, key=lambda each: each[0])  # the first of equal ones
    pieces = candidates_of(data.asked, data.knowledge)
    depth = data.asked.items.shape[2]
    ordered = [best_first(each, scorers[place](each)[name], depth) for _, each in pieces]
    return Ranking(np.concatenate(ordered), score, name)


def _fitted(
    numbers: NDArray[np.float32], labels: NDArray[np.bool_], leaves: int, seed: int
) -> HistGradientBoostingClassifier:
    trees = HistGradientBoostingClassifier(
        max_iter=max(ROUNDS), max_leaf_nodes=leaves, early_stopping=False, random_state=seed, **TREES
    )
    return trees.fit(numbers, labels)


def _by_trees(trees: HistGradientBoostingClassifier, candidates: Candidates) -> dict[str, NDArray[np.float64]]:
    """Returns scores (w, C) of the first trees, for each number in `ROUNDS`, by what people call it."""
    inside = candidates.items >= 0
    staged = enumerate(trees.staged_decision_function(candidates.numbers[inside]), start=1)
    by_name = {}
    for rounds, values in staged:
        if rounds in ROUNDS:
            scores = np.zeros(inside.shape)
            scores[inside] = values.ravel()
            by_name[f"{rounds} trees of {trees.max_leaf_nodes} leaves"] = scores
    return by_name


def _by_rank(candidates: Candidates) -> dict[str, NDArray[np.float64]]:
    """Returns equal scores (w, C), which leave the order to the best ranks."""
    return {"nothing to learn from: items by their best rank": np.zeros(candidates.items.shape)}


def _on_validation(scorer: Scorer, data: RankerData) -> dict[str, float]:
    """Returns the mean NDCG@`k` over validation windows of each order that a scorer gives, by its name."""
    one, depth = torch.ones(1, 1, dtype=torch.float64), data.valid.items.shape[2]
    totals: dict[str, float] = defaultdict(float)
    hit = telling(data.valid, data.valid_targets)
    for part, candidates in candidates_of(data.valid.select(hit), data.knowledge):
        targets = data.valid_targets[hit[part]]
        for name, scores in scorer(candidates).items():
            judged = judge_order(best_first(candidates, scores, depth), targets, data.k)
            totals[name] += float(judged.ndcg(one).sum())
    return {name: total / len(data.valid) for name, total in totals.items()}
