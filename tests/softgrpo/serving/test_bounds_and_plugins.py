"""Requests of a run with bounds on the recallers' shares, and lists of now by a recaller of another library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from softgrpo.common.records import Part
from softgrpo.presets import resolve
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.serving.answers import open_answerer
from softgrpo.serving.lister import NO_HISTORY, open_lister
from tests.softgrpo.recallers.cases import ITEMS, cycles
from tests.softgrpo.serving.test_answers import asked
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun


def test_requests_get_weights_within_the_bounds_and_lists_merged_with_them(run: TinyRun) -> None:
    requests = asked(run, run.prepared.windows.of(Part.TEST))
    answerer = open_answerer(run.prepared, run.folders, RECALLERS[0])  # all weight on the first recaller
    bounds = {"max_share": {RECALLERS[0]: 0.6}}
    fusion = answerer.fusion.model_copy(update=bounds).for_pool(RECALLERS)
    held = replace(answerer, fusion=fusion)(requests, 5)
    assert np.allclose(held.weights[~held.empty.any(1)], [0.6, 0.4])

    inside = replace(answerer, weigher=lambda described: np.tile([0.6, 0.4], (len(described.requests), 1)))(requests, 5)
    both = ~held.empty.any(1)
    assert both.any() and np.array_equal(held.items[both], inside.items[both])
    assert np.allclose(held.shares[both], inside.shares[both])


def test_a_plug_in_is_asked_about_histories_of_now(tmp_path: Path) -> None:
    corpus, windows = cycles()
    recaller = PluginRecaller.fit("ALS", training_part(corpus, windows), {"factors": 6}, 3)
    recaller.save(tmp_path / "model")
    overrides = {"recall.recallers": ["ALS", "EASE"], "recall.settings": {}, "recall.depth": 50}
    config = resolve("ml-100k", "tiny", overrides=overrides)
    lister = open_lister(config, {"recall-ALS": tmp_path}, corpus, tmp_path, without=("EASE",))
    histories = [np.array([1, 2, ITEMS], dtype=np.int32), np.array([ITEMS], dtype=np.int32)]
    none = (np.full((2, 50), -1, np.int32), np.full((2, 50), np.nan, np.float32))
    lists = lister(np.array([-1, -1]), histories, {"EASE": none})
    expected = recaller.score(np.array([-1]), histories[:1])[0]
    expected[histories[0]] = -np.inf
    assert lists.items[0, 0, :5].tolist() == expected.topk(5).indices.tolist()
    assert (lists.items[1, 0] == -1).all() and lister.why_empty("ALS", -1, False) == NO_HISTORY
    assert lister.strange_items("ALS", histories).tolist() == [1, 1]


def test_a_history_without_times_has_a_prompt_without_gaps(run: TinyRun) -> None:
    """Where the run's data have times, in seconds, and a request tells none."""
    requests = asked(run, run.prepared.windows.of(Part.TEST)[:1])
    bare = replace(requests, corpus=replace(requests.corpus, time=np.full_like(requests.corpus.time, np.nan)))
    answerer = open_answerer(run.prepared, run.folders, "grpo_multi")
    config = run.config.told_prompt
    texts = [answerer.describe(each).prompts(config)[0].text() for each in (requests, bare)]
    assert config.time_gaps and not any(words in texts[1] for words in ("days later", "next day"))
    assert answerer(bare, 5).weights.shape == (1, 2)
