"""Folders that only their owner can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from softgrpo.common.files import make_private
from softgrpo.pipeline.store import LocalStore


def mode(path: Path) -> int:
    """Returns the rights of a folder."""
    return path.stat().st_mode & 0o777


@pytest.fixture
def open_output(tmp_path: Path) -> Iterator[Path]:
    """An output folder that all users may read, as a shell makes it."""
    before = os.umask(0o022)
    (folder := tmp_path / "outputs").mkdir()
    yield folder
    os.umask(before)


def test_each_missing_folder_is_private_and_what_was_there_keeps_its_mode(open_output: Path) -> None:
    assert make_private(open_output / "a" / "b") == open_output / "a" / "b"
    make_private(open_output / "a" / "b")  # it is there already
    assert [mode(open_output / name) for name in (".", "a", "a/b")] == [0o755, 0o700, 0o700]


def test_a_file_in_its_place_is_an_error(open_output: Path) -> None:
    (open_output / "file").touch()
    for path in (open_output / "file", open_output / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            make_private(path)


def test_the_folders_of_the_store_are_private(open_output: Path) -> None:
    store = LocalStore(open_output / "stages")
    with store.lock("key"), store.staging("key") as folder:
        (folder / "file").touch()
        store.work("key")
        store.commit("key", folder)
    assert [mode(each) for each in (open_output / "stages").iterdir() if each.is_dir()] == [0o700] * 4
    assert mode(open_output / "stages") == 0o700
