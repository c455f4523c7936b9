"""All users of a file of histories scored by a trained run, into one file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.data.streams import Shard, Stream
from softgrpo.errors import CandidateError, nearest
from softgrpo.evaluation.chosen import BEST
from softgrpo.flows.results.finished import FinishedRun, open_stored
from softgrpo.serving.choice import check_k, method_key

if TYPE_CHECKING:
    from softgrpo.serving.new_items import NewItems
    from softgrpo.serving.scoring import AskedUsers, ScoringSummary
    from softgrpo.serving.served_run import ServedRun

ALL = Shard()


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, and how.

    Attributes:
        history: A file of histories; None takes the interactions of the run's data set as they are now.
        lists: Files with lists from elsewhere, by recaller.
        users: None takes all of the file.
        k: Length of the lists; None takes the run's `fusion.k`.
        method: Key of a row of the run's table; `best` takes the one that validation windows chose.
        shard: Whose users are scored.
        user_fields: A file of what is known of users now; None takes that of the run, or of the data set as it is now.
        item_fields: A file of items with their texts; those that the run does not know can be recommended too.
    """

    history: Path | None = None
    lists: Mapping[str, Path] | None = None
    users: Collection[str] | None = None
    k: int | None = None
    method: str = BEST
    shard: Shard = ALL
    user_fields: Path | None = None
    item_fields: Path | None = None


@dataclass(frozen=True)
class Scored:
    """What was written.

    Attributes:
        path: The file.
        users: How many users it holds.
        items: How many items they got.
        seconds: Without finding and opening the run.
        method: Key of the method that was asked.
        notes: What a reader must know.
        run: The run.
    """

    path: Path
    users: int
    items: int
    seconds: float
    method: str
    notes: list[str]
    run: FinishedRun


def open_to_score(run_id: str, output: Path, options: ScoreOptions) -> FinishedRun:
    """Finds a run, and checks the options that need it.

    Raises:
        SoftGRPOError: The run is unknown, has no such method or recaller or no lists as long as wanted, or a file cannot be read.
    """
    run = open_stored(run_id, output)
    method_key(run.folders, run.config.fusion.k, options.method)
    check_k(_length(run, options), run.config.recall.depth)
    pool = run.config.recall.recallers
    for name in options.lists or {}:
        if name not in pool:
            raise CandidateError(
                f"--lists {name}=...", "The run weighs no such recaller", nearest(name, pool), code="CANDIDATE-017"
            )
    open_streams(run, options)
    read_new_items(run, options)
    return run


def read_new_items(run: FinishedRun, options: ScoreOptions) -> NewItems | None:
    """Returns the items of a file that the run was not trained on, None where no file is given.

    Raises:
        SoftGRPOError: See `NewItems.read`.
    """
    if options.item_fields is None:
        return None
    from softgrpo.data.corpus import load_corpus
    from softgrpo.serving.new_items import NewItems

    known = load_corpus(run.folders.get(SNAPSHOT_NODE, run.folders["split"])).items
    return NewItems.read(options.item_fields, run.config, known)


def _length(run: FinishedRun, options: ScoreOptions) -> int:
    return run.config.fusion.k if options.k is None else options.k


def open_streams(run: FinishedRun, options: ScoreOptions) -> tuple[Stream, dict[str, Stream]]:
    """Returns the histories and the lists from elsewhere, whose columns have been found."""
    from softgrpo.data.files import data_files
    from softgrpo.serving.histories import open_history, open_lists

    data = run.config.data
    history = options.history or data_files(data).interactions
    lists = {name: open_lists(file, data) for name, file in (options.lists or {}).items()}
    return open_history(history, data), lists


def fields_file(run: FinishedRun, options: ScoreOptions) -> Path | None:
    """Returns the file of what is known of users now, None where there is none; the run may know no field of it."""
    from softgrpo.data.files import data_files

    if options.user_fields is not None or options.history is not None:
        return options.user_fields
    return data_files(run.config.data).users


def open_asked(run: FinishedRun, options: ScoreOptions, work: Path) -> tuple[ServedRun, AskedUsers]:
    """Returns the run, ready to answer, and who asks it.

    Args:
        run: From `open_to_score`.
        options: What is scored, and how.
        work: A folder that is needed as long as the run is asked.

    Raises:
        SoftGRPOError: A file is damaged or lacks something, or the run has no such method.
    """
    from softgrpo.serving.scoring import AskedUsers
    from softgrpo.serving.served_run import ServedRun
    from softgrpo.serving.user_fields import fields_of, open_user_fields

    history, lists = open_streams(run, options)
    served = ServedRun.open(run.config, run.folders, options.method, work, tuple(lists), options.item_fields)
    names, users = fields_of(served.corpus.users), fields_file(run, options)
    if users is not None and (names or options.user_fields is not None):
        fields = open_user_fields(users, run.config.data, names)
    else:
        fields = None
    return served, AskedUsers(history, lists, options.shard, options.users, _length(run, options), fields)


def notes_of(
    run: FinishedRun, options: ScoreOptions, summary: ScoringSummary, history: Stream, new: NewItems | None
) -> list[str]:
    """Returns what a reader of the file must know.

    Args:
        run: Who answered.
        options: What was scored, and how.
        summary: Of all users.
        history: The file of histories.
        new: Items of a file that the run was not trained on.
    """
    notes = summary.notes(told_order=options.history is not None)
    if new is not None:
        notes += new.notes(summary.new_items)
    if run.refit_of:
        notes.append(f"recallers of refit {run.run_id}; the numbers of the report are those of run {run.refit_of}")
    if options.history is not None and history.ignored:
        notes.append(f"columns of {history.path} that are not read: {', '.join(history.ignored)}")
    return notes


def score_run(run: FinishedRun, options: ScoreOptions, path: Path) -> Scored:
    """Scores users and writes one file, a batch at a time; it takes its place when all are written.

    Args:
        run: From `open_to_score`.
        options: What is scored, and how.
        path: A `.parquet` or `.json` file.

    Raises:
        SoftGRPOError: A file is damaged or lacks something, or the run has no such method; nothing was written.
    """
    from softgrpo.serving.recommended import RequestWriter
    from softgrpo.serving.scoring import ScoringSummary, score

    summary = ScoringSummary()
    with tempfile.TemporaryDirectory() as work:
        served, asked = open_asked(run, options, Path(work))
        start = time.perf_counter()
        with RequestWriter(path, run.config.recall.recallers) as writer:
            for batch in score(served, asked, summary):
                writer.write(batch)
        seconds = time.perf_counter() - start
    notes = notes_of(run, options, summary, asked.history, served.new_items)
    return Scored(path, summary.users, summary.items, seconds, served.answerer.key, notes, run)
