"""Several processes that train together: the same as one alone, heard, ended with who started them, and never taken for whole."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from softgrpo.config import ExperimentConfig
from softgrpo.config.learning import TrainConfig
from softgrpo.errors import ConfigError, ProcessError, RecallerError
from softgrpo.reporting import watched
from softgrpo.stages import sft
from softgrpo.stages.contract import StageContext
from softgrpo.stages.together import check_gpus, train_together
from tests.softgrpo.stages.tiny_run import TinyRun, coloured_corpus, random_items, run_stages, toy_model
from tests.support.together_stages import seen

pytestmark = pytest.mark.timeout(900)  # many processes are started, each of which imports torch

ROOT = Path(__file__).parents[3]
PROGRAM = "softgrpo.stages.training_process"


@dataclass
class Heard:
    """Keeps what a stage says, and kills one of its processes at a step."""

    kill_at: int | None = None
    points: list[tuple[dict[str, float], int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points.append((dict(values), step))
        if step == self.kill_at:
            children()[1].kill()

    def info(self, message: str) -> None:
        self.lines.append(message)


def children(pid: int | None = None) -> list[psutil.Process]:
    """Returns the processes that train together for a process, by rank."""
    found = [each for each in psutil.Process(pid).children() if PROGRAM in " ".join(each.cmdline())]
    return sorted(found, key=lambda each: int(each.environ()["RANK"]))


def go(root: Path, variant: str = "", **train: Any) -> tuple[dict[str, float], Heard]:
    """Runs the training without a model in two processes; returns its metrics and what it said."""
    heard, out, work = Heard(), root / "out", root / "work"
    for folder in (out, work):
        folder.mkdir(parents=True)
    sections = {"train": {"processes": 2, "device": "cpu", **train}, "limits": {"memory_gb": 3.0}}
    context = StageContext(ExperimentConfig.model_validate(sections), variant, {}, out, work, heard)
    return train_together(context, "tests.support.together_stages"), heard


def test_both_are_heard_and_the_first_fills_the_folder(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("softgrpo.stages.together.free_cores", lambda: 5)
    bars: list[tuple[str, float]] = []
    with caplog.at_level(logging.INFO), watched(lambda bar: bars.append((bar.desc, bar.n))):
        metrics, heard = go(tmp_path)
    assert metrics == {"total": 6.0}  # 1 + 2, of both, and again
    assert heard.points == [({"loss": 0.5}, 3)] and heard.lines == ["2 processes train together", "half way"]
    assert [text for name, _, text in caplog.record_tuples if name == "softgrpo.trial"] == ["logged by 0"]
    assert ("steps", 4) in bars
    captured = capfd.readouterr()
    assert "printed" in captured.err and captured.out == ""
    assert (tmp_path / "out/made").read_text() == "0"
    notes = seen(tmp_path / "work")
    assert {rank: (note["threads"], note["memory_gb"]) for rank, note in notes.items()} == {0: (2, 1.5), 1: (2, 1.5)}
    assert not any(psutil.pid_exists(note["pid"]) for note in notes.values())


@pytest.mark.slow
def test_the_cause_of_a_failure_is_told(tmp_path: Path) -> None:
    """The first process fails too, since its partner is gone; what it says of that is not the cause."""
    with pytest.raises(RecallerError) as refused:
        go(tmp_path / "a", "Refused")
    assert (refused.value.received, refused.value.code) == ("the loss is NaN", "RECALLER-000")
    with pytest.raises(RuntimeError, match="ValueError: a bug") as broken:
        go(tmp_path / "b", "Broken")
    assert "together_stages.py" in broken.value.__notes__[0]
    with pytest.raises(
        ProcessError, match=r"Process 1 of those that train together ended with code -9\. .*PROCESS-003"
    ):
        go(tmp_path / "c", "Dead")
    for name in "abc":
        assert not (tmp_path / name / "out/made").exists()
    assert children() == []


@pytest.mark.slow
def test_kill_9_of_who_started_them_ends_them(tmp_path: Path) -> None:
    code = f"from tests.softgrpo.stages.test_together import *; go(Path({str(tmp_path)!r}), 'Slow')"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while len(seen(tmp_path / "work")) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    both = children(parent.pid)
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs(both, timeout=10)
    assert len(gone) == 2


@pytest.mark.parametrize(
    ("rows", "passes", "processes", "own"),
    [(16, 1, 1, (16, 1)), (16, 1, 2, (8, 1)), (16, 4, 2, (16, 2)), (2, 6, 4, (1, 3)), (3, 2, 6, (1, 1))],
)
def test_a_step_has_as_many_prompts_as_with_one(rows: int, passes: int, processes: int, own: tuple[int, int]) -> None:
    config = TrainConfig(
        per_device_train_batch_size=rows, gradient_accumulation_steps=passes, processes=processes, evaluations=2
    )
    assert config.share(processes) == own and own[0] * own[1] * processes == rows * passes


def test_a_number_that_does_not_divide_the_prompts_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"processes = 3 cannot share out the 16 prompts .* choose a divisor of 16"
    ):
        TrainConfig(processes=3)


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"train\.processes = 2 on .*, where torch sees 1 GPU\. Each process .*CONFIG-118"
    ):
        check_gpus(TrainConfig(processes=2))
    check_gpus(TrainConfig(processes=2, device="cpu"))
    check_gpus(TrainConfig())


# ---------------------------------------------------------------- the stages

TRAIN = {"device": "cpu", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "evaluations": 2}
DIFFERENT = ("per_second", "padding_share", "grad_norm")
"""Times; batches are cut another way; and a norm is compared by itself, since it is no mean."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, TinyRun]:
    """SFT and SofT-GRPO by one process and by two, without dropout."""
    root = tmp_path_factory.mktemp("together")
    model = toy_model(root / "model")

    def make(processes: int) -> TinyRun:
        train = TRAIN | {"processes": processes, "lr_scheduler": "constant_with_warmup"}
        own = {"learning_rate": 1e-3, "num_train_epochs": 2, "disable_dropout": True}
        corpus, items = coloured_corpus(), random_items(160)
        reward = {"learning_rate": 1e-3, "num_train_epochs": 1, "num_generations": 8, "top_p": 1.0}
        return run_stages(root / f"{processes}", model, corpus, items, until="grpo", train=train, sft=own, grpo=reward)

    return {processes: make(processes) for processes in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_processes_give_what_one_gives(runs: dict[int, TinyRun], stage: str) -> None:
    one, two = (runs[processes].folders[stage] for processes in (1, 2))
    curves = [json.loads((folder / "curves.json").read_text()) for folder in (one, two)]
    names = [{name for name in each if not name.endswith(DIFFERENT)} for each in curves]
    assert names[0] == names[1] >= {"loss", "eval_ndcg_multi"}
    for name in names[0]:
        assert curves[0][name]["step"] == curves[1][name]["step"]
        assert curves[0][name]["value"] == pytest.approx(curves[1][name]["value"], abs=1e-4), name
    last = [trained(folder) for folder in (one, two)]
    start = load_file((one.parents[1] / "model" if stage == "sft" else one.parent / "sft") / "model.safetensors")
    moved = {name: (value - start[name]).abs().max() for name, value in last[0].items() if name in start}
    assert max(moved.values()) > 1e-3
    for name, value in last[0].items():  # Adam divides by the size of a gradient, so a rounding counts more than in SGD
        if name.endswith("key.bias"):
            continue  # nothing depends on it, so its gradient is a rounding and no more
        assert torch.allclose(value, last[1][name], rtol=0.0, atol=2e-4), name
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights of a stage's last checkpoint; the one that is kept may be that of the start."""
    checkpoints = (folder.parent / "work" / folder.name / "checkpoints").glob("checkpoint-*")
    return load_file(max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2])) / "model.safetensors")


@pytest.mark.slow
def test_a_killed_process_ends_the_stage_and_the_next_goes_on(runs: dict[int, TinyRun], tmp_path: Path) -> None:
    """With dropout, so that the random state of each process counts."""
    run = runs[2]
    config = run.config.model_copy(update={"sft": run.config.sft.model_copy(update={"disable_dropout": False})})

    def train(name: str, work: str, heard: Heard) -> Path:
        out = tmp_path / name
        out.mkdir()
        sft.run(StageContext(config, "", run.folders, out, tmp_path / work, heard))
        return out

    whole = train("whole", "work-whole", Heard())
    with pytest.raises(ProcessError, match="Process 1 of those that train together ended with code -9"):
        train("killed", "work", Heard(kill_at=5))
    assert list((tmp_path / "killed").iterdir()) == [] and children() == []
    heard = Heard()
    resumed = train("resumed", "work", heard)
    assert any(re.match(r"resuming from checkpoint-4", line) for line in heard.lines)
    for name in ("model.safetensors", "curves.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    left, right = (
        sorted((tmp_path / work / "checkpoints").rglob("model.safetensors"))[-1] for work in ("work-whole", "work")
    )
    assert left.read_bytes() == right.read_bytes()
