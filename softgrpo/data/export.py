"""The windows of a split for recallers from elsewhere: what to score, what may be looked at, what may be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.common.files import written_whole
from softgrpo.common.records import Corpus, Part, Windows

WINDOWS, HISTORY, ITEMS = "windows.parquet", "history.parquet", "items.parquet"


def export_windows(folder: Path, corpus: Corpus, windows: Windows) -> dict[str, int]:
    """Writes three tables into a folder, which is made if needed; users and items have the names of the data.

    - `windows.parquet`: user, window (how many of the user's items come before it), part. Each needs a list.
    - `history.parquet`: user, position (0 is the user's first), item, time, training. What lies before a window are the rows with
      `position < window`; the rows with `training` are what a recaller may be trained on. Nothing behind a user's last window
      begins is in it, so that it holds no target of a test window.
    - `items.parquet`: item, title, genres of all items that a list may hold.

    Returns:
        The number of rows of each table, by its name.
    """
    users, items = (table[Columns.Token].to_numpy(object) for table in (corpus.users, corpus.items))
    parts = np.array([part.name.lower() for part in Part], dtype=object)
    scored = pd.DataFrame(
        {Columns.User: users[windows.user], Columns.Window: windows.start, Columns.Part: parts[windows.part]}
    )
    position = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]  # (N,)
    known = windows.train_end.copy()  # (U,) what lies before the last window
    np.maximum.at(known, windows.user, windows.start)
    shown = position < known[corpus.user]
    history = pd.DataFrame(
        {
            Columns.User: users[corpus.user[shown]],
            Columns.Position: position[shown],
            Columns.Item: items[corpus.item[shown]],
            Columns.Time: corpus.time[shown],
            "training": (position < windows.train_end[corpus.user])[shown],
        }
    )
    catalogue = corpus.items.rename(columns={Columns.Token: Columns.Item})
    folder.mkdir(parents=True, exist_ok=True)
    tables = {WINDOWS: scored, HISTORY: history, ITEMS: catalogue}
    for name, table in tables.items():
        with written_whole(folder / name) as aside:
            table.to_parquet(aside, index=False)
    return {name: len(table) for name, table in tables.items()}
