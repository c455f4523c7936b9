"""`softgrpo watch`: a run of another process, once and until it ends."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from softgrpo.flows.cli import main
from softgrpo.flows.results.live import live_view
from softgrpo.tasks.running.progress_file import RunProgress, note_begin, note_end, progress_file
from softgrpo.tasks.tracking.liveness import LivenessLocks


def work(output: Path, begun: threading.Event) -> None:
    """Is a run of one stage that takes a second and a half."""
    with progress_file(output, LivenessLocks(output / "stages" / ".alive"), "abcdef12", "a run", {"sft": 2.0}):
        note_begin("abcdef12", "sft")
        begun.set()
        time.sleep(1.5)
        note_end("abcdef12", "sft", "done")


def test_a_run_is_watched_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()
    thread = threading.Thread(target=work, args=(tmp_path, begun))
    thread.start()
    begun.wait()
    where = ["--output", str(tmp_path)]
    assert main(["watch", "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["nodes"]["sft"]["state"]) == ("running", "running") and 0 < shown["seconds_left"] <= 2
    assert main(["watch", "abcdef", *where]) == 0  # no terminal: lines, until it ends
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run abcdef12, a run, 0 of 1 stage, running for ") and lines[0].endswith(
        "; sft: running"
    )
    assert lines[-2].startswith("run abcdef12, a run, 1 of 1 stage, finished after 2 s")
    assert lines[-1].split() == ["sft", "done", "2", "s"]
    assert main(["watch", "--once", *where]) == 0
    assert capsys.readouterr().out.splitlines() == lines[-2:]


def test_an_interrupt_ends_the_view_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softgrpo.flows.command.watch.time.sleep", interrupted)
    with progress_file(tmp_path, LivenessLocks(tmp_path / "stages" / ".alive"), "abcdef12", "a run", {"sft": 2.0}):
        assert main(["watch", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "0 of 1 stage" in said.out and "interrupted" not in said.err


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    begun = threading.Event()
    work(tmp_path, begun)
    run = RunProgress.read(tmp_path / "progress" / "abcdef12.json")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live_view(run, time.time()))
    text = console.export_text().splitlines()
    assert text[0].startswith("run abcdef12, a run, 1 of 1 stage, finished") and text[2].split()[:2] == ["sft", "done"]


def test_without_a_run_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--output", str(tmp_path)]) == 2
    assert "CONFIG-116" in capsys.readouterr().err
