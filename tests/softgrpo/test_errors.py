"""A full disk and a lack of memory are told apart from everything else, whoever reports them and in whatever words."""

from __future__ import annotations

import copy
import errno
import pickle
import sqlite3
from collections.abc import Callable

import pytest

from softgrpo.errors import (
    MemoryLimitError,
    RecallerError,
    SoftGRPOError,
    StoreError,
    TrainingError,
    full_disk_is_readable,
    is_full_disk,
    lack_of_memory,
    lack_of_memory_is_readable,
    no_space,
)
from softgrpo.flows.runtime.failures import explained, readable


def passed_on(error: SoftGRPOError) -> SoftGRPOError:
    """Returns the error that another process gets."""
    again: SoftGRPOError = pickle.loads(pickle.dumps(error))
    return again


@pytest.mark.parametrize("kind", SoftGRPOError.__subclasses__())
@pytest.mark.parametrize("copied", [passed_on, copy.copy, copy.deepcopy])
def test_an_error_shows_its_code_and_keeps_it(
    kind: type[SoftGRPOError], copied: Callable[[SoftGRPOError], SoftGRPOError]
) -> None:
    error = kind("user '7,42'.", "users are separated by spaces", "Write --users 7 42", code="DATA-000")
    error.add_note("from far away")
    again = copied(error)
    assert type(again) is kind and again.code == "DATA-000" and again.__notes__ == ["from far away"]
    assert str(again) == "user '7,42'. Users are separated by spaces. Write --users 7 42. [DATA-000]" == readable(error)


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
    "error",
    [FileNotFoundError(errno.ENOENT, "x"), RuntimeError(TORCH), TrainingError("a", "b", "c", code="TRAINING-000")],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_full_disk(error)
    with pytest.raises(type(error)) as raised, full_disk_is_readable():
        raise error
    assert raised.value is error


TORCH_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
SHORT_OF_MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(TORCH_MEMORY),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("can't start new thread"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    after(
        MemoryError(),
        RecallerError("RecBole refuses to train BPR", "b", "Correct recall.settings", code="RECALLER-000"),
    ),
]


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=str)
def test_a_lack_of_memory_becomes_one_error_for_people(error: Exception) -> None:
    with (
        pytest.raises(MemoryLimitError, match=r"sft: no memory is left .*halve") as raised,
        lack_of_memory_is_readable("sft"),
    ):
        raise error
    assert explained(raised.value) is raised.value
    if not isinstance(error, RecallerError):
        assert readable(error).startswith("no memory is left (")


@pytest.mark.parametrize(
    "error",
    [ValueError("out of memory"), RuntimeError("shapes differ"), ImportError("No module named 'x'"), no_space()],
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert lack_of_memory(error) is None
    with pytest.raises(type(error)), lack_of_memory_is_readable("sft"):
        raise error


def test_a_database_that_turns_out_to_be_damaged_is_no_fault_of_softgrpo() -> None:
    wrapped = after(
        sqlite3.DatabaseError("database disk image is malformed"), RuntimeError("(sqlite3.DatabaseError) ...")
    )
    assert "A SQLite database says: database disk image is malformed" in readable(wrapped)
    assert "probably a fault" in readable(after(sqlite3.IntegrityError("UNIQUE"), RuntimeError("x")))
