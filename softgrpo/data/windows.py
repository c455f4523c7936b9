"""One leak-free split: cuts per user, windows of targets, and the check that nothing leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.artifacts import WINDOWS
from softgrpo.common.columns import Columns
from softgrpo.common.records import SPLIT_PARTS, Corpus, Part, Windows
from softgrpo.common.training_part import training_rows
from softgrpo.config import SplitConfig
from softgrpo.errors import DataError, LeakageError

Positions = NDArray[np.int64]
CHUNK = 2**16
"""Windows whose targets are looked up at a time."""
LATEST = (Part.RECORD, Part.POLICY)
"""Parts that give their latest windows; the others give their first."""


def _floor(values: NDArray[np.float64]) -> Positions:
    # 0.7 + 0.1 + 0.1 is a little below 0.9 in floating point, and 0.9 * 10 must be 9
    return (values + 1e-9).astype(np.int64)  # shares are not negative: this is the floor


def part_ends(corpus: Corpus, split: SplitConfig) -> Positions:
    """Returns where each user's parts end, (U, 4) int64: recaller, policy, valid, test, as positions in the sequence.

    Raises:
        DataError: global_time without times, or leave_last with a user of fewer than four items.
    """
    lengths = np.diff(corpus.offsets)  # (U,)
    if split.method == "leave_last":
        if lengths.min() < 4:
            raise DataError(
                f"a user with {lengths.min()} items",
                "split.method leave_last needs four per user: one each for recaller, policy, valid and test",
                "Raise data.min_user_items to 4",
                code="DATA-013",
            )
        return lengths[:, None] - np.array([3, 2, 1, 0], dtype=np.int64)
    shares = np.cumsum([split.recaller, split.policy, split.valid])
    if split.method == "ratio":
        return np.column_stack([*(_floor(share * lengths) for share in shares), lengths])
    if np.isnan(corpus.time).any():
        raise DataError(
            "a dataset without times", "split.method global_time cuts by time", "Set data.time_field", code="DATA-014"
        )
    cuts = np.quantile(corpus.time, shares)  # (3,)
    before = corpus.time[:, None] < cuts  # (N, 3); each user's times ascend
    counts = np.add.reduceat(before, corpus.offsets[:-1], axis=0)
    return np.column_stack([counts, lengths])


def make_windows(corpus: Corpus, split: SplitConfig) -> Windows:
    """Cuts every user's sequence and lists the prediction windows.

    A window never crosses the end of its part. Record and policy parts give up to `windows_per_user` consecutive windows, the
    latest; valid and test give the first window of their part. A history holds at least one item.

    Returns:
        Windows sorted by (user, part, start).

    Raises:
        DataError: No user has a window of some part.
    """
    ends = part_ends(corpus, split)
    lengths = np.diff(corpus.offsets)
    held_back = np.minimum(_floor(split.record * lengths), np.maximum(ends[:, 0] - 1, 0))
    train_end = ends[:, 0] - held_back
    starts = np.column_stack([train_end, ends])  # (U, 5): the parts lie between neighbours
    begins, stops = (
        np.maximum(starts[:, :-1], 1),
        starts[:, 1:],
    )  # a window needs a history: a first item is never a target
    counts = np.maximum(-(-(stops - begins) // split.window), 0)  # (U, 4) windows of each part
    kept = np.minimum(counts, [split.windows_per_user if part in LATEST else 1 for part in SPLIT_PARTS])
    skipped = np.where(np.isin(SPLIT_PARTS, LATEST), counts - kept, 0)
    of = np.repeat(np.arange(kept.size), kept.ravel())  # (W,) the user and part of each window
    within = np.arange(len(of)) - np.repeat(np.cumsum(kept) - kept.ravel(), kept.ravel())
    start = begins.ravel()[of] + (skipped.ravel()[of] + within) * split.window
    user, parts = np.divmod(of, len(SPLIT_PARTS))
    for part in (Part.POLICY, Part.VALID, Part.TEST):
        if not (parts == part).any():
            raise DataError(
                f"no user has a {part.name.lower()} window",
                "policy, valid and test need at least one target each",
                "Use split.method leave_last for short histories, or change the shares of the split",
                code="DATA-015",
            )
    return Windows(
        user=user.astype(np.int32),
        part=parts.astype(np.int8),
        start=start.astype(np.int32),
        end=np.minimum(start + split.window, stops.ravel()[of]).astype(np.int32),
        train_end=train_end.astype(np.int32),
    )


def targets_of(corpus: Corpus, windows: Windows) -> NDArray[np.int32]:
    """Returns the target items of every window, (W, T) int32, -1 behind the last target."""
    lengths = windows.end - windows.start
    columns = np.arange(lengths.max(initial=0))
    targets = np.empty((len(windows), len(columns)), dtype=np.int32)
    for first in range(0, len(windows), CHUNK):
        part = slice(first, first + CHUNK)
        at = corpus.offsets[windows.user[part]][:, None] + windows.start[part, None] + columns
        inside = columns < lengths[part, None]
        targets[part] = np.where(inside, corpus.item[np.minimum(at, len(corpus.item) - 1)], -1)
    return targets


def later_training_share(corpus: Corpus, windows: Windows) -> float:
    """Returns the share of the recallers' training interactions that are later than a test window's first target, in [0, 1].

    The interactions of all users count; the share is the mean over test windows. A split per user leaves such interactions in the
    training part, `global_time` does not. NaN where times are missing, or there is no test window or no training interaction.
    """
    rows = windows.of(Part.TEST)
    if not len(rows) or not corpus.is_timed:
        return float("nan")
    first = np.sort(corpus.time[corpus.offsets[windows.user[rows]] + windows.start[rows]])
    trained, not_later = 0, 0  # not_later: pairs of a training interaction and a window that is not before it
    for own in training_rows(corpus, windows):
        trained += len(own)
        not_later += int((len(first) - np.searchsorted(first, np.sort(corpus.time[own]), side="left")).sum())
    return 1 - not_later / len(first) / trained if trained else float("nan")


def history_of(corpus: Corpus, windows: Windows, window: int) -> NDArray[np.int32]:
    """Returns the items before a window in time order, (n,) int32."""
    return corpus.sequence(int(windows.user[window]))[: windows.start[window]]


def tied_target_share(corpus: Corpus, windows: Windows, part: Part | None = None) -> float:
    """Returns the share of targets whose time equals that of another interaction of the same user, in [0, 1].

    The order of such targets is not known from the data. NaN where times are missing, or there is no target.

    Args:
        corpus: All interactions.
        windows: All windows.
        part: Only the targets of this part; None takes those of all windows.
    """
    positions = _target_positions(corpus, windows if part is None else windows.at(windows.of(part)))
    if len(positions) == 0 or not corpus.is_timed:
        return float("nan")
    tied = np.zeros(len(positions), dtype=np.bool_)
    for step in (-1, 1):
        beside = np.clip(positions + step, 0, len(corpus.time) - 1)  # a place beside itself is no other one
        same = (corpus.time[beside] == corpus.time[positions]) & (corpus.user[beside] == corpus.user[positions])
        tied |= same & (beside != positions)
    return float(tied.mean())


def _target_positions(corpus: Corpus, windows: Windows) -> Positions:
    begin = corpus.offsets[windows.user] + windows.start
    lengths = (windows.end - windows.start).astype(np.int64)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions: Positions = np.repeat(begin, lengths) + within
    return positions


def check_no_leak(corpus: Corpus, windows: Windows) -> None:
    """Checks, by pairs of (user, item) and not by positions, that no target is visible where it must not be.

    Raises:
        LeakageError: A target is in the recallers' training input, or two windows share a target.
    """
    pairs = corpus.user.astype(np.int64) * corpus.num_items + corpus.item  # (N,)
    within = np.arange(len(pairs)) - corpus.offsets[corpus.user]
    trained = pairs[within < windows.train_end[corpus.user]]
    targets = pairs[_target_positions(corpus, windows)]
    leaked = pd.Index(targets).isin(trained)
    if leaked.any():
        raise LeakageError(
            f"{int(leaked.sum())} of {len(targets)} targets are in the recallers' training input",
            "recallers train on nothing that later serves as a target",
            "This is a defect of the split: keep the data and report it",
            code="LEAKAGE-001",
        )
    repeated = pd.Index(targets).duplicated()
    if repeated.any():
        raise LeakageError(
            f"{int(repeated.sum())} targets belong to two windows",
            "windows share no target",
            "This is a defect of the split: keep the data and report it",
            code="LEAKAGE-002",
        )


def write_windows(folder: Path, windows: Windows) -> None:
    """Writes `windows.parquet` and `train_end.parquet`."""
    table = {
        Columns.User: windows.user,
        Columns.Part: windows.part,
        Columns.Start: windows.start,
        Columns.End: windows.end,
    }
    pd.DataFrame(table).to_parquet(folder / WINDOWS, index=False)
    pd.DataFrame({Columns.End: windows.train_end}).to_parquet(folder / "train_end.parquet", index=False)


def load_windows(folder: Path) -> Windows:
    """Reads what `write_windows` wrote."""
    table = pd.read_parquet(folder / WINDOWS)
    train_end = pd.read_parquet(folder / "train_end.parquet")
    return Windows(
        user=table[Columns.User].to_numpy(np.int32),
        part=table[Columns.Part].to_numpy(np.int8),
        start=table[Columns.Start].to_numpy(np.int32),
        end=table[Columns.End].to_numpy(np.int32),
        train_end=train_end[Columns.End].to_numpy(np.int32),
    )
