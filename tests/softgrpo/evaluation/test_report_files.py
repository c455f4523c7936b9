"""A stored report is the report; it can be written again with other draws, and nothing else changes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from softgrpo.errors import ConfigError, DataError
from softgrpo.evaluation.report import write_report
from softgrpo.evaluation.report_files import load_report, rewrite_report, save_report
from softgrpo.evaluation.rows import Method
from softgrpo.evaluation.table import Comparison, tabulate
from softgrpo.evaluation.window_metrics import WindowMetrics
from tests.softgrpo.evaluation.setup_small import Small
from tests.softgrpo.evaluation.test_report import make_report


@pytest.fixture
def stored(case: Small, tmp_path: Path) -> Path:
    folder = tmp_path / "test"
    folder.mkdir()
    report = make_report(case)
    save_report(report, folder)
    write_report(report, folder)
    return folder


def test_what_is_read_writes_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    page = rewrite_report(stored, tmp_path / "again")
    assert page == tmp_path / "again" / "report.html"
    names = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*")]
    assert {"report.html", "report.md"} < {name.name for name in names}
    for name in names:
        assert (stored / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_other_draws_change_intervals_and_nothing_else(stored: Path) -> None:
    before, after = load_report(stored), load_report(stored, {"bootstrap": 777, "confidence": 0.8})
    assert (after.config.evaluation.bootstrap, after.config.evaluation.confidence) == (777, 0.8)
    one, other = before.comparison.table, after.comparison.table
    same = [name for name in one if not name.endswith(("_low", "_high", "_p", "_bound"))]
    pd.testing.assert_frame_equal(one[same], other[same])
    widths = [(table["vs_single_high"] - table["vs_single_low"])[12] for table in (one, other)]
    assert widths[1] < widths[0], "an interval of 80 % is narrower than one of 95 %"


def test_the_weights_of_every_row_are_stored(case: Small, stored: Path) -> None:
    comparison = load_report(stored).comparison
    assert [method.key for method in comparison.methods] == [method.key for method in case.comparison.methods]
    for mine, read in zip(case.comparison.methods, comparison.methods, strict=True):
        assert torch.equal(mine.weights, read.weights)


def test_a_report_of_an_earlier_version_has_fewer_sections(stored: Path, tmp_path: Path) -> None:
    (stored / "beyond.parquet").unlink()
    record = json.loads((stored / "report.json").read_text())
    del record["popularity"]
    (stored / "report.json").write_text(json.dumps(record))
    page = rewrite_report(stored, tmp_path / "again").read_text()
    assert (
        'id="beyond"' in (stored / "report.html").read_text()
        and 'id="popularity"' in (stored / "report.html").read_text()
    )
    assert "Beyond accuracy" not in page and "Gain by popularity" not in page and "Novelty" not in page
    assert 'id="history"' in page


def test_no_path_is_stored(case: Small, tmp_path: Path) -> None:
    data = case.config.data.model_copy(update={"data_path": Path("/secret/place")})
    save_report(replace(make_report(case), config=case.config.model_copy(update={"data": data})), tmp_path)
    assert "secret" not in (tmp_path / "report.json").read_text()


def test_a_stage_that_stored_less_is_refused(stored: Path, tmp_path: Path) -> None:
    (stored / "weights.parquet").unlink()
    with pytest.raises(DataError, match=r"without weights\.parquet"):
        rewrite_report(stored, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("change", [{"bootstrap": 5}, {"confidence": 1.5}])
def test_illegal_draws_are_refused(stored: Path, tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        rewrite_report(stored, tmp_path / "again", **change)
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_a_report_of_the_size_of_ml_1m_takes_less_than_30_seconds(case: Small, tmp_path: Path) -> None:
    """6,040 users, 20 rows, all columns, 10,000 draws, from what is stored; processor time, for the machine may be busy."""
    users, rows = 6040, 20
    generator = np.random.default_rng(0)
    metrics = [f"{name}@{k}" for name in ("ndcg", "recall", "hit") for k in (5, 10, 20, 50)] + ["mrr"]
    old = make_report(case)
    methods = tuple(
        Method(key, key, "gate", torch.full((users, 2), 0.5, dtype=torch.float64))
        for key in ["Left", "static", "grpo_multi", *(f"gate_{number}" for number in range(rows - 3))]
    )
    windows = pd.concat(
        pd.DataFrame(generator.random((users, len(metrics))), columns=metrics).assign(
            method=method.key, window=range(users), user=range(users)
        )
        for method in methods
    )[["method", "window", "user", *metrics]].reset_index(drop=True)
    config = case.config.model_copy(
        update={
            "recall": case.config.recall.model_copy(update={"depth": 100}),
            "evaluation": case.config.evaluation.model_copy(update={"ks": (5, 10, 20, 50), "bootstrap": 100}),
        }
    )
    listed = pd.DataFrame(
        [(method.key, method.label, method.kind) for method in methods], columns=["method", "label", "kind"]
    )
    references = {"vs_single": "Left", "vs_static": "static"}
    measured = WindowMetrics.of(windows)
    table = tabulate(listed, measured, references, "ndcg@5", config.evaluation, 0)
    comparison = Comparison(table, measured, methods, "Left", "static")
    save_report(
        replace(old, config=config, comparison=comparison, history=generator.integers(10, 500, users)), tmp_path
    )
    start = time.process_time()
    rewrite_report(tmp_path, tmp_path / "again", bootstrap=10_000)
    seconds = time.process_time() - start
    assert len(json.loads((tmp_path / "report.json").read_text())["history"]) == users
    assert seconds < 30, f"{seconds:.1f} s"
