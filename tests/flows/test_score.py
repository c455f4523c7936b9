"""The flow of the deployment `softgrpo/score`: which run it asks, and where the file goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softgrpo.errors import ConfigError
from softgrpo.flows.results.scoring import Scored, ScoreOptions


def listed(run_id: str, **changed: Any) -> dict[str, Any]:
    return {"run_id": run_id, "status": "FINISHED", "dataset": "shop", "debug": False, "ndcg": 0.1} | changed


RUNS = [
    listed("failed", status="FAILED"),
    listed("small", debug=True),
    listed("elsewhere", dataset="steam"),
    listed("untested", ndcg=None),
    listed("newest"),
    listed("older"),
]
REFITS = {"shop": "refitted"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records what is opened and scored; MLflow knows the runs above."""
    calls: list[Any] = []

    def opened(run: str, output: Path, options: ScoreOptions) -> Any:
        calls.append((run, options))
        return SimpleNamespace(run_id=run)

    def scored(run: Any, options: ScoreOptions, path: Path) -> Scored:
        calls.append(path)
        keywords = {"path": path, "users": 3, "items": 30, "seconds": 1.0, "notes": ["one note"], "run": run}
        return Scored(**{name: keywords.get(name, "static") for name in Scored.__dataclass_fields__})

    monkeypatch.setattr("softgrpo.flows.results.newest.connect", lambda output: None)
    monkeypatch.setattr("softgrpo.flows.results.newest.freshest_refit", lambda tracking, name: REFITS.get(name))
    monkeypatch.setattr("softgrpo.flows.results.newest.list_pipelines", lambda tracking, most: RUNS)
    monkeypatch.setattr("softgrpo.flows.score.open_to_score", opened)

    def on_cluster(run: Any, output: Path, options: ScoreOptions, path: Path, address: str) -> Scored:
        calls.append(address)
        return scored(run, options, path)

    monkeypatch.setattr("softgrpo.flows.score.score_run", scored)
    monkeypatch.setattr("softgrpo.flows.score.score_on_cluster", on_cluster)
    return calls


def test_the_newest_finished_run_is_asked(asked: list[Any], tmp_path: Path) -> None:
    from softgrpo.flows.score import score_flow

    path = tmp_path / "scores" / "newest.parquet"
    assert score_flow("shop", output=tmp_path) == path
    assert asked == [("newest", ScoreOptions()), path]
    assert score_flow("shop", run="older", method="static", k=5, output=tmp_path) == path.with_name("older.parquet")
    assert asked[2] == ("older", ScoreOptions(k=5, method="static"))


def test_without_a_finished_run_it_says_so(asked: list[Any], tmp_path: Path) -> None:
    from softgrpo.flows.score import score_flow

    with pytest.raises(ConfigError, match=r"dataset ml-1m.*None of the newest 6 runs"):
        score_flow("ml-1m", output=tmp_path)
    assert asked == []


def test_the_freshest_refit_is_asked(asked: list[Any], tmp_path: Path) -> None:
    from softgrpo.flows.score import score_flow

    assert score_flow("shop", fresh=True, output=tmp_path) == tmp_path / "scores" / "refitted.parquet"
    assert asked[0] == ("refitted", ScoreOptions())
    with pytest.raises(ConfigError, match=r"dataset steam with fresh = true.*softgrpo refit RUN"):
        score_flow("steam", fresh=True, output=tmp_path)
    with pytest.raises(ConfigError, match=r"run = older and fresh = true"):
        score_flow("shop", run="older", fresh=True, output=tmp_path)


def test_a_cluster_is_asked(asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softgrpo.flows.score import score_flow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="--dask without MLFLOW_TRACKING_URI"):
        score_flow("shop", dask="tcp://127.0.0.1:1", output=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    path = tmp_path / "scores" / "newest.parquet"
    assert score_flow("shop", dask="tcp://127.0.0.1:1", output=tmp_path) == path
    assert asked[1:] == ["tcp://127.0.0.1:1", path]
