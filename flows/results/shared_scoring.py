"""All users of a file scored on the workers of a Dask cluster, share by share, into the file that one process would write.

A share is done when its file is here. Those of a job that was ended are kept beside the scores, and the next run of the same
command goes on from them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.digests import digest_file
from softgrpo.common.files import make_private, written_whole
from softgrpo.common.paths import stages_folder
from softgrpo.errors import full_disk_is_readable
from softgrpo.flows.results.finished import FinishedRun
from softgrpo.flows.results.scoring import Scored, ScoreOptions, notes_of, open_streams, read_new_items
from softgrpo.flows.results.share_worker import ScoreJob, code_here, files_of, forget, other_version, score_share
from softgrpo.pipeline.store import LocalStore
from softgrpo.reporting import ProgressBar
from softgrpo.serving.choice import method_key
from softgrpo.tasks.running.cluster import losses_are_readable, open_cluster

if TYPE_CHECKING:
    from distributed import Client

    from softgrpo.serving.shares import Share

SHARES_FOR_ONE = 4
"""Shares for each process of the cluster: a worker that dies costs one of them."""
FOLDER = ".shares"
"""Folder of finished shares, beside the file that they will make."""


def score_on_cluster(run: FinishedRun, output: Path, options: ScoreOptions, path: Path, address: str) -> Scored:
    """Scores users on a cluster and writes one file; it takes its place when all are scored.

    Args:
        run: From `open_to_score`.
        output: Folder of finished stages.
        options: What is scored, and how.
        path: A `.parquet` or `.json` file.
        address: Of the scheduler.

    Raises:
        SoftGRPOError: See `softgrpo.flows.results.scoring.score_run` and `open_cluster`; or a worker has other code or files. The
            file was not written.
    """
    from softgrpo.serving.recommended import RequestWriter
    from softgrpo.serving.scoring import ScoringSummary, count_parts
    from softgrpo.serving.shares import join_shares

    options = _with_whole_paths(options)
    digests = {name: digest_file(file) for name, file in files_of(run, options).items()}
    job = ScoreJob(run.run_id, output.resolve(), options, path.suffix, code_here(), digests)
    history, lists = open_streams(run, options)
    start, summary = time.perf_counter(), ScoringSummary()
    with LocalStore(stages_folder(output)).lock(f"score-{job.name}"):
        folder = make_private(path.parent / FOLDER / job.name)
        with open_cluster(address) as (client, threads):
            _check_workers(client, job)
            parts = count_parts(history, lists, options.shard, run.config.limits)
            shares = _shares(parts, history.rows, len(threads), folder)
            _score_missing(client, job, {share: folder / share.name for share in shares})
        with full_disk_is_readable(), RequestWriter(path, run.config.recall.recallers) as writer:
            join_shares({share: folder / share.name for share in shares}, writer, summary)
        shutil.rmtree(folder)
    seconds, new = time.perf_counter() - start, read_new_items(run, options)
    method = method_key(run.folders, run.config.fusion.k, options.method)
    notes = notes_of(run, options, summary, history, new)
    return Scored(path, summary.users, summary.items, seconds, method, notes, run)


def _with_whole_paths(options: ScoreOptions) -> ScoreOptions:
    """Returns options whose paths mean the same in every working directory."""

    def whole(path: Path | None) -> Path | None:
        return None if path is None else path.resolve()

    return replace(
        options,
        history=whole(options.history),
        lists={name: path.resolve() for name, path in (options.lists or {}).items()},
        user_fields=whole(options.user_fields),
        item_fields=whole(options.item_fields),
    )


def _shares(parts: int, rows: int, workers: int, folder: Path) -> list[Share]:
    """Returns the shares of a job: as many as of its last attempt, where one left files; else some for each worker.

    Args:
        parts: P.
        rows: Of the histories, about; there are at most as many users.
        workers: Processes of the cluster.
        folder: Of the files of finished shares.
    """
    from softgrpo.serving.scoring import BATCH
    from softgrpo.serving.shares import Share

    left = [path.stem.split("-") for path in folder.glob("*-of-*-of-*.parquet")]
    if left:
        _, _, parts, _, _, count = (int(word) if word.isdecimal() else 0 for word in left[0])
    else:
        count = max(1, min(math.ceil(SHARES_FOR_ONE * workers / parts), math.ceil(rows / parts / BATCH)))
    return [Share(part, parts, index, count) for part in range(parts) for index in range(count)]


def _score_missing(client: Client, job: ScoreJob, paths: Mapping[Share, Path]) -> None:
    """Lets the cluster score the shares that are not here yet; each is written when it is there."""
    from distributed import as_completed

    from softgrpo.serving.shares import is_whole

    missing = [share for share, path in paths.items() if not is_whole(path, job.name)]
    futures = {client.submit(score_share, job, share, pure=False): share for share in missing}
    bar = ProgressBar(total=len(paths), initial=len(paths) - len(missing), desc="shares", unit="share")
    try:
        for future in as_completed(list(futures), loop=client.loop):  # type: ignore[no-untyped-call]
            with losses_are_readable("A share of the users"):
                made: bytes = future.result()
            with full_disk_is_readable(), written_whole(paths[futures[future]]) as aside:
                aside.write_bytes(made)
            future.release()
            bar.update()
    finally:
        bar.close()
        client.cancel(list(futures))  # type: ignore[no-untyped-call]
    if missing:
        client.run(forget, on_error="ignore")  # a worker that came at last has nothing to forget


def _check_workers(client: Client, job: ScoreJob) -> None:
    """Checks that the workers that are there have the code of this command; those that come later are asked with their first share.

    Raises:
        StoreError: One has not.
    """

    def version() -> str:  # sent as it is: a worker without the module would die of its name
        try:
            from softgrpo.flows.results.share_worker import code_here as code_there
        except ImportError as error:
            return str(error)
        return code_there()

    for worker, found in client.run(version, on_error="return").items():
        if found != job.code and not isinstance(found, OSError):  # that one has just died
            raise other_version(f"The worker {worker} has version {found}", job)
