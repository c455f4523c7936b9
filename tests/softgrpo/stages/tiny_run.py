"""The stages `data` to `test` on a made-up corpus in folders, with a toy language model: seconds, no recaller is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import write_windows
from softgrpo.pipeline.run import LogReporter
from softgrpo.recallers.stored_lists import write_candidates
from softgrpo.stages import data, gates, grpo, sft, test
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.pieces import InThisProcess, Pieces
from tests.softgrpo.baselines.cases import ITEMS, USERS, small_corpus
from tests.softgrpo.data.cases import windows_of
from tests.support.toy_policy import save_base, toy_encoder, toy_tokenizer

RECALLERS = ("Left", "Right")
DEPTH = 20
PARTS = ((Part.POLICY, 2, 4), (Part.POLICY, 4, 6), (Part.VALID, 6, 8), (Part.TEST, 8, 10))
COLOURS = ("red", "green")
"""A field of the users, by turns; the toy language model knows both words."""
STAGES: dict[str, tuple[Callable[[StageContext], dict[str, float]], tuple[str, ...]]] = {
    "data": (data.run, ("split", "recall-Left", "recall-Right")),
    "gates": (gates.run, ("split", "data")),
    "sft": (sft.run, ("split", "data")),
    "grpo": (grpo.run, ("split", "data", "sft")),
    "test": (test.run, ("split", "data", "gates", "sft", "grpo")),
}
"""What each stage does, and which folders it reads."""


@dataclass(frozen=True)
class TinyRun:
    """Finished stages.

    Attributes:
        config: Their settings.
        folders: By the name of the stage.
    """

    config: ExperimentConfig
    folders: dict[str, Path]

    @property
    def prepared(self) -> Prepared:
        """What the later stages read of the earlier ones."""
        return Prepared.of(self.config, self.folders)


def toy_model(folder: Path) -> str:
    """Writes a language model with random weights, and returns its name."""
    return save_base(folder, toy_encoder(classes=2), toy_tokenizer())


def coloured_corpus(test_seed: int = 7) -> Corpus:
    """Returns 40 users with 10 items each, of whom the seed decides the last two items; every other user is red."""
    corpus = small_corpus(test_seed)
    return replace(corpus, users=corpus.users.assign(colour=[COLOURS[user % 2] for user in range(USERS)]))


def four_windows() -> Windows:
    """Returns two policy windows, a validation and a test window of each user, two targets each."""
    return windows_of([(user, *part) for user in range(USERS) for part in PARTS], [2] * USERS)


def random_items(windows: int) -> np.ndarray:
    """Returns seeded lists of both recallers, (W, 2, DEPTH)."""
    rng = np.random.default_rng(3)
    ranked = np.stack([rng.permutation(ITEMS)[:DEPTH] for _ in range(2 * windows)])
    return ranked.reshape(windows, 2, DEPTH).astype(np.int32)


def run_stages(
    folder: Path,
    model: str,
    corpus: Corpus,
    items: np.ndarray,
    until: str = "test",
    pieces: Pieces | None = None,
    **sections: dict[str, Any],
) -> TinyRun:
    """Runs the stages from `data` on.

    Args:
        folder: Gets a folder for each.
        model: Name of the language model, see `toy_model`.
        corpus: Of `coloured_corpus`.
        items: (W, 2, DEPTH) the lists of both recallers in the windows of `four_windows`.
        until: Last stage.
        pieces: Has pieces made; None makes them in the stages' process.
        **sections: Settings that are not the usual ones of this small problem.
    """
    windows = four_windows()
    scores = -np.sort(-np.random.default_rng(5).random(items.shape).astype(np.float32), axis=2)
    folders = {"split": folder / "split"} | {f"recall-{name}": folder / name for name in RECALLERS}
    for made in folders.values():
        made.mkdir(parents=True)
    write_corpus(folders["split"], corpus)
    write_windows(folders["split"], windows)
    for place, name in enumerate(RECALLERS):
        lists = CandidateLists((name,), items[:, [place]], scores[:, [place]])
        write_candidates(folders[f"recall-{name}"] / CANDIDATES, lists)
    config = _settings(model, sections)
    for stage, (run, reads) in list(STAGES.items())[: list(STAGES).index(until) + 1]:
        folders[stage], work = folder / stage, folder / "work" / stage
        folders[stage].mkdir()
        inputs = {name: folders[name] for name in reads}
        run(StageContext(config, "", inputs, folders[stage], work, LogReporter(stage), pieces or InThisProcess()))
    return TinyRun(config, folders)


def _settings(model: str, sections: dict[str, dict[str, Any]]) -> ExperimentConfig:
    usual: dict[str, dict[str, Any]] = {
        "recall": {"recallers": RECALLERS, "depth": DEPTH},
        "fusion": {"k": 5},
        "prompt": {
            "history_items": 0,
            "top_items": 0,
            "history_length": False,
            "track_record": False,
            "overlap": False,
            "max_length": 64,
        },
        "policy": {"model_name": model},
        "train": {
            "device": "cpu",
            "per_device_train_batch_size": 8,
            "evaluations": 2,
            "lr_scheduler": "constant_with_warmup",
        },
        "sft": {"learning_rate": 1e-2, "num_train_epochs": 1},
        "grpo": {"learning_rate": 1e-2, "num_train_epochs": 1, "num_generations": 8, "top_p": 1.0},
        "evaluation": {"ks": (5,), "bootstrap": 200, "baselines": ("thirds", "stacking", "ranker")},
    }
    names = usual.keys() | sections.keys()
    return ExperimentConfig.model_validate({name: usual.get(name, {}) | sections.get(name, {}) for name in names})
