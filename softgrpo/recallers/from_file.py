"""Recallers from elsewhere: a Parquet file with one row per user, window and item becomes candidate lists.

A window is named by its user and by how many of the user's items come before it, so that a file written for another split or
another filter is noticed. Everything about a file is checked, and every problem is told with its rows.
Legend: N rows, W windows, D depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.common.text import one_line
from softgrpo.errors import CandidateError
from softgrpo.recallers.candidate_checks import Positions
from softgrpo.recallers.candidates import NO_ITEM

SCHEMA = {
    Columns.User: "text or whole numbers",
    Columns.Window: "whole numbers",
    Columns.Item: "text or whole numbers",
    Columns.Score: "numbers",
}
SHOWN = 3
"""Rows named for each problem."""
EXACT = 2**53
"""Whole numbers from here on are not told apart as scores."""
NO_SCORE, TOO_LARGE = (
    "not a finite number",
    "missing, or a whole number of 2^53 or more, which float64 does not tell apart",
)
_DOCUMENT = "docs/own-recaller.md has the schema; `softgrpo windows` exports the windows to score"
_ABSENT = -1
_NULL = -2

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Rows:
    """A file with its names replaced by numbers.

    Attributes:
        table: The file, for messages.
        user: (N,) user id, -1 where unknown, -2 where missing.
        item: (N,) item id, likewise.
        window: (N,) number of the window, -1 where the user has no such window.
        score: (N,) float64, NaN where missing; infinite what float32 cannot hold, and whole numbers of 2^53 and more.
    """

    table: pa.Table
    user: Ids
    item: Ids
    window: Ids
    score: NDArray[np.float64]

    @property
    def wrong_score(self) -> str:
        """Returns what an infinite score or a missing one is in the file."""
        return TOO_LARGE if pa.types.is_integer(_plain(self.table[Columns.Score]).type) else NO_SCORE

    def named(self, mask: Mask) -> str:
        """Returns the first rows of a mask, in words."""
        rows = np.flatnonzero(mask)
        shown = []
        for row in rows[:SHOWN]:
            values = {name: self.table[name][int(row)].as_py() for name in SCHEMA}
            shown.append(f"row {row} ({', '.join(f'{name} {value!r}' for name, value in values.items())})")
        return "; ".join(shown) + (f"; and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


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
    most = len(windows) * (corpus.num_items + 1)
    rows = _numbered(_read(path, name, most), corpus, windows)
    problems = [f"{count(mask)}{what}: {rows.named(mask)}" for what, mask in _wrong_rows(rows, corpus, windows)]
    missing = np.setdiff1d(np.arange(len(windows)), rows.window)
    if len(missing):
        problems.append(_missing(missing, corpus, windows))
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise CandidateError(
            f"{path} (recaller {name})", f"Its rows break these rules:{lines}", f"\n{_DOCUMENT}", code="CANDIDATE-010"
        )
    return _as_lists(rows, name, len(windows), depth)


def count(mask: Mask) -> str:
    """Returns `1 row ` or `N rows `."""
    number = int(mask.sum())
    return f"{number:,} row{'' if number == 1 else 's'} "


def _read(path: Path, name: str, most: int) -> pa.Table:
    """Returns the columns of a file, texts as dictionaries, so that a name takes its room once.

    Args:
        path: The file.
        name: What the recaller is called.
        most: Rows that it may have.

    Raises:
        CandidateError: It is no Parquet file, of another schema, too long, or damaged.
    """
    if not path.is_file():
        raise CandidateError(
            f"{path} (recaller {name})", "There is no such file", "Correct recall.files", code="CANDIDATE-011"
        )
    try:
        columns = pq.read_schema(path)
        wrong = _wrong_columns(columns)
        if wrong:
            rule = f"It has the columns {', '.join(SCHEMA)}"
            raise CandidateError(f"{path} (recaller {name}): {'; '.join(wrong)}", rule, _DOCUMENT, code="CANDIDATE-012")
        texts = [column for column in SCHEMA if _is_text(columns.field(column).type)]
        with pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
            if file.metadata.num_rows > most:
                raise CandidateError(
                    f"{path} (recaller {name}) has {file.metadata.num_rows:,} rows",
                    f"Each window of the split lists each item once at most, which makes {most:,} rows",
                    _DOCUMENT,
                    code="CANDIDATE-013",
                )
            table = file.read(columns=list(SCHEMA))
        table.validate(full=True)  # texts are UTF-8, and numbers of names are within their dictionaries
        return table.unify_dictionaries().combine_chunks()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        raise CandidateError(
            f"{path} (recaller {name}) cannot be read: {one_line(str(error))}",
            "It must be a Parquet file, and a whole one",
            f"Write or copy it again. {_DOCUMENT}",
            code="CANDIDATE-014",
        ) from error


def _wrong_columns(columns: pa.Schema) -> list[str]:
    """Returns what is wrong with each column that is needed."""
    problems = []
    for column, kind in SCHEMA.items():
        places = columns.get_all_field_indices(column)
        if len(places) > 1:
            problems.append(f"column '{column}' is there {len(places)} times, not once")
        elif not places or not _fits(columns.field(places[0]).type, kind):
            problems.append(
                f"column '{column}' is {columns.field(places[0]).type if places else 'missing'}, not {kind}"
            )
    return problems


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fits(kind: pa.DataType, expected: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):  # a column without any value has no type of its own
        return True
    whole = pa.types.is_integer(kind)
    if expected == "numbers":
        return bool(whole or pa.types.is_floating(kind))
    return bool(whole or (expected != "whole numbers" and _is_text(kind)))


def _numbered(table: pa.Table, corpus: Corpus, windows: Windows) -> _Rows:
    user = _ids(table[Columns.User], corpus.users[Columns.Token])
    # unsigned numbers that int64 does not hold become negative, as no number of a window is
    before = pc.fill_null(_plain(table[Columns.Window]).cast(pa.int64(), safe=False), _ABSENT).to_numpy()
    given = _plain(table[Columns.Score])
    score = pc.fill_null(given.cast(pa.float64(), safe=False), np.nan).to_numpy()
    score = np.where(np.abs(score) > np.finfo(np.float32).max, np.copysign(np.inf, score), score)  # lists hold float32
    if pa.types.is_integer(given.type):
        score = np.where(np.abs(score) >= EXACT, np.inf, score)
    return _Rows(
        table, user, _ids(table[Columns.Item], corpus.items[Columns.Token]), _find(user, before, windows), score
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column without a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _ids(column: pa.ChunkedArray, tokens: pd.Series) -> Ids:
    """Returns the number of each name among the tokens; every different name is looked up once."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    text = encoded.combine_chunks()
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    names = text.dictionary.cast(pa.string()).to_pylist()
    known = pd.Index(tokens).get_indexer(names)  # -1 where it is not there
    known = np.where([name is None for name in names], _NULL, known)
    codes = pc.fill_null(text.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    found: Ids = np.append(known, _NULL)[codes].astype(np.int64)
    return found


def _find(user: Ids, before: Ids, windows: Windows) -> Ids:
    """Returns the number of each row's window, -1 where there is none; windows come sorted by (user, start)."""
    size = int(windows.start.max()) + 1
    keys = windows.user.astype(np.int64) * size + windows.start
    possible = (user >= 0) & (before >= 0) & (before < size)
    row_numbers = np.where(possible, user * size + before, _ABSENT)
    place = np.minimum(np.searchsorted(keys, row_numbers), len(keys) - 1)
    return np.where(keys[place] == row_numbers, place, _ABSENT)


def _wrong_rows(rows: _Rows, corpus: Corpus, windows: Windows) -> Iterator[tuple[str, Mask]]:
    """Gives each problem that some rows have, and these rows."""
    empty = (rows.item == _NULL) & np.isnan(rows.score)
    placed, listed = rows.window >= 0, rows.item >= 0
    seen = np.zeros(len(placed), dtype=np.bool_)
    both = placed & listed
    window = rows.window[both]
    seen[both] = Positions(corpus)(windows.user[window], rows.item[both].astype(np.int32)) < windows.start[window]
    repeated = np.zeros_like(seen)
    repeated[both] = pd.Series(window * corpus.num_items + rows.item[both]).duplicated().to_numpy()
    crowded = (
        np.bincount(rows.window[placed], minlength=len(windows))[rows.window] > 1
    )  # means nothing where not placed
    problems = {
        "with a user that is not in the filtered data": rows.user < 0,
        "with a window that the user does not have": (rows.user >= 0) & ~placed,
        "with an item that is not in the filtered data": rows.item == _ABSENT,
        "with a score but no item": (rows.item == _NULL) & ~empty,
        f"with an item whose score is {rows.wrong_score}": (rows.item != _NULL) & ~np.isfinite(rows.score),
        "without an item, beside others of the same window": empty & placed & crowded,
        "with the same user, window and item as an earlier one": repeated,
        "with an item that is already in the window's history": seen,
    }
    yield from ((what, mask) for what, mask in problems.items() if mask.any())


def _missing(missing: Ids, corpus: Corpus, windows: Windows) -> str:
    tokens = corpus.users[Columns.Token]
    shown = [f"user {tokens[windows.user[one]]!r}, window {windows.start[one]}" for one in missing[:SHOWN]]
    more = f"; and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
    return f"{len(missing):,} of {len(windows):,} windows have no row: {'; '.join(shown)}{more}"


def _as_lists(rows: _Rows, name: str, count: int, depth: int) -> CandidateLists:
    """Returns the best items of each window, descending as the file has it; rows without an item make an empty list."""
    kept = rows.item >= 0
    window, item, score = rows.window[kept], rows.item[kept], rows.score[kept]
    order = np.lexsort((item, -score, window))
    window, item, score = window[order], item[order], score[order]
    rank = np.arange(len(window)) - np.searchsorted(window, window)
    top = rank < depth
    items = np.full((count, 1, depth), NO_ITEM, dtype=np.int32)
    scores = np.full((count, 1, depth), np.nan, dtype=np.float32)
    items[window[top], 0, rank[top]], scores[window[top], 0, rank[top]] = item[top], score[top]
    return CandidateLists((name,), items, scores)
