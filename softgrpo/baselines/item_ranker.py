"""An item-level ranker: boosted trees score each candidate item by itself, and their order is the row's own list.

All other rows weigh recallers. This one orders items, so it can tell two items of the same ranks and lists apart. The trees are
scikit-learn's: those of LightGBM, which has LambdaMART, need a system library that its wheel does not bring (docs/dependencies.md).
Legend: W windows, M recallers, D depth, C union size, T targets, F numbers, N sampled items.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from softgrpo.baselines.files import read_card, read_trees, readable, write_card, write_trees
from softgrpo.baselines.item_numbers import Candidates, ItemKnowledge, ListedWindows, candidates_of
from softgrpo.errors import PolicyError
from softgrpo.ranking.judged import judge_order
from softgrpo.ranking.metrics import check_any_window

LEAVES = (8, 31)
ROUNDS = (50, 100, 200)
"""Sizes of a tree and numbers of trees; validation chooses."""
TREES: dict[str, float | int] = {"learning_rate": 0.1, "min_samples_leaf": 40, "l2_regularization": 1.0}
NEGATIVES = 40
"""Items that are no targets, drawn from each window that teaches."""
CARD, STORED = "ranker.json", "trees.skops"
LABEL = "Item ranker, boosted trees"
"""What people call its row."""
BY_RANK = "nothing to learn from: items by their best rank"


@dataclass(frozen=True)
class RankerData:
    """What the ranker is fitted and chosen on. There is nothing of a test window in it.

    Attributes:
        train: Policy windows.
        train_targets: (W, T) their targets, -1 behind the last.
        valid: Validation windows.
        valid_targets: (W, T) likewise.
        knowledge: Of the items.
        k: Cut-off of the NDCG that validation windows choose by.
        seed: Of the drawn items and of the trees.
    """

    train: ListedWindows
    train_targets: NDArray[np.int32]
    valid: ListedWindows
    valid_targets: NDArray[np.int32]
    knowledge: ItemKnowledge
    k: int
    seed: int


@dataclass(frozen=True)
class Ranking:
    """The items of some windows in a ranker's order.

    Attributes:
        items: (B, D) int64 item ids, best first, -1 behind the end.
        scores: (B, D) float64 what the trees say of each, NaN behind the end.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class ItemRanker:
    """A fitted ranker, which can order the candidate items of any windows.

    Attributes:
        trees: What scores items by their numbers; None where there was nothing to learn from.
        rounds: How many of the trees are asked.
        valid_ndcg: Mean NDCG@`fusion.k` on all validation windows.
        choice: What was chosen there, in words.
    """

    trees: HistGradientBoostingClassifier | None
    rounds: int
    valid_ndcg: float
    choice: str

    def rank(self, windows: ListedWindows, knowledge: ItemKnowledge) -> Ranking:
        """Orders the items of the lists of any windows.

        Args:
            windows: B windows with lists of the recallers that it was fitted on, in their order.
            knowledge: Of the items, with embeddings if it was fitted with them.

        Raises:
            PolicyError: The pool has more or fewer recallers, or embeddings are missing or new.
        """
        self._check(windows, knowledge)
        depth = windows.items.shape[2]
        parts = [Ranking(np.empty((0, depth), np.int64), np.empty((0, depth)))]
        with threadpool_limits(1, user_api="openmp"):
            for _, candidates in candidates_of(windows, knowledge):
                scores = _scores(self.trees, candidates, (self.rounds,))[self.rounds]
                parts.append(ordered(candidates, scores, depth))
        return Ranking(np.concatenate([part.items for part in parts]), np.concatenate([part.scores for part in parts]))

    def _check(self, windows: ListedWindows, knowledge: ItemKnowledge) -> None:
        """Checks that items have as many numbers as the trees read, see `candidates_of`."""
        given = 3 * windows.items.shape[1] + 2 + (0 if knowledge.embeddings is None else 2)
        if self.trees is not None and given != self.trees.n_features_in_:
            content = "without" if knowledge.embeddings is None else "with"
            raise PolicyError(
                f"lists of {windows.items.shape[1]} recallers {content} embeddings: {given} numbers of an item",
                f"this ranker was fitted on {self.trees.n_features_in_} numbers of an item",
                "Pass the lists of the pool it was fitted on, and embeddings if it was fitted with them",
                code="POLICY-043",
            )

    def save(self, folder: Path) -> None:
        """Writes the ranker into a new folder."""
        folder.mkdir(mode=0o700, parents=True)
        if self.trees is not None:
            write_trees(folder / STORED, self.trees)
        card = {"rounds": self.rounds, "valid_ndcg": self.valid_ndcg, "choice": self.choice}
        write_card(folder, CARD, card | {"trees": self.trees is not None})

    @classmethod
    def load(cls, folder: Path) -> ItemRanker:
        """Reads what `save` wrote.

        Raises:
            PolicyError: There is no ranker, or its files are damaged or hold something else.
        """
        card = read_card(folder, CARD)
        with readable(folder):
            trees = read_trees(folder / STORED) if card["trees"] else None
            return cls(trees, card["rounds"], card["valid_ndcg"], card["choice"])


