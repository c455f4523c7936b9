"""Liveness locks: held while a process works, free when it has ended, unknown in another folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softgrpo.tasks.tracking.liveness import LivenessLocks

HOLDER = """
import sys, time
from pathlib import Path
from softgrpo.tasks.tracking.liveness import LivenessLocks
with LivenessLocks(Path(sys.argv[1])).hold() as lock:
    print(lock, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def locks(tmp_path: Path) -> LivenessLocks:
    return LivenessLocks(tmp_path / "alive")


def test_a_lock_is_alive_inside_its_block_and_dead_after_it(locks: LivenessLocks) -> None:
    with locks.hold() as lock:
        assert not locks.is_dead(lock)
        with locks.hold() as other:
            assert other != lock
    assert locks.is_dead(lock) and locks.is_dead(other)


def test_a_lock_dies_with_its_process_however_that_ends(locks: LivenessLocks) -> None:
    command = [sys.executable, "-c", HOLDER, str(locks.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        lock = holder.stdout.readline().strip()
        assert not locks.is_dead(lock)
        holder.kill()
    assert locks.is_dead(lock)


def test_nothing_is_known_of_locks_that_were_taken_elsewhere_or_removed(locks: LivenessLocks, tmp_path: Path) -> None:
    with locks.hold() as lock:
        shutil.copytree(locks.folder, tmp_path / "copy")
        assert not LivenessLocks(tmp_path / "copy").is_dead(lock)  # nobody holds the copy, and its process is alive
        locks.folder.rename(tmp_path / "moved")
        assert not LivenessLocks(tmp_path / "moved").is_dead(lock)
    assert LivenessLocks(tmp_path / "moved").is_dead(lock)
    assert not LivenessLocks(tmp_path / "nowhere").is_dead(lock)
    LivenessLocks(tmp_path / "moved").remove(lock)
    assert not LivenessLocks(tmp_path / "moved").is_dead(lock)
