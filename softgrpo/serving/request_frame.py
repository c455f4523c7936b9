"""A table of candidates as requests: one row for each request, recaller and item, and what is known of who asks.

Columns `request`, `recaller`, `item`, `score`; a list without items has one row with neither item nor score. The rest may be left
out and counts where it first has a value: `history` (item ids, oldest first), `history_titles` and `history_times` of the same
length, `user_<field>`, and by recaller `record_ndcg`, `record_rank`, `record_windows`. Legend: B requests, M recallers, D depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists
from softgrpo.errors import CandidateError
from softgrpo.recallers.candidates import NO_ITEM
from softgrpo.serving.requests import Requests, TrackRecord

REQUEST, RECALLER = "request", "recaller"
NEEDED = (REQUEST, RECALLER, Columns.Item, Columns.Score)
HISTORY, TITLES, TIMES = "history", "history_titles", "history_times"
NDCG, RANK, WINDOWS = "record_ndcg", "record_rank", "record_windows"
USER = "user_"
"""Begins the columns of a user's fields."""


@dataclass(frozen=True)
class Asked:
    """Requests from a table.

    Attributes:
        names: Of the B requests, in the order in which they first occur.
        requests: The requests; items that the run does not know have the ids after its own.
    """

    names: tuple[str, ...]
    requests: Requests


@dataclass(frozen=True)
class FrameReader:
    """Reads tables of candidates.

    Attributes:
        items: All items of the run, see `Corpus.items`.
        fields: Names of the users' fields.
        recallers: The M names.
        depth: Most items of a list, `recall.depth`.
    """

    items: pd.DataFrame
    fields: tuple[str, ...]
    recallers: tuple[str, ...]
    depth: int

    def __call__(self, frame: pd.DataFrame) -> Asked:
        """Returns the requests of a table.

        Raises:
            CandidateError: The table does not hold what it must.
        """
        check_frame(frame, self.recallers)
        request, found = pd.factorize(frame[REQUEST].astype(str))
        names = tuple(map(str, found))
        first = _first_values(frame.drop(columns=[*NEEDED[1:]]), request)
        histories, titles = _column(first, HISTORY), _column(first, TITLES)
        _check_titles(names, histories, titles)
        items, ids = self._with_new_items(frame, histories, titles)
        lists = self._lists(frame, request, len(names), ids)
        known, times = _histories(names, histories, _column(first, TIMES), ids)
        _check_new(names, lists, known, items)
        users = pd.DataFrame({Columns.Token: names})
        for field in self.fields:
            users[field] = ["" if _missing(value) else str(value) for value in _column(first, USER + field)]
        record = self._record(frame, request, len(names))
        return Asked(names, Requests.of(items, users, known, times, lists, record))

    def _with_new_items(
        self, frame: pd.DataFrame, histories: Sequence[Any], titles: Sequence[Any]
    ) -> tuple[pd.DataFrame, pd.Index]:
        """Returns the items of the run and those that it does not know, and their tokens as an index."""
        called = dict(
            pair
            for history, words in zip(histories, titles, strict=True)
            if not _missing(history) and not _missing(words)
            for pair in zip(map(str, history), map(str, words), strict=True)
        )
        mentioned = [*frame[Columns.Item].dropna().astype(str)]
        mentioned += [str(item) for history in histories if not _missing(history) for item in history]
        known = pd.Index(self.items[Columns.Token])
        new = pd.Index(list(dict.fromkeys(mentioned))).difference(known, sort=False)
        if not len(new):
            return self.items, known
        added = pd.DataFrame({Columns.Token: new, Columns.Title: [called.get(item, "") for item in new]})
        return pd.concat([self.items, added], ignore_index=True).fillna(""), known.append(new)

    def _lists(self, frame: pd.DataFrame, request: NDArray[np.int64], count: int, ids: pd.Index) -> CandidateLists:
        """Returns the candidate lists: the best score first, ties by item id."""
        recaller = pd.Index(self.recallers).get_indexer(pd.Index(frame[RECALLER].astype(str)))
        there = np.zeros((count, len(self.recallers)), dtype=bool)
        there[request, recaller] = True
        _check_all_there(frame, request, there, self.recallers)
        filled = frame[Columns.Item].notna().to_numpy()
        item = ids.get_indexer(pd.Index(frame[Columns.Item].astype(str)))[filled]
        score = frame[Columns.Score].to_numpy(np.float64)[filled].astype(np.float32)
        row, column = request[filled], recaller[filled]
        order = np.lexsort((item, -score, column, row))
        place = _check_lists(frame[filled], row, column, item, order, self.depth)
        row, column, item, score = row[order], column[order], item[order], score[order]
        items = np.full((count, len(self.recallers), self.depth), NO_ITEM, dtype=np.int32)
        scores = np.full(items.shape, np.nan, dtype=np.float32)
        items[row, column, place], scores[row, column, place] = item, score
        return CandidateLists(self.recallers, items, scores)

    def _record(self, frame: pd.DataFrame, request: NDArray[np.int64], count: int) -> TrackRecord | None:
        """Returns the track records; None where the table has none."""
        if WINDOWS not in frame:
            return None
        pair = [request, frame[RECALLER].astype(str).to_numpy()]
        values = frame.reindex(columns=[NDCG, RANK, WINDOWS]).astype(float).groupby(pair).first()
        grid = values.reindex(pd.MultiIndex.from_product([range(count), self.recallers]))
        ndcg, rank, windows = (grid[name].to_numpy(np.float32).reshape(count, -1) for name in (NDCG, RANK, WINDOWS))
        return ndcg, rank, np.nan_to_num(windows).max(1)


