"""The plan of a refit, and the epochs that it takes from what a run stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softgrpo.errors import ConfigError, StoreError
from softgrpo.pipeline.refit import chosen_epoch, refit_config, refit_plan, served_as
from softgrpo.presets import resolve


def curves(folder: Path, **points: tuple[list[float], list[float]]) -> Path:
    folder.mkdir(exist_ok=True)
    stored = {name: {"step": step, "value": value} for name, (step, value) in points.items()}
    (folder / "curves.json").write_text(json.dumps(stored))
    return folder


LOSS = ([1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 7.0, 6.0])


@pytest.mark.parametrize(
    ("points", "epoch"),
    [
        ({"recall_loss": LOSS, "recall_valid_ndcg": ([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 0.1])}, 2),
        ({"recall_loss": LOSS, "recall_valid_ndcg": ([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.3, 0.1])}, 3),
        ({"recall_loss": LOSS, "recall_valid_ndcg": ([2.0, 4.0], [0.1, 0.3])}, 4),
        ({"recall_loss": LOSS}, 4),
    ],
)
def test_the_epoch_that_was_kept(points: Any, epoch: int, tmp_path: Path) -> None:
    """The best on the held-back items, the last of equal ones as RecBole keeps it; the last of all without such items."""
    assert chosen_epoch("BPR", curves(tmp_path, **points)) == epoch


def test_recbole_keeps_the_last_of_equal_epochs() -> None:
    pytest.importorskip("recbole")
    from recbole.utils import early_stopping

    assert early_stopping(0.3, 0.3, 0, 10)[3]


def test_a_run_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"recaller BPR has no curve.*--force recall"):
        chosen_epoch("BPR", tmp_path)
    with pytest.raises(StoreError, match="no curve"):
        chosen_epoch("BPR", curves(tmp_path))


def test_the_settings_and_the_plan_of_a_refit(tmp_path: Path) -> None:
    overrides = {
        "recall.recallers": ["BPR", "EASE", "Text"],
        "recall.files": {"Mine": "mine.parquet"},
        "recall.settings": {"BPR": {"embedding_size": 8, "epochs": 50}},
        "data.max_users": 30,
        "data.source": str(tmp_path / "shop.csv"),
    }
    config = resolve("ml-100k", "tiny", overrides=overrides)
    folder = curves(tmp_path / "bpr", recall_loss=LOSS)
    refit = refit_config(config, {"recall-BPR": folder}, tmp_path)
    assert refit.recall.settings_of("BPR")["epochs"] == 4 and refit.recall.settings_of("BPR")["embedding_size"] == 8
    assert refit.data.max_users is None and refit.data.data_path == tmp_path and refit.data.source is None
    assert refit.recall.settings.get("EASE") == config.recall.settings.get("EASE")
    same = {"data": config.data, "recall": config.recall}
    assert refit.model_copy(update=same) == config
    plan = {node.name: node.upstream for node in refit_plan(refit)}
    assert plan == {
        "snapshot": ("split",),
        "refit-BPR": ("snapshot",),
        "refit-EASE": ("snapshot",),
        "embed-snapshot": ("split", "embed", "snapshot"),
    }
    assert [served_as(name) for name in plan] == ["snapshot", "recall-BPR", "recall-EASE", "embed"]


def test_user_vectors_cannot_be_refitted() -> None:
    config = resolve("ml-100k", "tiny", overrides={"features.user_vector": True})
    with pytest.raises(ConfigError, match=r"Train with --features\.user_vector false"):
        refit_config(config, {})
