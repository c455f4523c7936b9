"""Room that lies in a file is like room in memory, and does not count as the memory of the process."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from softgrpo.common import scratch as module
from softgrpo.common.scratch import scratch


def lies_in_a_file(array: np.ndarray) -> bool:
    """Tells whether an array is a view of a mapped file."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


@pytest.mark.parametrize("limit", [0, 2**26])
def test_room_is_zero_at_first_and_keeps_what_is_put_in(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", limit)
    room = scratch((3, 4), np.int32)
    assert room.shape == (3, 4) and room.dtype == np.int32 and not room.any()
    assert lies_in_a_file(room) == (limit == 0)
    room[1] = 7
    assert room.sum() == 28 and room.flags.writeable and type(room) is np.ndarray


def test_a_full_disk_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        scratch((2,))
