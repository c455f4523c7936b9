"""Recommending from what a run stored: users per second, from the files to the file."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import Row

if TYPE_CHECKING:
    from softgrpo.stages.inputs import Prepared  # needs more packages than the other lines

USERS, ITEMS, LENGTH, DEPTH = 6040, 3416, 40, 100
"""As many users and items as ml-1m has behind its 5-core filter; sequences are shorter, which matters to nothing here."""
RECALLERS = ("A", "B", "C")
AIM = 2000.0
ROUNDS = 5
NEEDS = ("pandas", "pyarrow", "pydantic", "matplotlib", "rich")


def measure_recommending(users: int = USERS, items: int = ITEMS) -> Row:
    """Writes what a run of that size stores, then times reading it, merging top-10 lists of all users, and writing them.

    Args:
        users: How many.
        items: How many.
    """
    what = "recommend, users per second"
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return Row(what, None, "users/s", at_least=AIM, details=f"needs {', '.join(missing)}")
    from softgrpo.recommend import recommend
    from softgrpo.recommended import write_recommended
    from softgrpo.stages.inputs import Prepared

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _store(folder, users, items)
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


def _store(folder: Path, users: int, items: int) -> Prepared:
    """Writes the files of the stages `split` and `data` and returns them as `Prepared`."""
    from softgrpo.candidates import write_candidates
    from softgrpo.config import DataConfig, SplitConfig
    from softgrpo.data.corpus import read_corpus, write_corpus
    from softgrpo.data.windows import make_windows, write_windows
    from softgrpo.evaluation.static import Candidate, StaticMixture
    from softgrpo.presets import resolve
    from softgrpo.records import CandidateLists
    from softgrpo.stages.inputs import Prepared, save_static

    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        lines += [f"{user}\t{item}\t{at}" for at, item in enumerate(rng.choice(items, LENGTH, replace=False))]
    raw = folder / "shop"
    raw.mkdir()
    (raw / "shop.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = {"recall.recallers": list(RECALLERS), "recall.files": {name: name for name in RECALLERS}}
    config = resolve("shop", "tiny", overrides=said)
    corpus = read_corpus(DataConfig(dataset="shop", data_path=folder, k_core=0, download=False), 0)
    windows = make_windows(corpus, SplitConfig())
    shape = (len(windows), len(RECALLERS), DEPTH)
    first = rng.integers(0, corpus.num_items, shape[:2])[..., None]
    step = rng.integers(1, 30, shape[:2])[..., None]
    listed = (first + step * np.arange(DEPTH)) % corpus.num_items  # distinct: 30 * 100 is less than there are items
    scores = -np.sort(-rng.normal(size=shape).astype(np.float32), axis=-1)
    split, data = folder / "split", folder / "data"
    for place in (split, data):
        place.mkdir()
    write_corpus(split, corpus)
    write_windows(split, windows)
    write_candidates(data / "candidates.parquet", CandidateLists(RECALLERS, listed.astype(np.int32), scores))
    even = Candidate("uniform", (1 / 3, 1 / 3, 1 / 3), 0.1, 0.1)
    save_static(data, StaticMixture(even, even, (even,)))
    return Prepared(config, split, data)
