"""The recaller ALS against the formula of its paper, and the whole stage: lists, evidence, no leak, no pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.records import Part
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import write_windows
from softgrpo.errors import RecallerError
from softgrpo.pipeline.run import LogReporter
from softgrpo.presets import resolve
from softgrpo.recallers.evidence import training_input
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.stages import recall_plugin
from softgrpo.stages.contract import StageContext
from softgrpo.stages.leakage import check_training_input
from tests.softgrpo.recallers.cases import ITEMS, TRAIN, cycles
from tests.support.whole import read_candidates

SETTINGS = {"factors": 6, "regularization": 0.1, "alpha": 3.0, "iterations": 5}


def test_scores_solve_the_least_squares_of_the_paper() -> None:
    """x = (Y'Y + Y'(C - I)Y + r I)^-1 Y'C p, Hu et al. (2008), equation 4, in float64."""
    corpus, windows = cycles()
    recaller = PluginRecaller.fit("ALS", training_part(corpus, windows), SETTINGS, 3)
    history = np.array([2, 5, 5, ITEMS, 3], dtype=np.int32)  # an item twice, and one that training does not know
    scores = recaller.score(np.array([0]), [history])[0].double().numpy()
    items = recaller.fitted.factors.astype(np.float64)
    taken = items[[2, 3, 5]]
    left = items.T @ items + (3.0 - 1.0) * taken.T @ taken + 0.1 * np.eye(6)
    expected = items @ np.linalg.solve(left, 3.0 * taken.sum(0))
    assert scores[:ITEMS] == pytest.approx(expected[:ITEMS], abs=1e-4)
    assert scores[ITEMS] == -np.inf


def test_it_ranks_what_the_group_takes_also_for_a_new_user() -> None:
    corpus, windows = cycles()
    recaller = PluginRecaller.fit("ALS", training_part(corpus, windows), SETTINGS, 3)
    scores = recaller.score(np.array([-1, -1]), [np.array([1, 2], dtype=np.int32), np.empty(0, dtype=np.int32)])
    assert set(scores[0].topk(5).indices.tolist()) <= set(range(10)), "even users walk through items 0 to 9"
    assert bool((scores[1] == -torch.inf).all()), "nothing is known of a user without a history"


def test_the_same_seed_gives_the_same_recaller_and_another_one_another() -> None:
    corpus, windows = cycles()
    first, same, other = (
        PluginRecaller.fit("ALS", training_part(corpus, windows), SETTINGS, seed) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.fitted.factors, same.fitted.factors)
    assert not np.array_equal(first.fitted.factors, other.fitted.factors)


@pytest.mark.parametrize("settings", [{"factors": 0}, {"iterations": 0}, {"regularization": -1.0}, {"alpha": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    corpus, windows = cycles()
    with pytest.raises(RecallerError, match=next(iter(settings))):
        PluginRecaller.fit("ALS", training_part(corpus, windows), settings, 1)


def test_the_stage_stores_lists_evidence_and_no_pickle(tmp_path: Path) -> None:
    corpus, windows = cycles()
    windows.part[:] = Part.VALID
    for name in ("split", "out", "work"):
        (tmp_path / name).mkdir()
    write_corpus(tmp_path / "split", corpus)
    write_windows(tmp_path / "split", windows)
    overrides = {"recall.recallers": ["ALS", "EASE"], "recall.settings": {}, "recall.settings.ALS": SETTINGS}
    config = resolve("ml-100k", "tiny", overrides=overrides)
    out = tmp_path / "out"
    context = StageContext(config, "ALS", {"split": tmp_path / "split"}, out, tmp_path / "work", LogReporter("recall"))
    recall_plugin.run(context)
    lists = read_candidates(out / CANDIDATES)
    assert lists.recallers == ("ALS",) and (lists.items[:, 0, :4] >= 0).all()
    users, items = training_input(out)
    assert len(users) == TRAIN * corpus.num_users
    assert check_training_input("ALS", users, items, corpus, windows) > 0
    names = {str(path.relative_to(out / "model")) for path in (out / "model").rglob("*") if path.is_file()}
    assert names == {"recaller.json", "trained.safetensors", "fitted/factors.safetensors", "fitted/settings.json"}
