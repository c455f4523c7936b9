"""What stages open of those before them: interactions, windows, candidate lists, embeddings. Each file is read once.

Legend: W windows of all views, M recallers, T targets, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Corpus, ListSource, Windows
from softgrpo.common.training_part import training_counts
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import all_windows
from softgrpo.data.windows import load_windows, targets_of
from softgrpo.policy.blocks.pace import in_seconds
from softgrpo.policy.catalogue import Catalogue
from softgrpo.recallers.candidates import Scorer
from softgrpo.recallers.stored_lists import StoredPool
from softgrpo.stages.inputs import Prepared, embeddings_of
from softgrpo.stages.shards import prompted_windows
from softgrpo.stages.user_vectors import open_recallers
from softgrpo.stages.views import View, views_of

if TYPE_CHECKING:  # recbole only where it is used
    from softgrpo.recallers.recbole_model import RecBoleRecaller


@dataclass
class Opened:
    """Finished stages, read on demand.

    Attributes:
        config: The resolved configuration.
        inputs: Folder of each of them, by node name.
        lists: Of all views in one file, once there is one; until then they are pooled from the files of the recallers.
        scorer: The recaller that the stage itself has trained.
    """

    config: ExperimentConfig
    inputs: Mapping[str, Path]
    lists: ListSource | None = None
    scorer: Scorer | None = None

    @cached_property
    def scratch(self) -> TemporaryDirectory[str]:
        """A folder for as long as this is open."""
        return TemporaryDirectory()

    @cached_property
    def corpus(self) -> Corpus:
        """All interactions."""
        return load_corpus(self.inputs["split"])

    @cached_property
    def of_split(self) -> Windows:
        """The windows of the split."""
        return load_windows(self.inputs["split"])

    @cached_property
    def views(self) -> tuple[View, ...]:
        """That of the split, and behind it those of `split.cross_fit`."""
        return views_of(self.of_split, self.config)

    @cached_property
    def windows(self) -> Windows:
        """The windows of all views."""
        return all_windows(self.of_split, [view.windows for view in self.views[1:]])

    @cached_property
    def targets(self) -> NDArray[np.int32]:
        """Targets of all windows, (W, T), -1 behind the last."""
        return targets_of(self.corpus, self.windows)

    @cached_property
    def prompted(self) -> NDArray[np.bool_]:
        """(W,) windows that have a prompt."""
        return prompted_windows(self.windows, self.config.train.sample_windows, self.config.seed)

    @cached_property
    def seconds(self) -> bool:
        """Whether times are seconds since 1970."""
        return in_seconds(self.corpus.time)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What prompts say of items."""
        return Catalogue.of(self.corpus.items, self.seconds, titles=self.config.told_prompt.titles)

    @cached_property
    def embeddings(self) -> NDArray[np.float32] | None:
        """Of the items' texts; None without a stage `embed`."""
        return embeddings_of(self.inputs)

    @cached_property
    def popularity(self) -> tuple[NDArray[np.int64], ...]:
        """How often each item occurs in the training part of the recallers of each view, (I,)."""
        return tuple(training_counts(self.corpus, view.windows) for view in self.views)

    @cached_property
    def recallers(self) -> Mapping[str, RecBoleRecaller]:
        """The recallers that have user vectors, by name."""
        return open_recallers(self.config, self.inputs, self.corpus)

    @cached_property
    def pools(self) -> tuple[StoredPool, ...]:
        """The lists of each view, in the files of the recallers."""
        return tuple(view.pool(self.inputs, self.config.recall.recallers) for view in self.views)

    @cached_property
    def prepared(self) -> Prepared:
        """Output of the stages `split` and `data`."""
        return Prepared.of(self.config, self.inputs)

    def view(self, rows: slice) -> View:
        """Returns the view that some windows are of."""
        return next(view for view in reversed(self.views) if view.rows.start <= rows.start)

    def windows_at(self, rows: slice) -> Windows:
        """Returns some windows of one view; `train_end` is that of its recallers."""
        view = self.view(rows)
        return view.windows.at(slice(rows.start - view.rows.start, rows.stop - view.rows.start))

    def pooled(self, rows: slice) -> CandidateLists:
        """Returns the lists of some windows of one view, from the files of the recallers."""
        view = self.view(rows)
        return self.pools[view.fold].rows(np.arange(rows.start, rows.stop) - view.rows.start)

    def lists_at(self, rows: slice) -> CandidateLists:
        """Returns the lists of some windows of one view."""
        return self.pooled(rows) if self.lists is None else self.lists.rows(np.arange(rows.start, rows.stop))
