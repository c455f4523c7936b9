"""Windows whose lists come from the same recallers: those of the split, and with `split.cross_fit` those of each part of the users.

What is known of a window, from popularity to the size of a score, is known in its own view: it counts what the recallers of that
view trained on, and a score is compared with scores of the same recallers. Legend: W windows of a view, M recallers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.names import name_fold
from softgrpo.common.records import ListSource, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.cross_fit import cross_fit
from softgrpo.policy.features import Features
from softgrpo.recallers.stored_lists import StoredPool


@dataclass(frozen=True)
class View:
    """Some windows, and the recallers that make their lists.

    Attributes:
        fold: 0 for the windows of the split, else the number of the part of the users.
        windows: The windows; `train_end` says what these recallers may train on.
        rows: Where they are among the windows of all views.
    """

    fold: int
    windows: Windows
    rows: slice

    def node(self, recaller: str) -> str:
        """Returns the name of the stage that makes a recaller's lists for these windows."""
        return f"recall-{name_fold(recaller, self.fold) if self.fold else recaller}"

    def pool(self, inputs: Mapping[str, Path], recallers: Sequence[str]) -> StoredPool:
        """Returns the lists of a pool for these windows, in their files.

        Args:
            inputs: Folders of the stages `recall`, by name.
            recallers: The pool.
        """
        return StoredPool.open([inputs[self.node(name)] / CANDIDATES for name in recallers])


def views_of(windows: Windows, config: ExperimentConfig) -> tuple[View, ...]:
    """Returns the view of the split, and behind it that of each part of `split.cross_fit`.

    Args:
        windows: All windows of the split.
        config: The resolved configuration.
    """
    parts = (windows, *cross_fit(windows, config.split, config.seed))
    ends: list[int | None] = list(np.cumsum([len(each) for each in parts]).tolist())
    ends[-1] = None  # rows too many belong to the last view, whose checks then see them
    return tuple(
        View(fold, each, slice(begin, end))
        for fold, (each, begin, end) in enumerate(zip(parts, (0, *ends), ends, strict=False))
    )


def join_features(features: Sequence[Features]) -> Features:
    """Returns the features of all views, one behind the other."""
    if len(features) == 1:
        return features[0]
    names = [field.name for field in fields(Features)]
    return Features(**{name: np.concatenate([getattr(each, name) for each in features]) for name in names})


def rows_of_features(features: Features, rows: slice) -> Features:
    """Returns the features of some windows."""
    return Features(**{field.name: getattr(features, field.name)[rows] for field in fields(Features)})


def score_scales(lists: ListSource, windows: Windows) -> dict[str, float]:
    """Returns how wide the scores of each recaller's earlier lists are, as a multiple of those of its policy windows.

    The width of a list is its first score less its last; the two means are over lists with at least two items. NaN without any.

    Args:
        lists: Of all views.
        windows: Of all views.
    """
    scales: dict[str, float] = {}
    by_part = [lists.rows(windows.of(part)).scores for part in (Part.EARLIER, Part.POLICY)]
    for place, name in enumerate(lists.recallers):
        means = []
        for of_part in by_part:
            scores = of_part[:, place]
            count = np.isfinite(scores).sum(1)
            scores, count = scores[count > 1], count[count > 1]
            width = scores[:, 0] - scores[np.arange(len(scores)), count - 1]
            means.append(float(width.mean()) if len(width) else float("nan"))
        scales[name] = means[0] / means[1] if means[1] else float("nan")
    return scales
