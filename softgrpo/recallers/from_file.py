"""Recallers from elsewhere: a Parquet file with one row per user, window and item becomes candidate lists.

A window is named by its user and by how many of the user's items come before it, so that a file written for another split or
another filter is noticed. Everything about a file is checked, and every problem is told with its rows.
Legend: N rows, W windows, D depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import CandidateError
from softgrpo.recallers.candidate_checks import Positions
from softgrpo.recallers.candidates import NO_ITEM
from softgrpo.recallers.list_parts import ABSENT, NULL, PART_ROWS, Ids, Known, ids_of, parts_of, plain, windows_of
from softgrpo.recallers.list_tables import DOCUMENT, SCHEMA, open_file

SHOWN = 3
"""Rows named for each problem."""
EXACT = 2**53
"""Whole numbers from here on are not told apart as scores."""
NO_SCORE, TOO_LARGE = (
    "not a finite number",
    "missing, or a whole number of 2^53 or more, which float64 does not tell apart",
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Rows:
    """A file with its names replaced by numbers.

    Attributes:
        table: Some rows of the file, for messages.
        row: (N,) their numbers in the file.
        user: (N,) user id, -1 where unknown, -2 where missing.
        item: (N,) item id, likewise.
        window: (N,) number of the window, -1 where the user has no such window.
        score: (N,) float64, NaN where missing; infinite what float32 cannot hold, and whole numbers of 2^53 and more.
    """

    table: pa.Table
    row: Ids
    user: Ids
    item: Ids
    window: Ids
    score: NDArray[np.float64]

    @property
    def wrong_score(self) -> str:
        """Returns what an infinite score or a missing one is in the file."""
        return TOO_LARGE if pa.types.is_integer(plain(self.table[Columns.Score]).type) else NO_SCORE

    def first(self, mask: Mask) -> list[tuple[int, str]]:
        """Returns the numbers of the first rows of a mask, and each row in words."""
        shown = []
        for place in np.flatnonzero(mask)[:SHOWN]:
            values = {name: self.table[name][int(place)].as_py() for name in SCHEMA}
            words = ", ".join(f"{name} {value!r}" for name, value in values.items())
            shown.append((int(self.row[place]), f"row {self.row[place]} ({words})"))
        return shown


@dataclass
class _Problems:
    """What is wrong with a file, as far as it was read.

    Attributes:
        counts: Of each problem: rows.
        first: Of each problem: its first rows, by number.
        missing: Windows without a row.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    missing: list[Ids] = field(default_factory=list)

    def add(self, rows: _Rows, corpus: Corpus, windows: Windows, part: slice, positions: Positions) -> None:
        """Looks at the rows of some windows."""
        for what, mask in _wrong_rows(rows, corpus, windows, part, positions).items():
            self.counts[what] += int(mask.sum())
            self.first[what] = sorted(self.first.get(what, []) + rows.first(mask))[:SHOWN]
        self.missing.append(np.setdiff1d(np.arange(part.start, part.stop), rows.window))

    def __bool__(self) -> bool:
        return any(self.counts.values()) or any(len(each) for each in self.missing)

    def told(self, corpus: Corpus, windows: Windows) -> list[str]:
        """Returns each problem in words."""
        lines = []
        for what, number in self.counts.items():
            more = f"; and {number - SHOWN} more" if number > SHOWN else ""
            if number:
                lines.append(f"{count(number)}{what}: {'; '.join(words for _, words in self.first[what])}{more}")
        missing = np.concatenate(self.missing)
        return [*lines, _missing(missing, corpus, windows)] if len(missing) else lines


def read_lists(path: Path, name: str, corpus: Corpus, windows: Windows, depth: int) -> CandidateLists:
    """Reads the lists of a recaller from elsewhere.

    Args:
        path: A Parquet file with the columns user, window, item and score; a row with neither item nor score says that the
            recaller has nothing for that window.
        name: What the recaller is called.
        corpus: Its users and items are the ones that the file may name.
        windows: The windows that the file must cover, each exactly.
        depth: D; of longer lists the best items are kept. Equal scores go to the item whose name comes first.

    Raises:
        CandidateError: The file is missing, of another schema, or has rows that cannot be right; all problems are listed.
    """
    parts = list(read_parts(path, name, corpus, windows, depth))
    return CandidateLists(
        (name,), np.concatenate([part.items for part in parts]), np.concatenate([part.scores for part in parts])
    )


