"""How far a run is, as its file says: from the first stage to its end, however that comes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from softgrpo.errors import StoreError
from softgrpo.reporting import ProgressBar
from softgrpo.tasks.running import progress_file as module
from softgrpo.tasks.running.progress_file import RunProgress, bar_watches, note_begin, note_end, progress_file
from softgrpo.tasks.tracking.liveness import LivenessLocks


@pytest.fixture
def locks(tmp_path: Path) -> LivenessLocks:
    return LivenessLocks(tmp_path / "stages" / ".alive")


def told(output: Path) -> RunProgress:
    return RunProgress.read(output / "progress" / "abc.json")


def test_a_run_from_stage_to_stage(tmp_path: Path, locks: LivenessLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_WRITES", 0.0)
    with progress_file(tmp_path, locks, "abc", "a run", {"split": 1.0, "sft": 9.0, "test": None}):
        assert [node.state for node in told(tmp_path).nodes.values()] == ["waiting"] * 3
        note_end("abc", "split", "reused")
        note_begin("abc", "sft")
        (watch,) = bar_watches("abc", "sft")
        bar = ProgressBar(total=40, desc="SFT", unit="step", file=io.StringIO())
        bar.n, bar.start_t = 10, bar._time() - 5.0  # 2 steps a second: 15 s for the other 30
        watch(bar)
        run = told(tmp_path)
        assert run.state == "running" and not locks.is_dead(run.lock)
        assert (run.nodes["split"].state, run.nodes["sft"].state) == ("reused", "running")
        assert run.nodes["sft"].bar.startswith("SFT: step 10 of 40, about 15 s left")
        assert run.nodes["sft"].left == pytest.approx(15, abs=0.5) and run.nodes["sft"].estimate == 9.0
        bar.leave, bar.n = False, 40  # an evaluation's, which vanishes
        watch(bar)
        assert told(tmp_path).nodes["sft"].bar == run.nodes["sft"].bar
        note_end("abc", "sft", "done")
        bar.close()
    run = told(tmp_path)
    assert run.state == "finished" and run.ended is not None and run.ended >= run.began
    assert [node.state for node in run.nodes.values()] == ["reused", "done", "waiting"]
    assert list(locks.folder.iterdir()) == []


@pytest.mark.parametrize(("error", "state"), [(ValueError("broken"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_a_run_that_does_not_come_to_its_end(
    error: BaseException, state: str, tmp_path: Path, locks: LivenessLocks
) -> None:
    with pytest.raises(type(error)), progress_file(tmp_path, locks, "abc", "a run", {"split": None}):
        note_begin("abc", "split")
        raise error
    assert (told(tmp_path).state, told(tmp_path).nodes["split"].state) == (state, "failed")


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    """A stage of a run that is not of this process, as on a worker of a cluster."""
    note_begin("xyz", "split")
    note_end("xyz", "split", "done")
    assert bar_watches("xyz", "split") == () and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": {"a": {"colour": 1}}}', '{"nodes": []}'])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "abc.json").write_text(text)
    with pytest.raises(StoreError, match="STORE-047"):
        RunProgress.read(tmp_path / "abc.json")
