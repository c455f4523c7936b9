"""What is exported for recallers from elsewhere: the windows, what lies before them, and nothing of what is to be found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softgrpo.common.records import Part
from softgrpo.config import SplitConfig
from softgrpo.data.export import export_windows
from softgrpo.data.windows import make_windows
from tests.softgrpo.data.cases import corpus_of, windows_of


def test_the_tables_by_hand(tmp_path: Path) -> None:
    corpus = corpus_of([[4, 1, 2, 0], [3, 2, 1]])
    windows = windows_of([(0, Part.POLICY, 2, 3), (0, Part.TEST, 3, 4)], [1, 2])
    assert export_windows(tmp_path / "new", corpus, windows) == {
        "windows.parquet": 2,
        "history.parquet": 5,
        "items.parquet": 5,
    }
    table = pd.read_parquet(tmp_path / "new/windows.parquet")
    assert table.values.tolist() == [["u0", 2, "policy"], ["u0", 3, "test"]]
    history = pd.read_parquet(tmp_path / "new/history.parquet")
    assert history[["user", "position", "item", "training"]].values.tolist() == [
        ["u0", 0, "i4", True],
        ["u0", 1, "i1", False],
        ["u0", 2, "i2", False],  # item 0 is the test target and is not shown
        ["u1", 0, "i3", True],
        ["u1", 1, "i2", True],  # without a window, what may be trained on is shown
    ]
    assert pd.read_parquet(tmp_path / "new/items.parquet")["item"].tolist() == ["i0", "i1", "i2", "i3", "i4"]


def test_no_target_of_a_test_window_is_shown(tmp_path: Path) -> None:
    corpus = corpus_of([[(user + 7 * step) % 40 for step in range(10 + user)] for user in range(20)])
    windows = make_windows(corpus, SplitConfig())
    export_windows(tmp_path, corpus, windows)
    history = pd.read_parquet(tmp_path / "history.parquet")
    shown = set(zip(history["user"], history["position"], strict=True))
    for window in windows.of(Part.TEST):
        user = f"u{windows.user[window]}"
        assert all((user, at) not in shown for at in range(windows.start[window], windows.end[window]))
        assert all((user, at) in shown for at in range(windows.start[window]))
    trained = history[history["training"]].groupby("user").size()
    assert trained.to_dict() == {f"u{user}": end for user, end in enumerate(windows.train_end)}
