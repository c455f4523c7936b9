"""Candidate lists of a trained BPR, against RecBole's own `full_sort_topk`."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Row
from benchmarks.timing import ratio, take_turns

if TYPE_CHECKING:
    from softgrpo.common.records import Corpus, Windows

USERS, ITEMS, LENGTH, DEPTH = 6040, 3416, 165, 100
"""Users, items and interactions per user as in ml-1m behind its 5-core filter."""
BATCH_SIZES = (256, 1024, USERS)
SAME = 0.9999
"""Share of places with the same item: batches of other sizes give scores that differ in the last digit, and may change places."""
WHAT = "candidate lists over RecBole's full_sort_topk"


def measure_listing(users: int = USERS, items: int = ITEMS, rounds: int = 5) -> Row:
    """Trains BPR for one epoch, then makes the lists of all test windows in both ways, history masked.

    Args:
        users: How many.
        items: How many.
        rounds: Turns of each side that count.
    """
    if importlib.util.find_spec("recbole") is None:
        return Row(WHAT, None, "times the speed", at_least=1.0, details="needs recbole")
    from softgrpo.config import RecallConfig
    from softgrpo.recallers.candidates import build_candidates
    from softgrpo.recallers.recbole_adapter import train_recaller

    corpus, windows = _problem(users, items)
    ours: list[NDArray[np.int32]] = []
    theirs: dict[int, NDArray[np.int64]] = {}
    batch_size = RecallConfig().batch_size
    with tempfile.TemporaryDirectory() as work:
        settings = {"epochs": 1, "use_gpu": False}
        model: Any = train_recaller(
            "BPR", corpus, windows, settings, seed=0, targets_per_user=None, work=Path(work), reporter=None
        )

    data, rows = _test_data(model, corpus, windows), model.data.user_ids[windows.user]

    def lists() -> None:
        ours[:] = [build_candidates(model, corpus, windows, DEPTH, batch_size, "lists")[0]]

    def by_recbole(size: int) -> Callable[[], None]:
        def lists_of_batches() -> None:
            theirs[size] = _full_sort_topk(model, data, rows, size)

        return lists_of_batches

    sides = {"ours": lists} | {str(size): by_recbole(size) for size in BATCH_SIZES}
    seconds = take_turns(sides, rounds, 1, torch.device("cpu"))
    expected = model.data.item_ids[ours[0]]
    for size, found in theirs.items():
        same = float(np.mean(found == expected))
        if same < SAME:
            raise AssertionError(f"RecBole's lists, {size} at a time, are the same in {same:.2%} of the places")
    times = {name: float(np.median(spent)) for name, spent in seconds.items()}
    best = min(BATCH_SIZES, key=lambda size: times[str(size)])
    shown = ", ".join(f"{size} at a time {times[str(size)]:.2f} s" for size in BATCH_SIZES)
    details = f"{users:,} windows, {items:,} items, {DEPTH} each: ours {times['ours']:.2f} s, RecBole {shown}"
    return Row(WHAT, ratio(seconds[str(best)], seconds["ours"]), "times the speed", at_least=1.0, details=details)


def _problem(users: int, items: int) -> tuple[Corpus, Windows]:
    """Returns made-up sequences of items, popular ones more often, and each user's test window."""
    from softgrpo.common.records import Part
    from softgrpo.config import DataConfig, SplitConfig
    from softgrpo.data.corpus import read_corpus
    from softgrpo.data.windows import make_windows

    rng = np.random.default_rng(0)
    popularity = 1.0 / np.arange(20, 20 + items)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        drawn = rng.choice(items, min(LENGTH, items // 4), replace=False, p=popularity / popularity.sum())
        lines += [f"{user}\t{item}\t{at}" for at, item in enumerate(drawn)]
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "shop"
        raw.mkdir()
        (raw / "shop.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        corpus = read_corpus(DataConfig(dataset="shop", data_path=Path(name), k_core=0, download=False), 0)
    windows = make_windows(corpus, SplitConfig())
    rows = windows.of(Part.TEST)
    parts = {field: getattr(windows, field)[rows] for field in ("user", "part", "start", "end")}
    return corpus, replace(windows, **parts)


def _test_data(model: Any, corpus: Corpus, windows: Windows) -> _TestData:
    """Returns the histories of the windows as what RecBole masks."""
    users, items = model.data.user_ids, model.data.item_ids
    masked = np.empty(int(users.max()) + 1, dtype=object)
    for user, start in zip(windows.user, windows.start, strict=True):
        masked[users[user]] = torch.from_numpy(items[corpus.sequence(user)[:start]])
    return _TestData(model.data.train, masked)


def _full_sort_topk(model: Any, data: _TestData, users: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Returns the lists as RecBole makes them, in RecBole's ids."""
    from recbole.utils.case_study import full_sort_topk

    batches = [users[first : first + size] for first in range(0, len(users), size)]
    return np.concatenate([full_sort_topk(batch, model.model, data, DEPTH)[1].numpy() for batch in batches])


class _TestData:
    """What `full_sort_topk` reads of RecBole's test data.

    Args:
        dataset: RecBole's data set.
        uid2history_item: (users,) what each user has had, in RecBole's ids.
    """

    is_sequential = False

    def __init__(self, dataset: Any, uid2history_item: NDArray[Any]) -> None:
        self.dataset, self.uid2history_item = dataset, uid2history_item
