"""A process that ends at every step of a commit, on a disk that has only what was waited for."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from softgrpo.pipeline.store import Committed, LocalStore

KEY = "sft-0123"
STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.fsync")
"""What Python reports of all work on files, in C code too; `os.fsync` is added here."""
CUT = 7
FAILED = 1


class FailingPower:
    """Ends this process at its n-th step of work on files. Files whose content nobody waited for become empty.

    Names are kept as they are, which is the worst case: they outlive what they stand for.

    Args:
        root: Folder that it concerns.
        steps: How many steps are done.
    """

    def __init__(self, root: Path, steps: int) -> None:
        self._root, self._left = root, steps
        self._lost: set[int] = {path.stat().st_ino for path in root.rglob("*") if path.is_file()}
        self._fsync = os.fsync
        os.fsync = self._wait  # type: ignore[assignment]
        sys.addaudithook(self._step)

    def _wait(self, descriptor: int) -> None:
        self._step("os.fsync", (descriptor,))
        self._fsync(descriptor)
        self._lost.discard(os.fstat(descriptor).st_ino)

    def _step(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in STEPS or (event != "os.fsync" and str(self._root) not in str(arguments[0])):
            return
        if self._left == 0:
            self._cut()
        self._left -= 1

    def _cut(self) -> None:
        self._left = -1
        for folder, _, names in os.walk(self._root):
            for path in (Path(folder, name) for name in names):
                state = path.stat()
                if stat.S_ISREG(state.st_mode) and state.st_ino in self._lost:
                    os.truncate(path, 0)
        os._exit(CUT)


def fill(folder: Path, text: str) -> None:
    (folder / "deep" / "deeper").mkdir(parents=True)
    for path in (folder / "weights", folder / "deep" / "numbers", folder / "deep" / "deeper" / "table"):
        path.write_text(f"{path.name} {text}")


def texts(folder: Path) -> set[str]:
    """Returns the contents of the files below a folder."""
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


def commit(store: LocalStore, text: str, *, losing_power_after: int | None = None) -> Committed:
    with store.lock(KEY), store.staging(KEY) as folder:
        (store.work(KEY) / "checkpoint").write_text("learnt")
        fill(folder, text)
        if losing_power_after is not None:
            FailingPower(store.root, losing_power_after)
        return store.commit(KEY, folder)


def code_of(child: Callable[[], object]) -> int:
    """Returns how a fork of this process ends that makes a call."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            os._exit(FAILED)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("repeated", [False, True], ids=["first", "repeated"])
def test_power_fails_at_every_step_of_a_commit(repeated: bool, tmp_path: Path) -> None:
    """Afterwards the stage is whole or not there, its mark never stands for less, and the next commit is as ever."""
    old, new = ({f"{name} {text}" for name in ("weights", "numbers", "table")} for text in ("old", "new"))
    marked = []
    for steps in count():
        store = LocalStore(tmp_path / str(steps))
        before = commit(store, "old") if repeated else None
        if before is not None:  # and it has been on the disk for long
            os.sync()
        code = code_of(partial(commit, store, "new", losing_power_after=steps))
        assert code in (CUT, 0)
        if code == 0:
            break
        mark, found = store.marked(KEY), store.find(KEY)
        assert found == mark, "a mark stands for files that are lost"
        assert found is None or texts(store.payload(KEY)) == (old if found == before else new)
        if found is None or found == before:
            assert (store.root / ".work" / KEY / "checkpoint").exists(), "neither result nor checkpoint is left"
        marked.append(found is not None and found != before)
        commit(store, "later")
        assert store.find(KEY) is not None
        assert {text.partition(" ")[2] for text in texts(store.payload(KEY))} == {"later"}
    assert marked.index(True) > 20, "most of the steps come before the mark"
    assert all(marked[marked.index(True) :]), "what was committed stays"
