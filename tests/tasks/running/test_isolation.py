"""A stage in a process of its own: what it says arrives here, and it never outlives who started it."""

from __future__ import annotations

import logging
import math
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import MemoryLimitError, ProcessError, RecallerError
from softgrpo.reporting import ProgressBar, watched
from softgrpo.stages.contract import Node, Stage, StageContext
from softgrpo.tasks.running.isolation import Isolation
from tests.support import together_stages
from tests.support.isolated_stages import recaller, seen, waiting

ROOT = Path(__file__).parents[3]


@dataclass
class Heard:
    """Keeps what a stage says."""

    points: list[tuple[dict[str, float], int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def metrics(self, values: Any, step: int) -> None:
        self.points.append((dict(values), step))

    def info(self, message: str) -> None:
        self.lines.append(message)


def go(
    root: Path, variant: str, isolation: Isolation, config: ExperimentConfig | None = None
) -> tuple[dict[str, float], Heard]:
    """Runs one stage; returns its metrics and what it said."""
    heard, out, work = Heard(), root / ".staging" / variant, root / ".work"
    for folder in (out, work):
        folder.mkdir(parents=True)
    node = isolation.node(recaller(variant))
    inputs = {"split": root}
    return node.stage.run(StageContext(config or ExperimentConfig(), variant, inputs, out, work, heard)), heard


def test_a_stage_fills_its_folder_and_is_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    bars: list[tuple[str, float]] = []

    def look(bar: ProgressBar) -> None:
        bars.append((bar.desc, bar.n))

    with caplog.at_level(logging.INFO), watched(look):
        metrics, heard = go(tmp_path, "Loud", Isolation(threads=3))
    assert metrics == {"length": 4.0}
    assert (tmp_path / ".staging" / "Loud" / "made").read_text() == "Loud(['split'])"
    (found,) = seen(tmp_path).values()
    assert found["pid"] != psutil.Process().pid and found["threads"] == "3"
    ((values, step),) = heard.points
    assert values["loss"] == 0.5 and math.isnan(values["bad"]) and step == 3
    assert heard.lines == ["half way"]
    assert ("softgrpo.trial", logging.INFO, "logged") in caplog.record_tuples
    assert any(name == "py.warnings" and "warned" in text for name, _, text in caplog.record_tuples)
    assert "not worth a line" not in caplog.text
    assert ("steps", 4) in bars
    assert "printed" in capfd.readouterr().err
    assert not psutil.pid_exists(found["pid"])


def test_errors_come_back_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RecallerError) as refused:
        go(tmp_path / "a", "Refused", Isolation())
    assert (refused.value.received, refused.value.remedy) == ("the loss is NaN", "lower the rate")
    with pytest.raises(RuntimeError, match="ValueError: a bug") as broken:
        go(tmp_path / "b", "Broken", Isolation())
    assert "isolated_stages.py" in broken.value.__notes__[0]
    with pytest.raises(MemoryLimitError, match=r"recall-Hungry: no memory is left \(MemoryError"):
        go(tmp_path / "c", "Hungry", Isolation())
    with pytest.raises(ProcessError, match=r"recall-Dead: its process ended with code -9.*where memory is short"):
        go(tmp_path / "d", "Dead", Isolation())


def test_an_interrupt_ends_what_is_at_work_and_lets_nothing_begin(tmp_path: Path) -> None:
    isolation, raised = Isolation(), []

    def work() -> None:
        try:
            go(tmp_path, "Slow", isolation, waiting(Slow=["nobody"]))
        except BaseException as error:
            raised.append(type(error))

    thread = threading.Thread(target=work)
    with pytest.raises(KeyboardInterrupt), isolation.until_interrupted():
        thread.start()
        while not seen(tmp_path):
            assert thread.is_alive()
            time.sleep(0.01)
        raise KeyboardInterrupt
    thread.join(timeout=30)
    assert raised == [KeyboardInterrupt]
    assert not psutil.pid_exists(seen(tmp_path)["Slow"]["pid"])
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "later", "A", isolation)
    assert not (tmp_path / "later" / "seen").exists()
    assert go(tmp_path / "elsewhere", "A", pickle.loads(pickle.dumps(isolation)))[0] == {"length": 1.0}


def test_an_error_beside_it_leaves_a_stage_alone(tmp_path: Path) -> None:
    isolation = Isolation()
    with pytest.raises(ValueError), isolation.until_interrupted():
        raise ValueError
    assert go(tmp_path, "A", isolation)[0] == {"length": 1.0}


@pytest.mark.slow
def test_processes_that_train_together_end_with_their_stage(tmp_path: Path) -> None:
    """Which is itself in a process of its own."""
    out, raised = tmp_path / "out", []
    (tmp_path / "work").mkdir()
    out.mkdir()
    stage = Stage("sft", together_stages.run, lambda config, variant: {}, together_stages.__name__, ())
    node = Isolation().node(Node("sft", stage, "Slow", ()))
    config = ExperimentConfig.model_validate({"train": {"processes": 2, "device": "cpu"}})

    def work() -> None:
        try:
            node.stage.run(StageContext(config, "Slow", {}, out, tmp_path / "work", Heard()))
        except ProcessError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while len(notes := together_stages.seen(tmp_path / "work")) < 2:
        assert thread.is_alive()
        time.sleep(0.01)
    both = [psutil.Process(note["pid"]) for note in notes.values()]
    parents = {process.ppid() for process in both}
    assert len(parents) == 1 and psutil.Process().pid not in parents
    psutil.Process(parents.pop()).kill()
    gone, _ = psutil.wait_procs(both, timeout=10)
    thread.join(timeout=30)
    assert len(gone) == 2 and len(raised) == 1 and "sft: its process ended with code -9" in raised[0]


def test_kill_9_of_who_started_it_ends_a_stage(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.tasks.running.test_isolation import go, waiting;"
        "from softgrpo.tasks.running.isolation import Isolation;"
        f"go(Path({str(tmp_path)!r}), 'Slow', Isolation(), waiting(Slow=['nobody']))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not seen(tmp_path):
        assert parent.poll() is None
        time.sleep(0.01)
    child = psutil.Process(seen(tmp_path)["Slow"]["pid"])
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone == [child]
