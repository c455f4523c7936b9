"""Two processes (gloo on the CPU, through `accelerate launch`) give what one gives with twice the accumulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.distributed_run import CASES

ROOT = Path(__file__).parents[3]
SCRIPT = str(ROOT / "tests/support/distributed_run.py")
# `accelerate launch --cpu --num_processes 2` starts one process unless there is MPI; --multi_gpu is what starts several
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
DIFFERENT = ("second", "runtime", "eval_padding_share")  # times; and evaluation batches are cut another way

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]  # one fixture for all


def run(folder: Path, launch: list[str], accumulation: int) -> Path:
    """Runs the script in a new process or in two, and returns the folder of its results."""
    folder.mkdir()
    changed = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, SCRIPT, str(folder), str(accumulation)]
    done = subprocess.run(command, env=os.environ | changed, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results of one process with accumulation 4 and of two with accumulation 2: 8 rows per step."""
    work = tmp_path_factory.mktemp("distributed")
    return run(work / "one", [], 4), run(work / "two", LAUNCH, 2)


def weights(folder: Path, case: str) -> dict[str, torch.Tensor]:
    """Returns the weights behind a case."""
    return load_file(folder / f"{case}.safetensors")


def history(folder: Path, case: str) -> list[dict[str, Any]]:
    """Returns the log of a case without what may differ."""
    entries = json.loads((folder / f"{case}.json").read_text())
    return [{name: value for name, value in e.items() if not any(w in name for w in DIFFERENT)} for e in entries]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_twice_the_accumulation(folders: tuple[Path, Path], case: str) -> None:
    one, two = folders
    first, second = weights(one, case), weights(two, case)
    # 6 or 12 steps of SGD with rate 0.1; sums taken in another order, some 1e-7 of float32
    assert all(torch.allclose(first[name], second[name], rtol=0.0, atol=2e-6) for name in first)
    assert any((first[name] - value).abs().max() > 1e-3 for name, value in weights(one, other(case)).items())
    for left, right in zip(history(one, case), history(two, case), strict=True):
        assert left == pytest.approx(right, abs=1e-5)


def other(case: str) -> str:
    """Returns another case, to see that the comparison can tell."""
    names = list(CASES)
    return names[names.index(case) - 1]


def test_two_processes_resume_exactly_within_an_epoch(folders: tuple[Path, Path]) -> None:
    for folder in folders:  # checkpoint-8 lies in the second epoch, whose order is another one
        through, resumed = weights(folder, "group"), weights(folder, "resumed")
        assert all(torch.equal(through[name], resumed[name]) for name in through)


def test_the_main_process_alone_writes_models(folders: tuple[Path, Path]) -> None:
    names = {path.name for path in (folders[1] / "group/checkpoint-4").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names  # there were two
    assert {"model.safetensors", "origin.json", "reference.safetensors", "trainer_state.json"} <= names
    states = [json.loads((folder / "group/checkpoint-4/trainer_state.json").read_text()) for folder in folders]
    assert states[0]["best_metric"] == states[1]["best_metric"]
    references = [load_file(folder / "group/checkpoint-4/reference.safetensors")["logits"] for folder in folders]
    assert references[0].shape == (24, 3) and torch.allclose(*references, atol=1e-6)
