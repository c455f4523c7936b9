"""The numbers of the page on troubles are those that the examples print."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from softgrpo.pipeline.run import run_standalone
from softgrpo.presets import resolve
from tests.documents.test_docs import rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


def numbers(text: str, columns: int) -> list[list[float]]:
    """Returns the rows of numbers in tables of so many columns."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [\d.e-]+ \|", line)]
    return [[float(cell.rstrip("%")) for cell in cells] for cells in lines if len(cells) == columns]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[list[str]], None]]:
    """Gives the `main` of an example."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def load(name: str) -> Callable[[list[str]], None]:
        main: Callable[[list[str]], None] = runpy.run_path(str(ROOT / "examples" / name))["main"]
        return main

    return load


def test_slow_and_collapsed_training_look_as_the_page_says(
    script: Callable[[str], Callable[[list[str]], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {row[0]: row for row in numbers(PAGE, 7)}
    assert list(told) == [3e-5, 3e-4, 3e-3, 3e-2, 1e-1, 3e-1]
    script("learning_rates.py")(["--rates", "3e-5", "3e-1"])
    slow, collapsed = numbers(capsys.readouterr().out, 7)
    assert slow == pytest.approx(told[3e-5], rel=0.1)  # other processors round otherwise
    assert collapsed[4:6] == pytest.approx([0, 1], abs=1e-3)
    assert told[3e-3][-1] > 0.95 > told[3e-4][-1] > told[3e-5][-1]


@pytest.mark.slow
def test_more_samples_and_a_deeper_cut_off_leave_fewer_groups_of_equal_rewards(
    script: Callable[[str], Callable[[list[str]], None]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # two of which neither is best alone: a mixture with all its weight on one has a support of one class, and equal rewards
    pool = {"recall.recallers": ["SASRec", "ItemKNN"], "recall.settings.SASRec.epochs": 3, "data.max_users": 500}
    config = resolve("ml-100k", "tiny", overrides=pool)
    run_standalone(config, "data", output=tmp_path)
    capsys.readouterr()
    script("sparse_reward.py")(["--output", str(tmp_path)])
    found, told = (numbers(text, 4) for text in (capsys.readouterr().out, PAGE))
    assert [row[0] for row in found] == [row[0] for row in told] == [10, 20, 50]
    for table in (found, told):
        assert all(row[1] >= row[2] >= row[3] for row in table)
        assert all(upper > lower for column in range(1, 4) for upper, lower in zip(*_pairs(table, column), strict=True))


@pytest.mark.slow
def test_fewer_prompts_at_once_take_less_memory(script: Callable[[str], Callable[[list[str]], None]]) -> None:
    told = {
        cells[0]: int(cells[2].split()[0].replace(",", ""))
        for cells in rows(ROOT / "docs/troubleshooting.md")
        if len(cells) == 4 and "MiB" in cells[2]
    }
    example = importlib.import_module("step_memory")
    assert list(told) == list(example.SETTINGS)
    names = [name for name in told if name.startswith(("64 prompts", "16 at once"))]
    peaks = [example.measure(example.SETTINGS[name])[1] for name in names]
    assert peaks[1] < 0.7 * peaks[0]
    assert peaks == pytest.approx([told[name] for name in names], rel=0.25)  # allocators differ


def _pairs(table: list[list[float]], column: int) -> tuple[list[float], list[float]]:
    values = [row[column] for row in table]
    return values[:-1], values[1:]
