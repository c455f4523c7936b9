"""Liveness locks: a process that works on a run holds a lock on a file, which the system releases however the process ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.files import make_private
from softgrpo.pipeline.store import LocalStore


@dataclass(frozen=True)
class LivenessLocks:
    """The locks of one output folder. Nothing can be known here of a lock that was taken in another one.

    The name of a lock is `<token>.<inode>`: the token is the name of its file, unique everywhere; the inode tells that file from a
    copy of it. A copy that was made while the original was locked has the same bytes as the file of a dead process, and is
    unlocked like that. A path would tell them apart too, but not after a folder was moved or mounted elsewhere. Where an inode
    changes nonetheless, as on some network file systems, the run counts as alive, which is the harmless error.

    Attributes:
        folder: Folder of the files; it is made when it is needed.
    """

    folder: Path

    @classmethod
    def of(cls, local: LocalStore) -> LivenessLocks:
        """Returns the locks of a folder of finished stages."""
        return cls(local.root / ".alive")

    @contextmanager
    def hold(self) -> Iterator[str]:
        """Takes a new lock, which is held until the block or the process ends, and gives its name."""
        make_private(self.folder)
        path = self.folder / uuid.uuid4().hex
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield f"{path.name}.{os.fstat(file.fileno()).st_ino}"

    def is_dead(self, name: str) -> bool:
        """Tells whether a lock was taken in this folder and no process holds it any more."""
        token, _, inode = name.partition(".")
        try:
            file = (self.folder / token).open("r+")  # file systems of a network lock only what may be written
        except FileNotFoundError:
            return False
        with file:
            if os.fstat(file.fileno()).st_ino != int(inode):
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return (self.folder / token).exists()  # its holder did not remove it a moment ago

    def remove(self, name: str) -> None:
        """Removes the file of a lock about which there is nothing left to ask."""
        (self.folder / name.partition(".")[0]).unlink(missing_ok=True)