def ordered(candidates: Candidates, scores: NDArray[np.float64], depth: int) -> Ranking:
    """Orders items by their scores (w, C); of equal ones the best rank in a list comes first, then the lower id.

    Returns:
        The first `depth` items of each window, and their scores.
    """
    worth = np.where(candidates.items >= 0, scores, -np.inf)
    order = np.lexsort((candidates.items, candidates.best, -worth), axis=1)[:, :depth]
    behind = ((0, 0), (0, depth - order.shape[1]))
    items = np.pad(np.take_along_axis(candidates.items, order, axis=1), behind, constant_values=-1)
    kept = np.pad(np.take_along_axis(scores, order, axis=1), behind)
    return Ranking(items, np.where(items >= 0, kept, np.nan))


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


def fit_item_ranker(data: RankerData) -> ItemRanker:
    """Fits trees on the training windows; validation chooses their size and number.

    Without a target in any list, or with nothing else, there is nothing to learn, and items are ordered by their best rank. Trees
    work on one core: scoring takes many short turns, and on a busy machine threads that wait for each other take ten times as long.

    Raises:
        DataError: There are no training or no validation windows.
    """
    rule = "the item ranker is fitted on policy windows and chosen on validation windows"
    for name, windows in (("policy", data.train), ("validation", data.valid)):
        check_any_window(name, len(windows), rule)
    with threadpool_limits(1, user_api="openmp"):
        return _fit(data)


def _fit(data: RankerData) -> ItemRanker:
    numbers, labels = draw_examples(data)
    if labels.all() or not labels.any():
        tried = [ItemRanker(None, 0, 0.0, BY_RANK)]
    else:
        sizes = [_fitted(numbers, labels, leaves, data.seed) for leaves in LEAVES]
        tried = [
            ItemRanker(trees, rounds, 0.0, f"{rounds} trees of {trees.max_leaf_nodes} leaves")
            for trees in sizes
            for rounds in ROUNDS
        ]
    return max(_judged(tried, data), key=lambda each: each.valid_ndcg)  # the first of equal ones


def _fitted(
    numbers: NDArray[np.float32], labels: NDArray[np.bool_], leaves: int, seed: int
) -> HistGradientBoostingClassifier:
    trees = HistGradientBoostingClassifier(
        max_iter=max(ROUNDS), max_leaf_nodes=leaves, early_stopping=False, random_state=seed, **TREES
    )
    return trees.fit(numbers, labels)


def _scores(
    trees: HistGradientBoostingClassifier | None, candidates: Candidates, wanted: Collection[int]
) -> dict[int, NDArray[np.float64]]:
    """Returns scores (w, C) by the number of trees that give them; equal ones, which leave the order to the best ranks, of none."""
    inside = candidates.items >= 0
    if trees is None or not inside.any():  # trees refuse a table without rows
        return {rounds: np.zeros(inside.shape) for rounds in wanted}
    staged = enumerate(trees.staged_decision_function(candidates.numbers[inside]), start=1)
    by_rounds = {}
    for rounds, values in islice(staged, max(wanted)):
        if rounds in wanted:
            scores = np.zeros(inside.shape)
            scores[inside] = values.ravel()
            by_rounds[rounds] = scores
    return by_rounds


def _judged(tried: Sequence[ItemRanker], data: RankerData) -> list[ItemRanker]:
    """Returns rankers with their mean NDCG@`k` over validation windows; those of the same trees score items once."""
    one, depth = torch.ones(1, 1, dtype=torch.float64), data.valid.items.shape[2]
    hit = telling(data.valid, data.valid_targets)
    totals = np.zeros(len(tried))
    for part, candidates in candidates_of(data.valid.select(hit), data.knowledge):
        targets = data.valid_targets[hit[part]]
        for _, group in groupby(range(len(tried)), key=lambda place: id(tried[place].trees)):
            places = list(group)
            scores = _scores(tried[places[0]].trees, candidates, [tried[place].rounds for place in places])
            for place in places:
                shown = ordered(candidates, scores[tried[place].rounds], depth).items
                totals[place] += float(judge_order(shown, targets, data.k).ndcg(one).sum())
    return [replace(each, valid_ndcg=float(total) / len(data.valid)) for each, total in zip(tried, totals, strict=True)]


def load_ranker(folder: Path, name: str = "ranker") -> ItemRanker:
    """Returns a ranker that the stage `gates` stored.

    Args:
        folder: Of the stage `gates`.
        name: Of the ranker.

    Raises:
        PolicyError: The stage stored none, or its files are damaged or hold something else.
    """
    return ItemRanker.load(folder / name)