def read_parts(
    path: Path,
    name: str,
    corpus: Corpus,
    windows: Windows,
    depth: int,
    positions: Positions | None = None,
    most: int | None = None,
) -> Iterator[CandidateLists]:
    """Gives what `read_lists` returns, some windows at a time, in their order; problems are told when all was read.

    What is held at a time does not grow with the file if its rows come roughly in the order of the windows; else the file is read
    once for each part.

    Args:
        path: See `read_lists`.
        name: See `read_lists`.
        corpus: See `read_lists`.
        windows: See `read_lists`.
        depth: See `read_lists`.
        positions: Of the corpus, where somebody else looks them up too.
        most: Rows that are held at a time, where `BLOCK` windows have no more; None takes `PART_ROWS`.

    Raises:
        CandidateError: See `read_lists`.
    """
    file = open_file(path, name, len(windows) * (corpus.num_items + 1))
    problems, known, places = _Problems(), Known.of(corpus, windows), positions or Positions(corpus)
    for part, table, row in parts_of(file, known, PART_ROWS if most is None else most):
        rows = _numbered(table, row, known)
        problems.add(rows, corpus, windows, part, places)
        if not problems:
            yield _as_lists(rows, name, part, depth)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems.told(corpus, windows))
        raise CandidateError(
            f"{path} (recaller {name})", f"Its rows break these rules:{lines}", f"\n{DOCUMENT}", code="CANDIDATE-010"
        )


def count(number: int) -> str:
    """Returns `1 row ` or `N rows `."""
    return f"{number:,} row{'' if number == 1 else 's'} "


def _numbered(table: pa.Table, row: Ids, known: Known) -> _Rows:
    given = plain(table[Columns.Score])
    score = pc.fill_null(given.cast(pa.float64(), safe=False), np.nan).to_numpy()
    score = np.where(np.abs(score) > np.finfo(np.float32).max, np.copysign(np.inf, score), score)  # lists hold float32
    if pa.types.is_integer(given.type):
        score = np.where(np.abs(score) >= EXACT, np.inf, score)
    user, item = ids_of(table[Columns.User], known.users), ids_of(table[Columns.Item], known.items)
    return _Rows(table, row, user, item, windows_of(table, known), score)


def _wrong_rows(rows: _Rows, corpus: Corpus, windows: Windows, part: slice, positions: Positions) -> dict[str, Mask]:
    """Returns the rows that have each problem, in the order in which problems are told."""
    empty = (rows.item == NULL) & np.isnan(rows.score)
    placed, listed = rows.window >= 0, rows.item >= 0
    seen = np.zeros(len(placed), dtype=np.bool_)
    both = placed & listed
    window = rows.window[both]
    seen[both] = positions(windows.user[window], rows.item[both].astype(np.int32)) < windows.start[window]
    repeated = np.zeros_like(seen)
    repeated[both] = pd.Series(window * corpus.num_items + rows.item[both]).duplicated().to_numpy()
    crowded = (
        np.bincount(rows.window[placed] - part.start, minlength=1)[np.maximum(rows.window - part.start, 0)] > 1
    )  # means nothing where not placed
    return {
        "with a user that is not in the filtered data": rows.user < 0,
        "with a window that the user does not have": (rows.user >= 0) & ~placed,
        "with an item that is not in the filtered data": rows.item == ABSENT,
        "with a score but no item": (rows.item == NULL) & ~empty,
        f"with an item whose score is {rows.wrong_score}": (rows.item != NULL) & ~np.isfinite(rows.score),
        "without an item, beside others of the same window": empty & placed & crowded,
        "with the same user, window and item as an earlier one": repeated,
        "with an item that is already in the window's history": seen,
    }


def _missing(missing: Ids, corpus: Corpus, windows: Windows) -> str:
    tokens = corpus.users[Columns.Token]
    shown = [f"user {tokens[windows.user[one]]!r}, window {windows.start[one]}" for one in missing[:SHOWN]]
    more = f"; and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
    return f"{len(missing):,} of {len(windows):,} windows have no row: {'; '.join(shown)}{more}"


def _as_lists(rows: _Rows, name: str, part: slice, depth: int) -> CandidateLists:
    """Returns the best items of each window of a range, descending as the file has it; rows without an item make an empty list."""
    kept = rows.item >= 0
    window, item, score = rows.window[kept] - part.start, rows.item[kept], rows.score[kept]
    order = np.lexsort((item, -score, window))
    window, item, score = window[order], item[order], score[order]
    rank = np.arange(len(window)) - np.searchsorted(window, window)
    top = rank < depth
    shape = (part.stop - part.start, 1, depth)
    items, scores = np.full(shape, NO_ITEM, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32)
    items[window[top], 0, rank[top]], scores[window[top], 0, rank[top]] = item[top], score[top]
    return CandidateLists((name,), items, scores)
