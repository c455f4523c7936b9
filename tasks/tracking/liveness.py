"""Signs of life: who works on a run of MLflow holds a lock on a file, which the system takes back however the process ends."""

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
class Signs:
    """The signs of one output folder. Nobody can tell anything of a sign that was given in another one.

    Attributes:
        folder: Folder of the files; it is made when it is needed.
    """

    folder: Path

    @classmethod
    def of(cls, local: LocalStore) -> Signs:
        """Returns the signs of a folder of finished stages."""
        return cls(local.root / ".alive")

    @contextmanager
    def given(self) -> Iterator[str]:
        """Gives the name of a new sign, which says "alive" until the block or the process ends."""
        make_private(self.folder)
        path = self.folder / uuid.uuid4().hex
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # with its number on the disk: in a copy of the folder nobody holds the lock, however alive the process is
            yield f"{path.name}.{os.fstat(file.fileno()).st_ino}"

    def is_dead(self, sign: str) -> bool:
        """Tells whether a sign was given in this folder and nobody holds it any more."""
        name, _, number = sign.partition(".")
        try:
            file = (self.folder / name).open("r+")  # file systems of a network lock only what may be written
        except FileNotFoundError:
            return False
        with file:
            if os.fstat(file.fileno()).st_ino != int(number):
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return (self.folder / name).exists()  # it had not just been taken back by whoever gave it

    def forget(self, sign: str) -> None:
        """Removes the file of a sign that nobody has to ask after."""
        (self.folder / sign.partition(".")[0]).unlink(missing_ok=True)
