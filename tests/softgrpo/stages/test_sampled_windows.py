"""What is learnt and chosen is so on seeded samples of windows; all users are tested."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from softgrpo.common.artifacts import VALID_NDCG
from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Part
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.normalisation import fit_platt
from softgrpo.ranking.searched import SearchedLists
from softgrpo.stages import data
from softgrpo.stages.shards import seeded_sample
from tests.softgrpo.stages.tiny_run import coloured_corpus, four_windows, random_items, run_stages, toy_model

ROWS = np.arange(10, 30)


def test_a_sample_is_seeded_ascending_and_no_larger_than_what_there_is() -> None:
    one, other = (seeded_sample(ROWS, 5, seed) for seed in (1, 2))
    assert len(set(one.tolist())) == 5 and set(one.tolist()) <= set(ROWS.tolist()) and (np.diff(one) > 0).all()
    assert one.tolist() == seeded_sample(ROWS, 5, 1).tolist() != other.tolist()
    assert seeded_sample(ROWS, None, 1) is ROWS and seeded_sample(ROWS, 20, 1) is ROWS


def test_the_standard_error_counts_windows_without_a_hit() -> None:
    """Targets first, second and in no list: NDCG 1, 1 / log2(3) and 0."""
    items = torch.tensor([[[5, 6]]]).expand(3, -1, -1)
    judged = JudgedLists.build(
        items, torch.tensor([[[2.0, 1.0]]] * 3), torch.tensor([[5], [6], [7]]), FusionConfig(k=2)
    )
    values = np.array([1.0, 1 / np.log2(3), 0.0])
    error = SearchedLists.of(judged).standard_error(torch.ones(1, dtype=torch.float64))
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(3))


@pytest.mark.parametrize("most", [12, 1000])
def test_platt_is_fitted_on_a_sample_that_is_read_in_blocks(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PLATT_WINDOWS", most)
    monkeypatch.setattr(data, "BLOCK", 5)
    draw = np.random.default_rng(0)
    items = draw.permuted(np.tile(np.arange(8, dtype=np.int32), (40, 2, 1)), axis=2)
    items[::3, 1, 5:] = -1
    scores = -np.sort(draw.random((40, 2, 8), dtype=np.float32), axis=2)
    scores[items < 0] = np.nan
    targets = np.stack([items[:, 0, 0], np.where(np.arange(40) % 2, -1, items[:, 1, 1])], axis=1)
    config = ExperimentConfig.model_validate({"fusion": {"method": "score", "normalisation": "platt"}, "seed": 3})
    rows = np.arange(2, 39)
    found = data.platt_of(config, CandidateLists(("A", "B"), items, scores), targets, rows)
    read = seeded_sample(rows, most, 3)
    relevant = (items[:, :, :, None] == targets[:, None, None]).any(-1) & (items >= 0)
    assert found is not None
    assert found.tolist() == fit_platt(torch.from_numpy(scores[read]), torch.from_numpy(relevant[read])).tolist()
    assert (found[:, 0] > 0).any()


def test_searches_gates_and_policies_read_samples_and_all_users_are_tested(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, corpus, items = toy_model(tmp_path / "model"), coloured_corpus(), random_items(len(four_windows()))
    with caplog.at_level(logging.INFO, logger="softgrpo"):
        run = run_stages(
            tmp_path / "run",
            model,
            corpus,
            items,
            train={
                "sample_windows": 30,
                "device": "cpu",
                "per_device_train_batch_size": 8,
                "evaluations": 1,
                "lr_scheduler": "constant_with_warmup",
            },
        )
    assert (
        "searches read 30 of 80 policy windows and 30 of 40 validation windows (train.sample_windows 30)" in caplog.text
    )
    assert "standard error of the mixture's NDCG on that sample of validation windows: 0.0" in caplog.text
    prepared = run.prepared
    learnt, chosen_on = prepared.learning_rows, prepared.validation_rows
    assert len(learnt) == len(chosen_on) == 30
    assert set(prepared.labelled_rows()) | set(prepared.rewarded_rows()) <= set(learnt)
    judged = pd.read_parquet(run.folders["gates"] / VALID_NDCG)[Columns.Window]
    assert judged.tolist() == chosen_on.tolist() == prepared.choosing_rows().tolist()
    tested = pd.read_parquet(run.folders["test"] / "windows.parquet")
    assert set(tested[Columns.Window]) == set(prepared.windows.of(Part.TEST))
    # the search saw those windows alone: its mean is that of the sample
    best = prepared.static.best
    weights = torch.tensor([best.weights], dtype=torch.float64)
    assert best.policy_ndcg == pytest.approx(float(prepared.judged(learnt).ndcg(weights).mean()))
    assert best.valid_ndcg == pytest.approx(float(prepared.judged(chosen_on).ndcg(weights).mean()))