def check_frame(frame: pd.DataFrame, recallers: Sequence[str]) -> None:
    """Checks the columns, recallers and scores of a table.

    Raises:
        CandidateError: They are not what they must be.
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing or not len(frame):
        received = f"a table without {', '.join(missing)}" if missing else "a table without rows"
        rule = f"A request has a row for each candidate, with {', '.join(NEEDED)}"
        raise CandidateError(received, rule, "Add what is missing", code="CANDIDATE-018")
    if frame[[REQUEST, RECALLER]].isna().any(axis=None):
        raise CandidateError(
            "a row without request or recaller",
            "Each row says whose candidate it is",
            "Name both in each row",
            code="CANDIDATE-019",
        )
    unknown = sorted(set(frame[RECALLER].astype(str)) - set(recallers))
    if unknown:
        raise CandidateError(
            f"recaller {', '.join(unknown)}",
            f"This model weighs {', '.join(recallers)}",
            "Leave its rows out, or ask a model that was trained with it",
            code="CANDIDATE-020",
        )
    listed = frame[Columns.Item].notna().to_numpy()
    score = frame[Columns.Score].to_numpy(np.float64, na_value=np.nan)
    wrong = np.flatnonzero(listed & ~np.isfinite(score))
    if len(wrong):
        row = frame.iloc[wrong[0]]
        raise CandidateError(
            f"score {score[wrong[0]]} of item '{row[Columns.Item]}' by {row[RECALLER]} in request '{row[REQUEST]}'",
            "Each candidate has a finite score",
            "Give its score, or leave the candidate out",
            code="CANDIDATE-021",
        )


def _check_all_there(
    frame: pd.DataFrame, request: NDArray[np.int64], there: NDArray[np.bool_], recallers: Sequence[str]
) -> None:
    """Checks that each request says something of each recaller."""
    absent = np.argwhere(~there)
    if len(absent):
        name = frame[REQUEST].iloc[int(np.flatnonzero(request == absent[0, 0])[0])]
        raise CandidateError(
            f"request '{name}' without {recallers[absent[0, 1]]}",
            f"Each request has the lists of {', '.join(recallers)}",
            "Add its candidates; of an empty list one row with the recaller, and neither item nor score",
            code="CANDIDATE-022",
        )


def _check_lists(
    frame: pd.DataFrame,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    item: NDArray[np.int64],
    order: NDArray[np.int64],
    depth: int,
) -> NDArray[np.int64]:
    """Checks that no list has an item twice, or more items than those that the run was trained on.

    Args:
        frame: The candidates.
        row: Request of each.
        column: Recaller of each.
        item: Id of each.
        order: Of the candidates by request, recaller and place.
        depth: Most items of a list.

    Returns:
        The places in the lists, in that order.
    """
    same = np.lexsort((item, column, row))
    twice = np.flatnonzero(~np.diff(np.stack([row, column, item])[:, same]).any(0))
    if len(twice):
        first = frame.iloc[int(same[twice[0]])]
        raise CandidateError(
            f"item '{first[Columns.Item]}' twice in the list of {first[RECALLER]} in request '{first[REQUEST]}'",
            "A list has each item once",
            "Keep the one with the better score",
            code="CANDIDATE-023",
        )
    start = np.flatnonzero(np.append(True, np.diff(np.stack([row, column])[:, order]).any(0)))[: len(order)]
    lengths = np.diff(np.append(start, len(order)))
    if len(lengths) and lengths.max() > depth:
        first = frame.iloc[int(order[start[lengths.argmax()]])]
        raise CandidateError(
            f"{lengths.max():,} candidates of {first[RECALLER]} in request '{first[REQUEST]}'",
            f"This model was trained on lists of at most {depth:,}",
            f"Send the best {depth:,}",
            code="CANDIDATE-024",
        )
    return np.arange(len(order)) - np.repeat(start, lengths)


def _check_new(
    names: Sequence[str], lists: CandidateLists, histories: Sequence[NDArray[np.int32]], items: pd.DataFrame
) -> None:
    """Checks that no candidate is in the history, as none was in training."""
    for request, history in enumerate(histories):
        seen = np.intersect1d(lists.items[request], history)
        if len(seen):
            raise CandidateError(
                f"candidate '{items[Columns.Token].iloc[int(seen[0])]}' of request '{names[request]}' in its history",
                "A candidate is new to who asks, as in training",
                "Take the items of the history out of the lists",
                code="CANDIDATE-025",
            )


def _histories(
    names: Sequence[str], histories: Sequence[Any], times: Sequence[Any], ids: pd.Index
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.float64]]]:
    """Returns item ids and times of each history; of a repeated item the first time counts, as in the run's data."""
    known, at = [], []
    for name, history, moments in zip(names, histories, times, strict=True):
        tokens = [] if _missing(history) else [str(item) for item in history]
        clock = np.full(len(tokens), np.nan) if _missing(moments) else np.asarray(moments, dtype=np.float64)
        if len(clock) != len(tokens):
            raise _wrong_length(name, len(clock), "times", len(tokens))
        if not np.isnan(clock).all() and not (np.isfinite(clock).all() and (np.diff(clock) >= 0).all()):
            raise CandidateError(
                f"request '{name}' with the times {', '.join(f'{time:g}' for time in clock)}",
                "Times are finite numbers, from the oldest item of the history to the newest",
                "Sort the history by time, or leave the times out",
                code="CANDIDATE-026",
            )
        first = np.sort(np.unique(tokens, return_index=True)[1]) if tokens else np.empty(0, dtype=np.int64)
        known.append(ids.get_indexer(pd.Index(tokens, dtype=object))[first].astype(np.int32))
        at.append(clock[first])
    return known, at


def _check_titles(names: Sequence[str], histories: Sequence[Any], titles: Sequence[Any]) -> None:
    """Checks that each history has as many titles as items, or none."""
    for name, history, words in zip(names, histories, titles, strict=True):
        items = 0 if _missing(history) else len(history)
        if not _missing(words) and len(words) != items:
            raise _wrong_length(name, len(words), "titles", items)


def _wrong_length(name: str, given: int, what: str, items: int) -> CandidateError:
    return CandidateError(
        f"request '{name}' with {given} {what} for {items} items of history",
        f"Each item of a history has its own, or there are no {what}",
        "Give as many as items, or leave them out",
        code="CANDIDATE-027",
    )


def _first_values(frame: pd.DataFrame, request: NDArray[np.int64]) -> pd.DataFrame:
    """Returns each request's first value of each column."""
    return frame.groupby(request).first()


def _column(first: pd.DataFrame, name: str) -> list[Any]:
    return first[name].tolist() if name in first else [None] * len(first)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA
