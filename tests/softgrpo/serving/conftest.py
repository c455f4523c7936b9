"""One small run for all tests that ask a run: two recallers, a toy language model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.softgrpo.stages.tiny_run import TinyRun, coloured_corpus, random_items, run_stages, toy_model

ALL_TOLD = {
    "history_items": 4,
    "top_items": 1,
    "history_length": True,
    "track_record": True,
    "overlap": True,
    "list_shape": True,
    "blocks": ["shape", "agreement", "popularity", "pace"],
    "max_length": 64,
}
ALL_NUMBERS = {"shape": True, "agreement": True, "popularity": True, "pace": True}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run whose prompts and numbers tell all that there is; some of its lists are short, some empty."""
    folder = tmp_path_factory.mktemp("answers")
    corpus = coloured_corpus()
    items = random_items(160)
    items[::7, 0, 5:] = -1
    items[3::11, 1] = -1
    corpus = replace(corpus, time=corpus.time * 40_000 + 1.0e9)
    policy = {"model_name": toy_model(folder / "base"), "numbers": "head"}
    return run_stages(
        folder / "run", str(policy["model_name"]), corpus, items, prompt=ALL_TOLD, features=ALL_NUMBERS, policy=policy
    )
