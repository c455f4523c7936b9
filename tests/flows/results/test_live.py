"""What people see of a running pipeline, by hand from progress files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from softgrpo.errors import ConfigError
from softgrpo.flows.results.live import find_run, headline, plain_lines, read_progress, seconds_left
from softgrpo.tasks.running.progress_file import NodeProgress, RunProgress
from softgrpo.tasks.tracking.liveness import LivenessLocks

NODES = {
    "split": NodeProgress("reused", None, None, 100.0),
    "recall-BPR": NodeProgress("done", 30.0, 100.0, 141.0),
    "sft": NodeProgress("running", 50.0, 141.0, None, "SFT: step 4 of 10", 12.0, 150.0),
    "test": NodeProgress("waiting", 20.0),
}
RUN = RunProgress("0123456789abcdef", "seed 42", "running", 90.0, None, "x.1", NODES)


def write(output: Path, run: RunProgress, age: float = 0.0) -> Path:
    path = output / "progress" / f"{run.run_id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(run)))
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_time_left_by_hand() -> None:
    """At 155 the bar's 12 s are 5 s old: 7 s, and 20 s of the last stage. Without a bar 50 - 14 s of the estimate are left."""
    assert seconds_left(RUN, 155.0) == 27.0
    assert seconds_left(RUN, 190.0) == 20.0  # a bar that is late has no time left, and no less
    without = replace(RUN, nodes={**NODES, "sft": replace(NODES["sft"], left=None, seen=None)})
    assert seconds_left(without, 155.0) == 56.0
    assert seconds_left(replace(RUN, nodes={**NODES, "test": NodeProgress()}), 155.0) is None


def test_the_lines_of_a_run() -> None:
    assert plain_lines(RUN, 155.0) == [
        "run 0123456789abcdef, seed 42, 2 of 4 stages, running for 65 s, about 27 s left",
        "  split              reused",
        "  recall-BPR         done     41 s",
        "  sft                running  14 s         SFT: step 4 of 10",
        "  test               waiting  about 20 s",
    ]
    ended = replace(RUN, state="failed", ended=179.0)
    assert headline(ended, 1e9) == "run 0123456789abcdef, seed 42, 2 of 4 stages, failed after 89 s"


def test_which_run_is_meant(tmp_path: Path) -> None:
    """The newest that runs, else the newest; or the one that is named."""
    with pytest.raises(ConfigError, match="CONFIG-116"):
        find_run(None, tmp_path)
    old = write(tmp_path, replace(RUN, run_id="aaaaaaaa1", state="finished", began=1.0))
    new = write(tmp_path, replace(RUN, run_id="aaaaaaaa2", state="finished", began=2.0), age=9)
    (tmp_path / "progress" / "broken.json").write_text("{")
    assert find_run(None, tmp_path) == new
    assert find_run("aaaaaaaa1", tmp_path) == old
    running = write(tmp_path, replace(RUN, began=0.5), age=5)
    assert find_run(None, tmp_path) == running == find_run("012345", tmp_path)
    for name, message in (("aaaaaaaa", "Several runs begin so"), ("01234", "No run of that id"), ("zz", "No run")):
        with pytest.raises(ConfigError, match=message):
            find_run(name, tmp_path)


def test_a_run_whose_process_is_gone(tmp_path: Path) -> None:
    """The lock's file is there, and nobody holds it."""
    locks = LivenessLocks(tmp_path / "stages" / ".alive")
    with locks.hold() as lock:
        path = write(tmp_path, replace(RUN, lock=lock))
        assert read_progress(path, tmp_path).state == "running"
    run = read_progress(path, tmp_path)
    assert run.state == "killed" and "its process is gone" in headline(run, 155.0)
    assert plain_lines(run, 155.0)[3:] == ["  sft                killed", "  test               waiting"]
