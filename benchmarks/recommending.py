"""Recommending from what a run stored: users per second, from the files to the file."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import Row
from benchmarks.stored_run import DEPTH, ITEMS, RECALLERS, USERS, missing, store_run

AIM = 2000.0
ROUNDS = 5


def measure_recommending(users: int = USERS, items: int = ITEMS) -> Row:
    """Writes what a run of that size stores, then times reading it, merging top-10 lists of all users, and writing them.

    Args:
        users: How many.
        items: How many.
    """
    what = "recommend, users per second"
    if lacks := missing():
        return Row(what, None, "users/s", at_least=AIM, details=f"needs {lacks}")
    from softgrpo.serving.recommend import recommend
    from softgrpo.serving.recommended import write_recommended
    from softgrpo.stages.inputs import Prepared

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = store_run(folder, users, items)
        weights = np.random.default_rng(1).dirichlet(np.ones(len(RECALLERS)), users)
        seconds: list[float] = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            prepared = Prepared(made.config, made.split, made.data)  # reads the files anew
            found = recommend(prepared, weights, None, 10)
            write_recommended(folder / "recommended.parquet", found)
            seconds.append(time.perf_counter() - start)
        assert len(found.items) == 10 * users
    median = statistics.median(seconds)
    lists = f"{users:,} users, {len(RECALLERS)} lists of {DEPTH}"
    details = f"{lists}, {median:.2f} s with reading and writing, fastest {min(seconds):.2f} s"
    return Row(what, users / median, "users/s", at_least=AIM, details=details)
