"""A full disk is told apart from everything else, whoever reports it and in whatever words."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from softgrpo.errors import StoreError, TrainingError, full_disk_is_readable, is_full_disk, no_space

TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"


def after(first: Exception, second: Exception) -> Exception:
    """Returns the second error as it is when it is raised while the first one is handled."""
    try:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904  # no cause, on purpose
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
        after(RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), RuntimeError(TORCH)),
        after(no_space(), sqlite3.OperationalError("disk I/O error")),
    ],
)
def test_a_full_disk_in_the_words_of_each_library(error: Exception) -> None:
    assert is_full_disk(error)
    message = r"^no space is left on the disk\..* Make room"
    with pytest.raises(StoreError, match=message) as raised, full_disk_is_readable():
        raise error
    assert raised.value.__cause__ is error  # --debug shows where it happened


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), RuntimeError(TORCH), TrainingError("a", "b", "c")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_full_disk(error)
    with pytest.raises(type(error)) as raised, full_disk_is_readable():
        raise error
    assert raised.value is error
