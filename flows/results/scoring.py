"""All users of a file of histories scored by a trained run, into one file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.data.streams import Shard, Stream
from softgrpo.errors import CandidateError, nearest
from softgrpo.evaluation.chosen import BEST
from softgrpo.flows.results.finished import FinishedRun, open_stored
from softgrpo.serving.choice import check_k, method_key

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
    _open_streams(run, options)
    if options.item_fields is not None:
        from softgrpo.data.corpus import load_corpus
        from softgrpo.serving.new_items import NewItems

        known = load_corpus(run.folders.get(SNAPSHOT_NODE, run.folders["split"])).items
        NewItems.read(options.item_fields, run.config, known)
    return run


def _length(run: FinishedRun, options: ScoreOptions) -> int:
    return run.config.fusion.k if options.k is None else options.k


def _open_streams(run: FinishedRun, options: ScoreOptions) -> tuple[Stream, dict[str, Stream]]:
    """Returns the histories and the lists from elsewhere, whose columns have been found."""
    from softgrpo.data.files import data_files
    from softgrpo.serving.histories import open_history, open_lists

    data = run.config.data
    history = options.history or data_files(data).interactions
    lists = {name: open_lists(file, data) for name, file in (options.lists or {}).items()}
    return open_history(history, data), lists


def score_run(run: FinishedRun, options: ScoreOptions, path: Path) -> Scored:
    """Scores users and writes one file, a batch at a time; it takes its place when all are written.

    Args:
        run: From `open_to_score`.
        options: What is scored, and how.
        path: A `.parquet` or `.json` file.

    Raises:
        SoftGRPOError: A file is damaged or lacks something, or the run has no such method; nothing was written.
    """
    from softgrpo.data.files import data_files
    from softgrpo.serving.recommended import RequestWriter
    from softgrpo.serving.scoring import Asked, Summary, score
    from softgrpo.serving.served_run import ServedRun
    from softgrpo.serving.user_fields import fields_of, open_user_fields

    config = run.config
    history, lists = _open_streams(run, options)
    summary = Summary()
    with tempfile.TemporaryDirectory() as work:
        served = ServedRun.open(config, run.folders, options.method, Path(work), tuple(lists), options.item_fields)
        names, users = fields_of(served.corpus.users), options.user_fields
        if users is None and options.history is None and names:
            users = data_files(config.data).users
        fields = None if users is None else open_user_fields(users, config.data, names)
        asked = Asked(history, lists, options.shard, options.users, _length(run, options), fields)
        start = time.perf_counter()
        with RequestWriter(path, config.recall.recallers) as writer:
            for batch in score(served, asked, summary):
                writer.write(batch)
        seconds = time.perf_counter() - start
    notes = summary.notes(told_order=options.history is not None)
    if served.new_items is not None:
        notes += served.new_items.notes(summary.new_items)
    if run.refit_of:
        notes.append(f"recallers of refit {run.run_id}; the numbers of the report are those of run {run.refit_of}")
    if options.history is not None and (ignored := asked.history.ignored):
        notes.append(f"columns of {history.path} that are not read: {', '.join(ignored)}")
    return Scored(path, summary.users, summary.items, seconds, served.answerer.key, notes, run)
