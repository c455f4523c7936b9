"""Files that are there whole or not at all, and folders that only their owner can read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_private(folder: Path) -> Path:
    """Makes a folder, and those above it that are missing, each for its owner alone; what is there keeps its mode.

    Args:
        folder: Its path, often inside an output folder that other users may read.

    Returns:
        The same path.

    Raises:
        OSError: A folder cannot be made, or a file has the name of one.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)  # another process may make it at the same moment
    folder.mkdir(exist_ok=True)  # fails where a file has the name
    return folder


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside a file to write to; the file takes its place when the block ends well.

    A link at that place is replaced, and what it led to is left alone.

    Args:
        path: Of the file, in a folder that exists.
    """
    aside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
