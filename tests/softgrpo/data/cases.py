"""Small datasets for the tests of data, features and prompts: as atomic files, and as corpora in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import DataConfig

Row = tuple[object, ...]
INTER = "user_id:token\titem_id:token\ttimestamp:float"


def write_table(path: Path, header: str, rows: Sequence[Row]) -> Path:
    """Writes an atomic file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *("\t".join(str(value) for value in row) for row in rows)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def dataset(path: Path, rows: Sequence[Row], header: str = INTER, **settings: object) -> DataConfig:
    """Writes `toy/toy.inter` below a data path; returns the config that reads it, with all filters off."""
    write_table(path / "toy" / "toy.inter", header, rows)
    usual = {"dataset": "toy", "data_path": path, "k_core": 0, "min_user_items": 1, "download": False}
    return DataConfig.model_validate(usual | settings)


def sequences(corpus: Corpus) -> dict[str, list[str]]:
    """Returns the tokens of each user's items in order."""
    users, items = corpus.users["token"].tolist(), corpus.items["token"].tolist()
    return {user: [items[item] for item in corpus.sequence(row)] for row, user in enumerate(users)}


def corpus_of(items: Sequence[Sequence[int]], times: Sequence[Sequence[float]] | None = None) -> Corpus:
    """Returns a corpus with the given item ids per user; without times, they are all NaN."""
    lengths = [len(row) for row in items]
    flat = np.array([item for row in items for item in row], dtype=np.int32)
    time = (
        np.full(len(flat), np.nan)
        if times is None
        else np.array([value for row in times for value in row], dtype=float)
    )
    count = int(flat.max()) + 1
    return Corpus(
        users=pd.DataFrame({"token": [f"u{user}" for user in range(len(items))]}),
        items=pd.DataFrame({"token": [f"i{item}" for item in range(count)], "title": "", "genres": ""}),
        user=np.repeat(np.arange(len(items)), lengths).astype(np.int32),
        item=flat,
        time=time,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def windows_of(rows: Sequence[tuple[int, Part, int, int]], train_end: Sequence[int]) -> Windows:
    """Returns windows from rows of (user, part, start, end)."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Windows(
        user=table[:, 0].astype(np.int32),
        part=table[:, 1].astype(np.int8),
        start=table[:, 2].astype(np.int32),
        end=table[:, 3].astype(np.int32),
        train_end=np.array(train_end, dtype=np.int32),
    )
