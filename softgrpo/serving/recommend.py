"""Recommendations from what a run stored: each user's lists, merged with the weights that a method gave the user, or in a ranker's
order.

A user's lists are those of the test window: they know the user's items before it and none behind. Who has no test window gets
the best static mixture, over the lists of the latest window there is, or without any over each recaller's common list: the items
that it ranks best over all test windows. Legend: U users asked for, T test windows, M recallers, D depth, K length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.baselines.item_ranker import Ranking
from softgrpo.common.artifacts import WEIGHTS
from softgrpo.common.columns import Columns
from softgrpo.common.records import Part
from softgrpo.errors import CandidateError, ConfigError, PolicyError
from softgrpo.evaluation.summary import FOCUS
from softgrpo.serving.merging import common_lists, merge_lists, without
from softgrpo.serving.recommended import STATIC, Recommended
from softgrpo.stages.inputs import Prepared

NO_TEST_WINDOW = "no test window: the latest earlier lists"
NO_WINDOW = "no window: the recallers' common lists"
NOT_IN_DATA = "not in the run's data, or dropped by its filters: the recallers' common lists"
_CHUNK = 1024
"""Users merged at a time."""


@dataclass(frozen=True)
class _Chosen:
    """Lists and weights of the users asked for: items and scores (U, M, D), weights (U, M), reason (U,); the place of each user's
    own test window among them all (U,), -1 without one.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    weights: NDArray[np.float64]
    reason: NDArray[np.object_]
    own: NDArray[np.int64]


def recommend(
    prepared: Prepared,
    learned: NDArray[np.float64] | Ranking,
    users: Sequence[str] | None,
    k: int,
    method: str = FOCUS,
) -> Recommended:
    """Recommends items.

    Args:
        prepared: Output of the stages `split` and `data`.
        learned: (T, M) weights that a method gave on the test windows, or the order in which a ranker put their items.
        users: Users by name, in the wanted order; None takes all of the run.
        k: K, at most the depth of the lists.
        method: Key of the method.

    Raises:
        ConfigError: K is deeper than the lists, or a user is named twice.
        PolicyError: The weights are not one row per test window and one column per recaller.
    """
    corpus, lists, windows = prepared.corpus, prepared.stored_lists, prepared.windows
    if not 1 <= k <= lists.depth:
        raise ConfigError(
            f"k = {k}",
            f"A list is merged from lists of recall.depth = {lists.depth}",
            "Ask for 1 to that",
            code="CONFIG-067",
        )
    tests = len(windows.of(Part.TEST))
    ranking = learned if isinstance(learned, Ranking) else None
    if isinstance(learned, Ranking):
        learned = np.tile(np.asarray(prepared.static.best.weights), (tests, 1))
    expected = (tests, len(lists.recallers))
    if learned.shape != expected:
        raise PolicyError(
            f"policy outputs of shape {learned.shape}",
            f"The run has (test windows, recallers) = {expected}",
            "Name a whole run",
            code="POLICY-026",
        )
    tokens = pd.Index(corpus.users[Columns.Token])
    names = tokens.tolist() if users is None else list(users)
    if not names:
        raise ConfigError(
            "no user", "At least one user is asked for", "Name some, or leave them out for all", code="CONFIG-068"
        )
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{len(names)} users, {len(set(names))} of them different",
            "A user is asked for once",
            "Drop the others",
            code="CONFIG-069",
        )
    numbers = tokens.get_indexer(pd.Index(names, dtype=object))  # (U,) -1 where the run does not know the user
    chosen = _choose(prepared, learned, numbers)
    parts = [_merge(prepared, chosen, slice(at, at + _CHUNK), k) for at in range(0, len(names), _CHUNK)]
    merged, shares = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    scores = shares.sum(2)
    if ranking is not None:
        own = chosen.own >= 0
        merged[own], scores[own] = (each[chosen.own[own], :k] for each in (ranking.items, ranking.scores))
        shares[own], chosen.weights[own] = np.nan, np.nan
    return Recommended(
        _users_table(names, chosen, lists.recallers, method),
        _items_table(names, merged, scores, shares, prepared),
        lists.recallers,
    )


