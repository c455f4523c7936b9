"""Edits to the code: a stage whose code changed is made again, with those that its new result changes, and no other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.runs import NODES, ROOT, Problem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "softgrpo", copy / "softgrpo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", copy)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old} is not once in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def stages_run(problem: Problem, checkout: Path) -> list[str]:
    """Runs the problem with the code of a checkout and returns the stages that were made."""
    code = f"import sys; sys.path.insert(0, {str(checkout)!r}); from softgrpo.flows.cli import main; sys.exit(main(sys.argv[1:]))"
    said = problem.start(stage="standalone", program=code, folder=checkout).end()
    return re.findall(r"stage (\S+): running", said)


def test_an_edit_repeats_what_it_can_change_and_nothing_before(
    make_problem: Callable[..., Problem], checkout: Path
) -> None:
    problem = make_problem("edits")
    assert stages_run(problem, checkout) == list(NODES)
    (checkout / "README.md").write_text("Another text.", encoding="utf-8")
    trainer = checkout / "softgrpo/algorithm/sft_trainer.py"
    edit(trainer, '"""Returns `-mean_b', '"""Gives `-mean_b')  # what it says, not what it does
    assert stages_run(problem, checkout) == []
    helper = "return -(weighted * logits.float().log_softmax(-1)).sum(-1).mean()"
    edit(trainer, helper, f"{helper} * 0.5")
    assert stages_run(problem, checkout) == ["sft", "grpo", "test"]
