"""Windows are aligned and thinned out a shard at a time, and how large a shard is follows from the memory that a run may take.

No number depends on it. Legend: W windows, M recallers, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.memory import free_bytes
from softgrpo.common.records import LEARNT_FROM, CandidateLists, ListSource, Part, Windows
from softgrpo.config import FusionConfig, LimitsConfig
from softgrpo.errors import MemoryLimitError
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.searched import SearchedLists
from softgrpo.recallers.candidates import BLOCK
from softgrpo.recallers.list_parts import PART_ROWS

GB = 1e9
FREE_SHARE = 0.5
"""Of the free memory, what is taken where the settings say nothing."""
ENTRY_BYTES = 64
"""Of one (recaller, item) pair of a window: place, value, mask and bit sets, and the temporaries of each; an upper estimate."""
TABLE_WINDOWS, TABLE_ENTRY_BYTES = 1024, 10 * ENTRY_BYTES
"""Test windows in a shard at most, and bytes of a pair in one: those of a single shard are kept under every merge."""
HELD_BYTES, HELD_SHARE = 2**27, 0.25
"""Of the lists of all windows where they are kept: at most, and as a share of what the run may take."""
GIVEN_BYTES = 110
"""Of a row of a file of lists while it is read."""
MOST_ENTRIES = 2**18
"""Pairs in a shard at most: larger shards are not faster."""


def memory_bytes(limits: LimitsConfig) -> int:
    """Returns the memory that a run may take, in bytes."""
    return int(FREE_SHARE * free_bytes() if limits.memory_gb is None else limits.memory_gb * GB)


def shard_size(limits: LimitsConfig, recallers: int, depth: int) -> int:
    """Returns how many windows are aligned at a time.

    Args:
        limits: What the run may take.
        recallers: M.
        depth: Length of a candidate list.

    Raises:
        MemoryLimitError: One window takes more than that.
    """
    entries = recallers * recallers * depth  # each list over the union of all lists
    allowed, needed = memory_bytes(limits), entries * ENTRY_BYTES
    if allowed < needed:
        raise MemoryLimitError(
            f"{allowed / GB:.3g} GB for one window of {recallers} lists of {depth}",
            f"it takes {needed / GB:.3g} GB, and at least one window is worked on at a time",
            "Raise limits.memory_gb, or lower recall.depth"
            if limits.memory_gb is not None
            else "End other programs, set limits.memory_gb, or lower recall.depth",
            code="MEMORY-002",
        )
    return min(allowed // needed, max(1, MOST_ENTRIES // entries))


def table_shard_size(limits: LimitsConfig, recallers: int, depth: int) -> int:
    """Returns how many test windows are aligned at a time, under one merge after the other; arguments as of `shard_size`.

    More than in `shard_size`, since all rows of the table look at a shard.

    Raises:
        MemoryLimitError: See `shard_size`.
    """
    fewest = shard_size(limits, recallers, depth)
    return max(fewest, min(TABLE_WINDOWS, memory_bytes(limits) // (recallers * recallers * depth * TABLE_ENTRY_BYTES)))


def seeded_sample(rows: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64]:
    """Returns a seeded sample of rows, ascending; all of them where they are no more than the limit."""
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def learning_windows(windows: Windows, limit: int | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the windows that anything is learnt from, and those that anything is chosen by; both ascending.

    Args:
        windows: All windows.
        limit: See `train.sample_windows`.
        seed: Of the samples.
    """
    learnt, chosen_on = windows.of(*LEARNT_FROM), windows.of(Part.VALID)
    return seeded_sample(learnt, limit, seed), seeded_sample(chosen_on, limit, seed)


def prompted_windows(windows: Windows, limit: int | None, seed: int) -> NDArray[np.bool_]:
    """Returns which windows have a prompt, (W,): those of `learning_windows` and all test windows."""
    prompted: NDArray[np.bool_] = np.asarray(windows.part == Part.TEST, dtype=np.bool_)
    for rows in learning_windows(windows, limit, seed):
        prompted[rows] = True
    return prompted


def in_shards(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Gives rows a shard at a time; one without a row where there are none."""
    for first in range(0, max(len(rows), 1), size):
        yield rows[first : first + size]


def held_bytes(limits: LimitsConfig) -> float:
    """Returns what the lists of all windows may take to be kept in memory: they are read once, and not for each pass."""
    return min(HELD_BYTES, HELD_SHARE * memory_bytes(limits))


def given_rows(limits: LimitsConfig) -> int:
    """Returns how many rows of a file of lists are held at a time."""
    return min(PART_ROWS, int(HELD_SHARE * memory_bytes(limits)) // GIVEN_BYTES)


def judge(
    lists: ListSource,
    targets: NDArray[np.int32],
    rows: NDArray[np.int64],
    fusion: FusionConfig,
    platt: torch.Tensor | None,
) -> JudgedLists:
    """Returns the lists (W, M, D) and targets (W, T) of some windows as tensors for merging and scoring."""
    return _judged(lists.rows(rows), targets[rows], fusion, platt)


def _judged(
    lists: CandidateLists, targets: NDArray[np.int32], fusion: FusionConfig, platt: torch.Tensor | None
) -> JudgedLists:  # fmt: skip
    items, scores = torch.from_numpy(lists.items), torch.from_numpy(lists.scores)
    return JudgedLists.build(items, scores, torch.from_numpy(targets), fusion, platt)


def judged_shards(
    lists: ListSource,
    targets: NDArray[np.int32],
    rows: NDArray[np.int64],
    fusion: FusionConfig,
    platt: torch.Tensor | None,
    size: int,
) -> Iterator[JudgedLists]:
    """Gives what `judge` returns, some windows at a time; their lists are read in blocks.

    Args:
        lists: Candidate lists of all windows.
        targets: Of all windows, (W, T).
        rows: Numbers of the windows.
        fusion: How lists are merged.
        platt: Parameters of the normalisation `platt`.
        size: Windows in a shard.
    """
    for block in in_shards(rows, max(size, BLOCK)):
        own = lists.rows(block)
        for part in in_shards(np.arange(len(block)), size):
            yield _judged(own.rows(part), targets[block[part]], fusion, platt)


def searched(
    lists: ListSource,
    targets: NDArray[np.int32],
    rows: NDArray[np.int64],
    hit: NDArray[np.bool_],
    fusion: FusionConfig,
    platt: torch.Tensor | None,
    size: int,
) -> SearchedLists:
    """Returns what a search for weights reads of some windows.

    Args:
        lists: Candidate lists of all windows.
        targets: Of all windows, (W, T).
        rows: Numbers of the windows to read.
        hit: (W,) whether some recaller lists a target; all others have NDCG 0 whatever the weights.
        fusion: How lists are merged.
        platt: Parameters of the normalisation `platt`.
        size: Windows in a shard.
    """
    kept = rows[hit[rows]]
    shards = judged_shards(lists, targets, kept, fusion, platt, size)
    return SearchedLists.join(shards, torch.from_numpy(targets[kept]), len(rows))
