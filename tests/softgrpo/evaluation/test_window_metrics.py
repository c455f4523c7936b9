"""The table of all methods and windows: written in parts it is the same, and large ones lie in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from softgrpo.common import scratch
from softgrpo.evaluation import parts
from softgrpo.evaluation.significance import paired_bootstrap
from softgrpo.evaluation.table import compare
from softgrpo.evaluation.window_metrics import WindowMetrics
from tests.softgrpo.common.test_scratch import lies_in_a_file
from tests.softgrpo.evaluation.setup_small import Small


def measured(methods: int = 3, windows: int = 5) -> WindowMetrics:
    rng = np.random.default_rng(0)
    values = {f"m{place}": rng.random((windows, 2)) for place in range(methods)}
    return WindowMetrics(("ndcg@5", "mrr"), np.arange(10, 10 + windows), np.arange(windows) // 2, values)


def test_few_rows_are_one_group_as_pandas_writes_them(tmp_path: Path) -> None:
    found = measured()
    found.write(tmp_path / "parts.parquet")
    found.frame().to_parquet(tmp_path / "whole.parquet", index=False)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_many_rows_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "GROUP", 8)
    found = measured()
    found.write(tmp_path / "parts.parquet")
    assert pq.read_metadata(tmp_path / "parts.parquet").num_row_groups == 2, "two methods, then the third"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "parts.parquet"), found.frame())
    again = WindowMetrics.of(found.frame())
    assert again.names == found.names and again.users.tolist() == found.users.tolist() and again.num_users == 3
    np.testing.assert_array_equal(again.column("m1", "mrr"), found.column("m1", "mrr"))


def test_what_all_rows_reach_lies_in_a_file_where_it_is_much(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    old = case.comparison
    windows, users = old.measured.windows, old.measured.users
    again = compare(case.judged, users, windows, old.methods, old.best_single, case.config)
    assert all(lies_in_a_file(values) for values in again.measured.values.values())
    pd.testing.assert_frame_equal(again.table, old.table, check_exact=True)
    pd.testing.assert_frame_equal(replace(again).windows, old.windows, check_exact=True)


def test_draws_are_those_of_a_whole_table() -> None:
    """Draws are counted one after the other; numpy gives the same ones all at once."""
    differences, draws = np.random.default_rng(1).normal(size=(7, 2)), 50
    drawn = np.random.default_rng(3).integers(7, size=(draws, 7), dtype=np.int32)
    means = np.stack([differences[rows].mean(0) for rows in drawn])
    found = paired_bootstrap(differences, draws, 0.9, 3)
    np.testing.assert_allclose(found.low, np.quantile(means, 0.05, axis=0))
    np.testing.assert_allclose(found.high, np.quantile(means, 0.95, axis=0))
