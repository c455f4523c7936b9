"""Cores that a process may use: those that the system gives it, or those of the machine."""

from __future__ import annotations

import pytest

from softgrpo.common.cores import usable_cores


@pytest.mark.parametrize(("system", "cores"), [("linux", 3), ("darwin", 12)])
def test_cores_are_those_of_the_process_where_the_system_says_so(
    system: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "linux":
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(3)))
    else:  # its os lacks the function
        monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert usable_cores() == cores
