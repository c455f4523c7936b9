"""Whether candidate lists are what they have to be. Legend: W windows, M recallers, D depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import CandidateError, LeakageError
from softgrpo.recallers.candidates import NO_ITEM, REBUILD


def check_candidates(
    lists: CandidateLists, corpus: Corpus, windows: Windows, positions: Positions | None = None, before: int = 0
) -> None:
    """Checks that lists are what they have to be.

    Args:
        lists: The lists.
        corpus: All interactions.
        windows: The windows that they are for.
        positions: Of the corpus, where they are known already.
        before: How many windows come before these, whose numbers messages tell.

    Raises:
        CandidateError: The lists are of another shape, or one has a gap, an item that does not exist, a repeated item, a
            score that is not finite, or scores that rise.
        LeakageError: A list holds an item of the window's history.
    """
    expected = (len(windows), len(lists.recallers), lists.depth)
    if lists.items.shape != expected or lists.scores.shape != expected:
        received = f"Candidate lists of shape {lists.items.shape} and {lists.scores.shape}"
        raise CandidateError(
            received, f"The shape is (windows, recallers, depth) = {expected}", REBUILD, code="CANDIDATE-008"
        )
    position = positions or Positions(corpus)
    for number, name in enumerate(lists.recallers):
        items, scores = lists.items[:, number], lists.scores[:, number]
        filled = items != NO_ITEM

        def refuse(wrong: NDArray[np.bool_], what: str, rule: str, name: str = name) -> None:
            if wrong.any():
                window = before + int(np.argwhere(wrong)[0, 0])
                raise CandidateError(
                    f"The list of {name} for window {window} {what}", rule, REBUILD, code="CANDIDATE-009"
                )

        refuse(filled[:, 1:] & ~filled[:, :-1], "has an empty place before its end", "A list has no gaps")
        refuse(filled != ~np.isnan(scores), "has an item without a score, or a score without one", "They go together")
        wrong = filled & ((items < 0) | (items >= corpus.num_items))
        refuse(wrong, "holds an item that does not exist", f"Items are 0..{corpus.num_items - 1}")
        refuse(filled & ~np.isfinite(scores) & ~np.isnan(scores), "has an infinite score", "Scores are finite")
        refuse(filled[:, 1:] & (scores[:, 1:] > scores[:, :-1]), "has scores that rise", "The best item comes first")
        ordered = np.sort(np.where(filled, items, -1 - np.arange(lists.depth)), axis=1)
        refuse(ordered[:, 1:] == ordered[:, :-1], "holds an item twice", "An item appears once")
        seen = position(np.broadcast_to(windows.user[:, None], items.shape)[filled], items[filled])
        leaked = np.zeros_like(filled)
        leaked[filled] = seen < np.broadcast_to(windows.start[:, None], items.shape)[filled]
        if leaked.any():
            window = before + int(np.argwhere(leaked)[0, 0])
            received = f"The list of {name} for window {window} holds an item of the window's history"
            raise LeakageError(received, "Candidates are unseen items", REBUILD, code="LEAKAGE-004")


class Positions:
    """Looks up the place of (user, item) pairs in the users' sequences; beyond every sequence for pairs that are not there.

    What is held grows with the sequences of the users between the first and the last one of a call, and is kept for the next call.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._learn(slice(0, 0))

    def _learn(self, users: slice) -> None:
        corpus = self._corpus
        rows = slice(int(corpus.offsets[users.start]), int(corpus.offsets[users.stop]))
        keys = corpus.user[rows].astype(np.int64) * corpus.num_items + corpus.item[rows]
        order = np.argsort(keys, kind="stable")  # of repeated pairs the first comes first
        self._users, self._keys = users, keys[order]
        self._place = (np.arange(rows.start, rows.stop) - corpus.offsets[corpus.user[rows]])[order]

    def __call__(self, users: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.int64]:
        place = np.full(len(users), np.iinfo(np.int64).max)
        if not len(users):
            return place
        low, behind = int(users.min()), int(users.max()) + 1
        if low < self._users.start or behind > self._users.stop:
            self._learn(slice(low, behind))
        keys = users.astype(np.int64) * self._corpus.num_items + items
        nearest = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = self._keys[nearest] == keys
        place[there] = self._place[nearest[there]]
        return place
