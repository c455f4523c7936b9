"""Folders of finished stages on this machine: filled aside, moved into place whole, marked last.

A stage's payload is `<root>/<key>/`; `<root>/<key>.json` is its commit mark and holds the payload's digest. A payload without a
mark, or one whose bytes do not give the mark's digest, is never used. One process at a time works on a key: the lock is an
advisory file lock, which the system drops when a process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softgrpo.common.digests import digest_folder
from softgrpo.common.files import make_private
from softgrpo.errors import StoreError

FORMAT = 1
LARGEST_MARK = 10_000
"""Bytes."""
_ahead: dict[Path, Future[str]] = {}
"""Digests of payloads that are being read in this process before they are asked for."""
log = logging.getLogger("softgrpo.pipeline.store")


@dataclass(frozen=True)
class Committed:
    """A finished stage.

    Attributes:
        key: The stage's identity, see `softgrpo.pipeline.keys.stage_key`.
        digest: Digest of the payload's bytes.
        format: Version of the store's layout.
    """

    key: str
    digest: str
    format: int = FORMAT


def _sync(path: Path) -> None:
    """Waits until the disk has the content of a file, or the names in a folder, so that a power loss cannot take it back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    """Waits until the disk has all that is below a folder."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file so that it is there whole or not at all, and stays there when the power fails."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _read_mark(path: Path) -> dict[str, Any]:
    """Returns what a mark says, nothing where it is no mark at all."""
    if path.stat().st_size > LARGEST_MARK:
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


class LocalStore:
    """Finished stages below one folder.

    Args:
        root: Folder of the store; it is made when the first stage is committed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def payload(self, key: str) -> Path:
        """Returns where the payload of a key is, or would be."""
        return self.root / key

    def _mark(self, key: str) -> Path:
        return self.root / f"{key}.json"

    def seems_committed(self, key: str) -> bool:
        """Tells, without looking into files, whether a key has a mark and a payload."""
        return self._mark(key).is_file() and self.payload(key).is_dir()

    def find(self, key: str) -> Committed | None:
        """Returns the commit of a key whose payload has the digest it was committed with, or None.

        Raises:
            StoreError: The mark was written by a newer version of this store.
        """
        committed = self.marked(key)
        if committed is None:
            return None
        if self._seen_ahead(key) == committed.digest or digest_folder(self.payload(key)) == committed.digest:
            return committed
        return None

    def _seen_ahead(self, key: str) -> str | None:
        """Returns the digest that looking ahead found, None where nobody looked or another run was changing the files."""
        ahead = _ahead.pop(self.payload(key), None)
        try:
            return None if ahead is None else ahead.result()
        except (OSError, CancelledError):
            return None

    def marked(self, key: str) -> Committed | None:
        """Returns the commit of a key as its mark tells it, or None; whether the payload is whole is for `find` to say.

        Raises:
            StoreError: The mark was written by a newer version of this store.
        """
        if not self.seems_committed(key):
            return None
        mark = self._mark(key)
        values = _read_mark(mark)
        written = values.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise StoreError(
                f"'{mark}' has store format {written}",
                f"this version reads formats up to {FORMAT}",
                "Use the softgrpo version that wrote it, or another --output folder",
                code="STORE-022",
            )
        digest = values.get("digest")
        if values != {"key": key, "digest": digest, "format": FORMAT} or not isinstance(digest, str):
            return None  # a damaged mark commits nothing; the stage is repeated
        return Committed(key, digest)

    def digest(self, key: str) -> str | None:
        """Returns the digest of a key's commit as its mark tells it, None without one; see `marked`."""
        committed = self.marked(key)
        return None if committed is None else committed.digest

    def _costs(self, key: str) -> Path:
        return self.root / ".costs" / f"{key}.json"

    def keep_costs(self, key: str, costs: Mapping[str, float]) -> None:
        """Keeps the times that were measured while a committed stage was made; no digest covers them, for no two are equal.

        Args:
            key: The stage's identity.
            costs: Name to milliseconds; nothing is written for none.
        """
        if costs:
            path = self._costs(key)
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps(dict(costs)))

    def costs(self, key: str) -> dict[str, float]:
        """Returns the times that `keep_costs` kept for a key; nothing where there are none."""
        path = self._costs(key)
        values = _read_mark(path) if path.is_file() else {}
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}

    def look_ahead(self, key: str, workers: Executor) -> None:
        """Lets others read a payload already, if none does; the next `find` of its key in this process takes what they found."""
        payload = self.payload(key)
        if payload not in _ahead:
            _ahead[payload] = workers.submit(digest_folder, payload)

    def saw(self, key: str, digest: str) -> None:
        """Takes the digest that a payload was put into place with just now; the next `find` of its key does not read it again."""
        _ahead[self.payload(key)] = seen = Future[str]()
        seen.set_result(digest)

    def end_looking(self) -> None:
        """Drops what was read ahead and not asked for: files may change from now on."""
        for payload in [payload for payload in list(_ahead) if payload.parent == self.root]:
            _ahead.pop(payload, None)

    def work(self, key: str) -> Path:
        """Returns the folder for a stage's checkpoints, made if needed; it outlives a crash and goes with the commit."""
        folder = self.root / ".work" / key
        make_private(folder)
        return folder

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """Gives an empty folder to fill aside; it is removed afterwards unless it was committed."""
        folder = self.root / ".staging" / f"{key}-{uuid.uuid4().hex[:8]}"
        make_private(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, key: str, folder: Path, digest: str | None = None) -> Committed:
        """Moves a filled folder into place and marks it; call with the key's lock held.

        The mark is written when the disk has all the files, and checkpoints are removed when it has the mark, so that a power loss
        takes nothing back that was committed.

        Args:
            key: The stage's identity.
            folder: A folder on the same file system, such as one from `staging`.
            digest: Of the folder, where it was worked out just now.

        Returns:
            The commit.
        """
        committed = Committed(key, digest or digest_folder(folder))
        _sync_all(folder)
        self.forget(key)
        folder.replace(self.payload(key))
        _sync(self.root)
        write_atomic(self._mark(key), json.dumps(asdict(committed)))
        shutil.rmtree(self.root / ".work" / key, ignore_errors=True)
        for left in (self.root / ".staging").glob(
            f"{key}-????????"
        ):  # of processes that were killed: the lock is held here
            shutil.rmtree(left, ignore_errors=True)
        return committed

    def forget(self, key: str) -> None:
        """Removes a key's mark and payload, the mark first, and its times."""
        _ahead.pop(self.payload(key), None)
        self._mark(key).unlink(missing_ok=True)
        self._costs(key).unlink(missing_ok=True)
        if self.payload(key).exists():
            shutil.rmtree(self.payload(key))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Waits, and says so, until no other process works on this key; keeps others out until the block ends."""
        locks = self.root / ".locks"
        make_private(locks)
        with (locks / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for another run that works on %s", key)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
