"""The pieces of the stage `check`: windows of whole users, whose stored files are made again in worlds that end otherwise.

Legend: w windows of a piece, M recallers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.artifacts import PROMPTS
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.common.training_part import training_counts
from softgrpo.data.windows import targets_of
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import Features, ListNumbers
from softgrpo.policy.numbers import WindowNumbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.prompts import PromptParts
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import BLOCK
from softgrpo.stages.hiding import check_numbers, check_prompted, check_prompts, hidden_worlds
from softgrpo.stages.leakage import check_track_record
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, PieceMaker
from softgrpo.stages.user_vectors import VectorReader, read_vectors
from softgrpo.stages.views import rows_of_features

COUNTS = (
    "candidates_not_in_histories",
    "outcomes_in_track_records",
    "numbers_that_hide_what_comes",
    "prompts_that_hide_what_comes",
)
"""What a piece counts, in the order of its array `counts`."""


@dataclass(frozen=True)
class Stored:
    """What the stage `data` stored of w windows.

    Attributes:
        lists: Their candidate lists.
        features: Their features.
        numbers: Their numbers.
        prompts: Their prompts.
    """

    lists: CandidateLists
    features: Features
    numbers: WindowNumbers
    prompts: list[PromptParts]

    @classmethod
    def at(cls, opened: Opened, rows: slice) -> Stored:
        """Reads what is stored of some windows."""
        stored, places = opened.prepared, np.arange(rows.start, rows.stop)
        return cls(
            stored.stored_lists.rows(places),
            rows_of_features(stored.features, rows),
            replace(stored.numbers, values=stored.numbers.values[rows]),
            load_prompts(stored.data / PROMPTS, places),
        )


@dataclass(frozen=True)
class Shifted:
    """Reads the vectors of users who are numbered from another number on; see `Corpus.of_users`.

    Attributes:
        reader: Reads those of all users.
        first: Number of the first of them.
    """

    reader: VectorReader
    first: int

    def __call__(self, corpus: Corpus, windows: Windows) -> dict[str, NDArray[np.float32]]:
        """Returns the numbers (w, n) of each recaller."""
        histories = [corpus.sequence(user)[:start] for user, start in zip(windows.user, windows.start, strict=True)]
        return self.reader.read(windows.user.astype(np.int64) + self.first, histories)


def pieces_of_users(opened: Opened) -> Iterator[Piece]:
    """Gives the pieces of all windows, view by view; all windows that a view has of a user are in one."""
    for view in opened.views:
        user = view.windows.user
        ends = np.append(np.flatnonzero(np.diff(user)) + 1, len(user))
        begin = 0
        while begin < len(user):
            end = int(ends[np.searchsorted(ends, min(begin + BLOCK, len(user)))])
            yield Piece(slice(view.rows.start + begin, view.rows.start + end))
            begin = end


def open_checks(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens what is checked: `counts`, see `COUNTS`, and `ListNumbers`.

    Pieces raise `LeakageError` where something leaks, and `CandidateError` where a list is not what it has to be.
    """
    config = opened.config
    reader = read_vectors(common, config, opened.recallers) if common else None

    def make(piece: Piece) -> Arrays:
        whole, stored, before = opened.windows_at(piece.rows), Stored.at(opened, piece.rows), piece.rows.start
        first, end = int(whole.user[0]), int(whole.user[-1]) + 1
        corpus, windows = opened.corpus.of_users(first, end), whole.of_users(first, end)
        check_candidates(stored.lists, corpus, windows, before=before)
        check_prompted(stored.prompts, opened.prompted[piece.rows], before)
        outcomes = check_track_record(stored.features, windows, before)
        known = Known(
            corpus,
            windows,
            stored.lists,
            stored.features,
            opened.embeddings,
            None if reader is None else Shifted(reader, first),
            elsewhere=opened.popularity[opened.view(piece.rows).fold] - training_counts(corpus, windows),
            seconds=opened.seconds,
        )
        numbers = prompts = 0
        for world in hidden_worlds(known, config.fusion.k, config.seed):
            numbers += check_numbers(world, stored.numbers, config.told_features)
            prompts += check_prompts(world, stored.prompts, stored.numbers, config.told_prompt, opened.catalogue)
        counts = [int((stored.lists.items >= 0).sum()), outcomes, numbers, prompts]
        own = ListNumbers.of(stored.lists, targets_of(corpus, windows), config.fusion.k)
        return {"counts": np.array(counts, dtype=np.int64), **vars(own)}

    return make
