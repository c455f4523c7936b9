"""What a run of the size of ml-1m stores, made up: for the lines that start from stored files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from softgrpo.stages.inputs import Prepared  # needs more packages than the other lines

USERS, ITEMS, LENGTH, DEPTH = 6040, 3416, 40, 100
"""As many users and items as ml-1m has behind its 5-core filter; sequences are shorter, which matters to nothing here."""
RECALLERS = ("A", "B", "C")
FOUND = 0.3
"""Share of lists that hold the first target of their window, at any place."""
NEEDS = ("pandas", "pyarrow", "pydantic", "matplotlib", "rich")


def missing(*more: str) -> str:
    """Returns the packages that are needed and not here, empty where all are."""
    return ", ".join(name for name in (*NEEDS, *more) if importlib.util.find_spec(name) is None)


def store_run(folder: Path, users: int, items: int, said: Mapping[str, Any] | None = None) -> Prepared:
    """Writes the files of the stages `split` and `data`, without features and prompts, and returns them as `Prepared`.

    Args:
        folder: Empty.
        users: How many.
        items: How many.
        said: Settings by dotted path.
    """
    from softgrpo.baselines.static_mixture import Candidate, StaticMixture
    from softgrpo.common.records import CandidateLists
    from softgrpo.config import DataConfig, SplitConfig
    from softgrpo.data.corpus import read_corpus, write_corpus
    from softgrpo.data.windows import make_windows, targets_of, write_windows
    from softgrpo.presets import resolve
    from softgrpo.recallers.stored_lists import write_candidates
    from softgrpo.stages.inputs import Prepared
    from softgrpo.stages.merge_files import save_static

    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        lines += [f"{user}\t{item}\t{at}" for at, item in enumerate(rng.choice(items, LENGTH, replace=False))]
    raw = folder / "shop"
    raw.mkdir()
    (raw / "shop.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = {
        "recall.recallers": list(RECALLERS),
        "recall.files": dict(zip(RECALLERS, RECALLERS, strict=True)),
        "fusion.method": "rrf",
    }
    config = resolve("shop", "tiny", overrides=pool | dict(said or {}))
    corpus = read_corpus(DataConfig(dataset="shop", data_path=folder, k_core=0, download=False), 0)
    windows = make_windows(corpus, SplitConfig())
    shape = (len(windows), len(RECALLERS), DEPTH)
    first = rng.integers(0, corpus.num_items, shape[:2])[..., None]
    step = rng.integers(1, 30, shape[:2])[..., None]
    listed = (first + step * np.arange(DEPTH)) % corpus.num_items  # distinct: 30 * 100 is less than there are items
    target = targets_of(corpus, windows)[:, :1]
    lacks = ~(listed == target[..., None]).any(-1)
    window, recaller = np.nonzero(lacks & (rng.random(shape[:2]) < FOUND))
    listed[window, recaller, rng.integers(0, DEPTH, len(window))] = target[window, 0]
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
