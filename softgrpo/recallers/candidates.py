"""What a trained recaller can do, and its candidate lists: the best unseen items per window, stored as one Parquet file.

Legend: W windows, M recallers, D depth, B windows of a batch, I items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import CandidateError
from softgrpo.recallers.best_items import mask_history, top_items
from softgrpo.reporting import ProgressBar

NO_ITEM = -1
META = b"softgrpo.recallers.candidates"
BLOCK = 4096
"""Windows in a row group of a file, and read at a time by those who read all."""
_MOST_ENTRIES = 2**31 - 1
"""Entries of all lists that offsets of 32 bits can count; files with more have offsets of 64 bits."""
REBUILD = "Run the recall stage again"
STORED = "Candidate lists are a Parquet file that the recall stage writes"


class Scorer(Protocol):
    """What lists are made of. Legend: B windows, I items of the corpus."""

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Scores every item of the corpus for B users.

        Args:
            users: (B,) user ids; -1 is a user that is not in the corpus, about whom there is nothing but the history.
            histories: B arrays of item ids, oldest first: everything before the window.

        Returns:
            (B, I) float32 in a new tensor, which the caller may change; higher is better; -inf for items that the recaller knows
            nothing of, such as those it was never trained on, and in the whole row of a user about whom it knows nothing.

        Raises:
            RecallerError: A score is NaN or infinite.
        """


class RecallerModel(Scorer, Protocol):
    """A trained recaller."""

    @property
    def name(self) -> str:
        """RecBole's name of the model."""

    @property
    def trained(self) -> NDArray[np.bool_]:
        """(I,) items that its training data hold."""

    def save(self, folder: Path) -> None:
        """Writes the recaller into a folder (safetensors and JSON)."""


def build_candidates(
    model: Scorer, corpus: Corpus, windows: Windows, depth: int, batch_size: int, progress_label: str = ""
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Returns the top `depth` unseen items of every window.

    Only finite scores make candidates and nothing of the window's history does; equal scores are ordered by item id.

    Args:
        model: Scores all items.
        corpus: All interactions.
        windows: The windows, whose histories are the input and the mask.
        depth: D.
        batch_size: Windows scored at a time.
        progress_label: Text before the progress bar; without one there is no bar.

    Returns:
        Items (W, D), -1 behind a shorter list, and scores (W, D), NaN there.
    """
    items = np.full((len(windows), depth), NO_ITEM, dtype=np.int32)
    scores = np.full((len(windows), depth), np.nan, dtype=np.float32)
    with ProgressBar(
        total=len(windows), desc=progress_label, unit="window", mininterval=0.5, disable=not progress_label
    ) as bar:
        for first in range(0, len(windows), batch_size):
            rows = slice(first, min(first + batch_size, len(windows)))
            users = windows.user[rows].astype(np.int64)
            histories = [corpus.sequence(u)[:start] for u, start in zip(users, windows.start[rows], strict=True)]
            items[rows], scores[rows] = unseen_items(model, users, histories, depth)
            bar.update(len(users))
    return items, scores


def unseen_items(
    model: Scorer, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]], depth: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Returns the top `depth` items that are not in the histories, as `build_candidates` does.

    Args:
        model: Scores all items.
        users: (B,) user ids, -1 for a user that is not in the corpus.
        histories: B arrays of item ids, oldest first.
        depth: D.

    Returns:
        Items (B, D), -1 behind a shorter list, and scores (B, D), NaN there.
    """
    items = np.full((len(users), depth), NO_ITEM, dtype=np.int32)
    scores = np.full((len(users), depth), np.nan, dtype=np.float32)
    values = model.score(users, histories)
    mask_history(values, histories)
    best, order = top_items(values, depth)
    width = best.shape[1]
    retrieved = torch.isfinite(best)
    items[:, :width] = torch.where(retrieved, order, NO_ITEM).cpu().numpy()
    scores[:, :width] = torch.where(retrieved, best, torch.nan).cpu().numpy()
    return items, scores


def lists_table(lists: CandidateLists, first: int = 0) -> pa.Table:
    """Returns lists as files hold them: a row per (window, recaller), and no padding.

    Args:
        lists: Of W windows.
        first: Number of the first of them.
    """
    count, pool, depth = lists.items.shape
    lengths = (lists.items != NO_ITEM).sum(axis=2)
    filled = np.arange(depth) < lengths[:, :, None]
    ends = np.concatenate([[0], np.cumsum(lengths.ravel())])
    few = ends[-1] <= _MOST_ENTRIES  # which keeps the bytes of files that need no more
    offsets, nested = (
        (pa.array(ends, pa.int32()), pa.ListArray) if few else (pa.array(ends, pa.int64()), pa.LargeListArray)
    )
    codes = pa.array(np.tile(np.arange(pool, dtype=np.int8), count))
    return pa.table(
        {
            Columns.Window: pa.array(np.repeat(np.arange(first, first + count, dtype=np.int32), pool)),
            Columns.Recaller: pa.DictionaryArray.from_arrays(codes, pa.array(lists.recallers, pa.string())),
            Columns.Items: nested.from_arrays(offsets, pa.array(lists.items[filled])),
            Columns.Scores: nested.from_arrays(offsets, pa.array(lists.scores[filled])),
        }
    )


def stored_meta(path: Path) -> dict[str, Any]:
    """Returns what a file says of its lists: recallers, depth and windows."""
    with readable(path):
        meta = (pq.read_schema(path).metadata or {}).get(META)
    if meta is None:
        raise CandidateError(f"{path} holds something else", STORED, REBUILD, code="CANDIDATE-006")
    stored: dict[str, Any] = json.loads(meta)
    return stored


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what a missing or damaged file raises into an error for people."""
    try:
        yield
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CandidateError(f"{path} cannot be read ({error})", STORED, REBUILD, code="CANDIDATE-005") from error
