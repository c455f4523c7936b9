"""Readers of outside files never break and never give a wrong result; `python -m tests.fuzz --seconds 600` looks for longer.

A program of its own does the looking: it may take two gigabytes beyond what its imports take, and no more.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import CORPUS, RIGHT, TARGETS, corpus

ROOT = Path(__file__).parents[2]
QUICK = tuple(name for name in TARGETS if name != "run_id")
"""Without the one that needs MLflow's database, which takes seconds to make."""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in QUICK for value in corpus(name)])
def test_what_broke_a_reader_once_breaks_none_again(name: str, value: Any, tmp_path: Path) -> None:
    TARGETS[name][0](value, tmp_path)


def test_the_corpus_belongs_to_checks() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= set(TARGETS) == set(RIGHT)


@pytest.mark.parametrize("name", QUICK)
def test_a_few_inputs_break_no_reader(name: str, tmp_path: Path) -> None:
    check, inputs = TARGETS[name]
    check(RIGHT[name], tmp_path)

    @settings(
        max_examples=4 if name == "words" else 20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def look(value: Any) -> None:
        check(value, tmp_path)

    look()


def test_a_reader_that_breaks_is_seen(tmp_path: Path) -> None:
    """The checks would prove nothing if they could not fail."""

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(st.integers())
    def look(value: int) -> None:
        TARGETS["mark"][0](f'{{"key": "{value}"}}'.encode(), tmp_path)

    look()
    with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "softgrpo.pipeline.store._read_mark",
            lambda path: {"key": "split-0123456789abcdef0123", "digest": "x", "format": 1},
        )
        look()


@pytest.mark.slow
def test_readers_are_fuzzed_for_a_while() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert all(f"{name} " in done.stdout for name in TARGETS)
    peak = float(done.stdout.rsplit("peak memory ", 1)[1].split()[0].replace(",", ""))
    assert 0 < peak < 2048
