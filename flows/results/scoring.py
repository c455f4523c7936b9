"""All users of a file of histories scored by a trained run, into one file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.results.finished import FinishedRun, open_stored
from softgrpo.data.streams import Shard
from softgrpo.errors import CandidateError, nearest
from softgrpo.evaluation.chosen import BEST

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
    """

    history: Path | None = None
    lists: Mapping[str, Path] | None = None
    users: Collection[str] | None = None
    k: int | None = None
    method: str = BEST
    shard: Shard = ALL


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
    """Finds a run, and checks that it has the recallers whose lists are given.

    Raises:
        SoftGRPOError: The run is unknown, or it weighs no such recaller.
    """
    run = open_stored(run_id, output)
    pool = run.config.recall.recallers
    for name in options.lists or {}:
        if name not in pool:
            raise CandidateError(
                f"--lists {name}=...", "The run weighs no such recaller", nearest(name, pool), code="CANDIDATE-017"
            )
    return run


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
    from softgrpo.serving.histories import open_history, open_lists
    from softgrpo.serving.recommended import RequestWriter
    from softgrpo.serving.scoring import Asked, Summary, score
    from softgrpo.serving.served_run import ServedRun

    config = run.config
    history = options.history or data_files(config.data).interactions
    lists = {name: open_lists(file, config.data) for name, file in (options.lists or {}).items()}
    k = config.fusion.k if options.k is None else options.k
    asked = Asked(open_history(history, config.data), lists, options.shard, options.users, k)
    summary = Summary()
    with tempfile.TemporaryDirectory() as work:
        served = ServedRun.open(config, run.folders, options.method, Path(work), tuple(lists))
        start = time.perf_counter()
        with RequestWriter(path, config.recall.recallers) as writer:
            for batch in score(served, asked, summary):
                writer.write(batch)
        seconds = time.perf_counter() - start
    notes = summary.notes()
    if ignored := asked.history.ignored:
        notes.append(f"columns of {history} that are not read: {', '.join(ignored)}")
    return Scored(path, summary.users, summary.items, seconds, served.answerer.key, notes, run)
