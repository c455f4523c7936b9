"""A plug-in at work: fitted on the training part, stored, loaded and asked for scores, with what it returns checked.

Legend: B windows of a batch, I items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.common.records import Corpus, Windows
from softgrpo.errors import RecallerError, StoreError
from softgrpo.recallers.plugins import Interactions, Plugin, complete_settings, load_class, plugin_identity

KIND = "plugin"
_CARD, _FITTED, _TRAINED = "recaller.json", "fitted", "trained"
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What libraries raise where they refuse settings or data."""


def training_part(corpus: Corpus, windows: Windows) -> Interactions:
    """Returns what recallers may train on: `corpus.sequence(u)[:windows.train_end[u]]` of every user."""
    position = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]
    seen = position < windows.train_end[corpus.user]
    return Interactions(
        corpus.user[seen].astype(np.int32), corpus.item[seen].astype(np.int32), corpus.num_users, corpus.num_items
    )


@dataclass(frozen=True)
class PluginRecaller:
    """A trained plug-in; see `softgrpo.recallers.candidates.RecallerModel`.

    Attributes:
        name: Of its entry point.
        fitted: What the plug-in's `fit` or `load` returned.
        trained: (I,) whether each item is in the training part.
    """

    name: str
    fitted: Plugin
    trained: NDArray[np.bool_]

    @classmethod
    def fit(cls, name: str, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> PluginRecaller:
        """Trains a plug-in.

        Args:
            name: Of its entry point.
            interactions: What it may know.
            settings: Those that differ from its defaults.
            seed: Of everything random.

        Raises:
            RecallerError: It cannot be used, a setting is wrong, there is nothing to train on, or it refuses.
        """
        values = complete_settings(name, settings)
        if not len(interactions.items):
            raise RecallerError(
                "No training interaction",
                "Recallers need some",
                "Raise split.recaller or lower split.record",
                code="RECALLER-028",
            )
        try:
            fitted = load_class(name).fit(interactions, values, seed)
        except _REFUSALS as error:
            raise RecallerError(
                f"Recaller {name} refuses to train: {type(error).__name__}: {error}",
                f"Its settings were {values}, its training items {len(interactions.items)}",
                f"Correct recall.settings.{name}, or take another recaller",
                code="RECALLER-029",
            ) from error
        return cls(name, fitted, np.bincount(interactions.items, minlength=interactions.num_items) > 0)

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """See `softgrpo.recallers.candidates.Scorer`.

        Raises:
            RecallerError: The scores have another shape, or one is NaN or +infinite.
        """
        scores = np.array(self.fitted.score(users, [_unchangeable(each) for each in histories]), dtype=np.float32)
        expected = (len(users), len(self.trained))
        if scores.shape != expected:
            raise RecallerError(
                f"{self.name} gave scores of shape {scores.shape}",
                f"Scores are (windows, items) = {expected}",
                "Correct the plug-in",
                code="RECALLER-030",
            )
        if np.isnan(scores).any() or np.isposinf(scores).any():
            raise RecallerError(
                f"{self.name} gave a score that is not a finite number",
                "Scores are finite, or -inf for what a recaller knows nothing of",
                f"Change recall.settings.{self.name}, or correct the plug-in",
                code="RECALLER-031",
            )
        return torch.from_numpy(scores)

    def save(self, folder: Path) -> None:
        """Writes the recaller into a folder."""
        inside = folder / _FITTED
        inside.mkdir(parents=True)
        self.fitted.save(inside)
        save_file({_TRAINED: self.trained}, folder / f"{_TRAINED}.safetensors")
        card = {"kind": KIND, "name": self.name, "identity": plugin_identity(self.name)}
        (folder / _CARD).write_text(json.dumps(card, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PluginRecaller:
        """Reads what `save` wrote.

        Raises:
            StoreError: It holds no plug-in, or one of another version than is installed.
            RecallerError: The plug-in cannot be used.
        """
        path = folder / _CARD
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if card.get("kind") != KIND:
            raise StoreError(f"'{folder}' holds no plug-in", f"{_CARD} says so", "Train it again", code="STORE-043")
        name, stored, present = card["name"], card["identity"], plugin_identity(card["name"])
        if stored != present:
            other = sorted(key for key in stored if stored[key] != present[key])
            raise StoreError(
                f"Recaller {name} was stored with another plug-in: {', '.join(f'{key} {stored[key]}' for key in other)}",
                f"A stored recaller is read by the code that wrote it; installed is {present['package']} {present['version']}",
                "Install what it was stored with, or train it again",
                code="STORE-044",
            )
        trained = load_file(folder / f"{_TRAINED}.safetensors")[_TRAINED]
        return cls(name, load_class(name).load(folder / _FITTED), trained)


def _unchangeable(history: NDArray[np.int32]) -> NDArray[np.int32]:
    """Returns a view of a history that cannot be written to."""
    view = history.view()
    view.flags.writeable = False
    return view
