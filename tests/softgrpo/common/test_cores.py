"""Cores that a process may use: those that the system gives it, or those of the machine."""

from __future__ import annotations

import pytest

from softgrpo.common.cores import free_cores, usable_cores


@pytest.mark.parametrize(("says", "cores"), [(True, 3), (False, 12)])
def test_cores_are_those_of_the_process_where_the_system_says_so(
    says: bool, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(3)))
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    if not says:
        monkeypatch.delattr("os.sched_getaffinity")
    assert usable_cores() == cores


@pytest.mark.parametrize(("said", "cores"), [(None, 4), ("", 4), ("1", 1), ("3", 3), ("64", 4), ("0", 4), ("x", 4)])
def test_free_cores(said: str | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert free_cores() == cores
