"""A share of the users scored by a worker of a Dask cluster, which has the code and the files of the command that asks it."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo import __version__
from softgrpo.common.digests import digest_file, digest_json
from softgrpo.common.redaction import hide_passwords
from softgrpo.errors import (
    DataError,
    SoftGRPOError,
    StoreError,
    full_disk_is_readable,
    lack_of_memory_is_readable,
)
from softgrpo.flows.results.finished import FinishedRun
from softgrpo.flows.results.scoring import ScoreOptions, fields_file, open_asked, open_streams, open_to_score
from softgrpo.pipeline.keys import code_fingerprint, library_versions
from softgrpo.stages.catalogue import TEST

if TYPE_CHECKING:
    from softgrpo.serving.scoring import AskedUsers, PartOfUsers
    from softgrpo.serving.served_run import ServedRun
    from softgrpo.serving.shares import Share

CODE = "softgrpo.flows.results.share_worker"
"""This module, which reaches all code that scores."""


@dataclass(frozen=True)
class ScoreJob:
    """What a worker gets to know.

    Attributes:
        run_id: Of the run in MLflow.
        output: Folder of finished stages, as on the machine of the command.
        options: What is scored, and how.
        suffix: Ending of the file.
        code: See `code_here`.
        digests: Of the files that are read, by what they hold.
    """

    run_id: str
    output: Path
    options: ScoreOptions
    suffix: str
    code: str
    digests: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the job: equal ones make equal files."""
        options = self.options
        users = None if options.users is None else list(options.users)
        asked = [users, options.k, options.method, options.shard.index, options.shard.count, self.suffix]
        return digest_json([self.run_id, asked, self.code, dict(self.digests)])[:20]


def files_of(run: FinishedRun, options: ScoreOptions) -> dict[str, Path]:
    """Returns the files that are read, by what they hold."""
    found = {
        "histories": open_streams(run, options)[0].path,
        "user fields": fields_file(run, options),
        "item fields": options.item_fields,
        **{f"lists of {name}": path for name, path in (options.lists or {}).items()},
    }
    return {name: path for name, path in found.items() if path is not None}


def code_here() -> str:
    """Returns what tells the version, the code that scores and its libraries from others."""
    libraries = digest_json(library_versions(TEST.libraries))
    return f"{__version__} {code_fingerprint(CODE)[:12]} {libraries[:12]}"


def other_version(received: str, job: ScoreJob) -> StoreError:
    return StoreError(
        received,
        f"Workers have the code and the libraries of the command, version {job.code}",
        "Bring the machines to the same state, start the workers again, and run the same command again",
        code="STORE-049",
    )


_ONE_AT_A_TIME = threading.Lock()
_digest = functools.cache(lambda path, size, changed: digest_file(path))


@dataclass
class _Opened:
    """The run that this worker has open, and the users that it read last."""

    job: ScoreJob
    served: ServedRun
    asked: AskedUsers
    work: tempfile.TemporaryDirectory[str]
    part: tuple[int, PartOfUsers] | None = None


_opened: list[_Opened] = []


def forget() -> None:
    """Gives back the memory of the run that this worker has open, unless it is at work on another job's share."""
    if _ONE_AT_A_TIME.acquire(blocking=False):
        _close()
        _ONE_AT_A_TIME.release()


def _close() -> None:
    for opened in _opened:
        opened.work.cleanup()
    _opened.clear()


def score_share(job: ScoreJob, share: Share) -> bytes:
    """Scores a share on a worker, one at a time in each process, and returns its file.

    Raises:
        SoftGRPOError: This worker has other code, libraries or files; or see `score_on_cluster`. It names the worker's machine.
    """
    from softgrpo.serving.scoring import PartOfUsers
    from softgrpo.serving.shares import share_bytes

    hide_passwords()
    try:
        with _ONE_AT_A_TIME, full_disk_is_readable(), lack_of_memory_is_readable("a share of the users"):
            opened = _open(job)
            if opened.part is None or opened.part[0] != share.part:
                opened.part = None  # before the next is read
                opened.part = share.part, PartOfUsers.read(opened.served, opened.asked.part(share.part, share.parts))
            return share_bytes(opened.served, opened.part[1], opened.asked.k, share, job.suffix, job.name)
    except SoftGRPOError as error:
        where = f"On the worker {socket.gethostname()} (process {os.getpid()}): {error.received}"
        raise type(error)(where, error.rule, error.remedy, code=error.code) from error


def _open(job: ScoreJob) -> _Opened:
    """Returns the run of a job, opened once; `_ONE_AT_A_TIME` is held."""
    if _opened and _opened[0].job == job:
        return _opened[0]
    if (here := code_here()) != job.code:
        raise other_version(f"Version {here}", job)
    _close()
    _check_there(list(_given(job.options).values()))
    run = open_to_score(job.run_id, job.output, job.options)
    for name, path in files_of(run, job.options).items():
        status = path.stat()
        if _digest(path, status.st_size, status.st_mtime_ns) != job.digests.get(name):
            raise DataError(
                f"'{path}' ({name}) holds something else than where the command was started",
                "All machines read the same files, by the same paths",
                "Copy it to the worker again, or put it into a folder that they share",
                code="DATA-055",
            )
    work = tempfile.TemporaryDirectory()
    _opened.append(_Opened(job, *open_asked(run, job.options, Path(work.name)), work))
    return _opened[0]


def _given(options: ScoreOptions) -> dict[str, Path]:
    named = {"--history": options.history, "--user-fields": options.user_fields, "--item-fields": options.item_fields}
    return {word: path for word, path in named.items() if path is not None} | dict(options.lists or {})


def _check_there(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"There is no file '{path}'",
                "All machines read the same files, by the same paths",
                "Copy it to the worker, or put it into a folder that they share",
                code="DATA-056",
            )