def _choose(prepared: Prepared, learned: NDArray[np.float64], numbers: NDArray[np.intp]) -> _Chosen:
    """Returns what each user gets: the test window and its weights, or what stands in for them."""
    windows, lists = prepared.windows, prepared.stored_lists
    test = windows.of(Part.TEST)
    size = prepared.corpus.num_users
    latest, row = (
        np.full(size + 1, -1),
        np.full(size + 1, -1),
    )  # the last entry stands for users that are not in the data
    latest[windows.user] = np.arange(len(windows))  # of repeated users the last one counts, which is the latest window
    latest[windows.user[test]] = test
    row[windows.user[test]] = np.arange(len(test))
    window, own = latest[numbers], row[numbers]  # (U,)
    listed = lists.rows(np.maximum(window, 0))  # without a window it is replaced
    items, scores = listed.items, listed.scores
    common = common_lists(lists, test if (window < 0).any() else test[:0])
    for at in np.flatnonzero(own < 0):  # a list of an earlier window holds what the user took since
        there = (items[at], scores[at]) if window[at] >= 0 else common
        items[at], scores[at] = without(there, prepared.corpus.sequence(numbers[at]) if numbers[at] >= 0 else None)
    weights = np.where(own[:, None] >= 0, learned[own], np.asarray(prepared.static.best.weights))
    reason = np.full(len(numbers), NOT_IN_DATA, dtype=object)
    for row_of_user, why in ((numbers, NO_WINDOW), (window, NO_TEST_WINDOW), (own, "")):
        reason[row_of_user >= 0] = why
    return _Chosen(items, scores, weights, reason, own)


def _merge(prepared: Prepared, chosen: _Chosen, part: slice, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the merged lists (u, K) of some users, and what each recaller gave to each item, (u, K, M)."""
    items, scores, weights = chosen.items[part], chosen.scores[part], chosen.weights[part]
    return merge_lists(items, scores, weights, prepared.fusion, prepared.platt, k)


def _users_table(names: Sequence[str], chosen: _Chosen, recallers: tuple[str, ...], method: str) -> pd.DataFrame:
    weights = chosen.weights / chosen.weights.sum(1, keepdims=True)
    source = np.where(chosen.reason == "", method, STATIC)
    table = {Columns.User: names, "weights": source, "reason": chosen.reason}
    return pd.DataFrame(table | {f"weight_{name}": weights[:, index] for index, name in enumerate(recallers)})


def _items_table(
    names: Sequence[str],
    merged: NDArray[np.int64],
    scores: NDArray[np.float64],
    shares: NDArray[np.float64],
    prepared: Prepared,
) -> pd.DataFrame:
    user, place = np.nonzero(merged >= 0)
    items = prepared.corpus.items
    item_numbers = merged[user, place]
    table: dict[str, Any] = {
        Columns.User: np.asarray(names, dtype=object)[user],
        "rank": (place + 1).astype(np.int32),
        Columns.Item: items[Columns.Token].to_numpy(object)[item_numbers],
        Columns.Title: items[Columns.Title].to_numpy(object)[item_numbers],
        Columns.Score: scores[user, place],
    }
    return pd.DataFrame(
        table | {f"from_{name}": shares[user, place, index] for index, name in enumerate(prepared.recallers)}
    )


def stored_weights(folder: Path, recallers: tuple[str, ...], method: str = FOCUS) -> NDArray[np.float64]:
    """Returns the weights (T, M) of a method on the test windows, as the stage `test` stored them.

    Args:
        folder: Of the stage `test`.
        recallers: The M names, in order.
        method: Its key in the table.

    Raises:
        CandidateError: They are of another list of recallers.
        PolicyError: There is no such method.
    """
    table = pd.read_parquet(folder / WEIGHTS)
    stored = tuple(str(name) for name in table.columns if name not in ("method", Columns.Window))
    if stored != recallers:
        raise CandidateError(
            f"policy outputs over {', '.join(stored)}",
            f"the candidate lists are of {', '.join(recallers)}, in that order",
            "Name the run of one whole pipeline",
            code="CANDIDATE-015",
        )
    rows = table[table["method"] == method]
    if not len(rows):
        raise PolicyError(
            f"method '{method}'", "The run stored no weights of it", "Name a run that tested it", code="POLICY-027"
        )
    return rows[list(recallers)].to_numpy(np.float64)
