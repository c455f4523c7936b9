"""The examples run and show what they say."""

from __future__ import annotations

import csv
import importlib
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from examples import ratio_variance
from examples.learning_problem import simplex

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """Runs an example as a script in an empty working directory, and returns its names."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_example_of_ones_own_problem_is_short_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert len((EXAMPLES / "mix_colours.py").read_text(encoding="utf-8").splitlines()) < 40
    names = run("mix_colours.py", tmp_path, monkeypatch)
    before, after = (float(text) for text in re.findall(r"reward \w+ training: ([\d.]+)", capsys.readouterr().out))
    # what the same mixture for every prompt can reach, by a grid of twentieths
    grid = simplex(20, 3).expand(len(names["COLOURS"]), -1, -1)  # type: ignore[arg-type]
    static = names["closeness"](grid, names["rows"]["rgb"]).mean(0).max().item()  # type: ignore[operator, index]
    assert before < static < 0.65 and after > 0.8


def test_the_curves_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    names = run("learning_curves.py", tmp_path, monkeypatch, "--seeds", "1", "--epochs", "3", "--output", "curves")
    settings = names["SETTINGS"]
    table = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table[2:]] == list(settings)  # type: ignore[call-overload]
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cell) for row in table[2:] for cell in row[1:4])
    with (tmp_path / "curves/curves.csv").open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    # 3 epochs of 2 steps, a point every 5 steps, and the start
    assert [(point["setting"], point["step"]) for point in points] == [
        (setting, step)
        for setting in settings  # type: ignore[attr-defined]
        for step in ("0", "5")
    ]
    assert (tmp_path / "curves/curves.png").stat().st_size > 10_000


def test_small_noise_brings_the_optimum_of_the_samples_to_that_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("noise_scale")
    problem = example.Problem.make(example.MIXTURE)
    shares = {scale: 100 * example.share_where_samples_earn_most(problem, scale) for scale in example.SCALES}
    assert shares[1.0] < 95 and shares[0.25] > 99
    assert sorted(shares.values()) == list(shares.values()), "less noise, less misalignment"
    rows = re.findall(
        r"^\| ([\d.]+)(?: \(\w+\))? \| ([\d.]+) \|",
        (ROOT / "docs/results.md").read_text(encoding="utf-8").partition("noise scale s |")[2].partition("\n\n")[0],
        re.MULTILINE,
    )
    assert {float(scale): float(share) for scale, share in rows} == pytest.approx(shares, abs=0.06)
    # the optimum itself: without noise every sample is softmax(z)
    assert example.share_where_samples_earn_most(problem, 1e-6) == 1.0


def test_evenly_spread_noise_varies_as_little_as_the_guide_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    measurement = importlib.import_module("noise_variance").Measurement()
    variance = {kind: measurement.variance(kind, 64, 0.25) for kind in ("independent", "antithetic", "common", "quasi")}
    found = [variance[kind] / variance["independent"] for kind in ("antithetic", "common", "quasi")]
    (row,) = re.findall(r"^\| 0\.25 \| 64 \| (.+) \|$", (ROOT / "docs/algorithm.md").read_text("utf-8"), re.MULTILINE)
    assert [float(cell) for cell in row.split(" | ")] == pytest.approx(found, abs=0.02)
    assert found[2] < 0.5, "which is why it is the default"


def test_the_measured_variances_are_those_of_the_guide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(ratio_variance, "SAMPLES", 40_000)
    ratio_variance.main()

    def ratios(text: str) -> dict[tuple[str, str], float]:
        found = re.findall(r"^\| (M = .+?) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
        return {(classes, tau): float(ratio) for classes, tau, ratio in found}

    printed = ratios(capsys.readouterr().out)
    written = ratios((ROOT / "docs/algorithm.md").read_text(encoding="utf-8"))
    assert len(printed) == len(ratio_variance.CASES)
    # the standard error of a ratio from 200,000 samples is at most 0.006, from a fifth of them sqrt(5) times that: 4 of these
    assert written == pytest.approx(printed, abs=0.054)
    assert written["M = 2, uniform", "1"] == pytest.approx(8 / 17, abs=0.02)


def test_hybrid_search_scores_and_ranks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("hybrid_search")
    # two documents of 3 words and 1, mean 2; cat is in one: idf = ln(1 + 1.5 / 1.5); 1.2 (0.25 + 0.75 * 3 / 2) = 1.65
    found = example.bm25(["cat cat dog", "dog"], ["cat", "bird"])
    assert found[0] == pytest.approx([math.log(2) * 2 * 2.2 / (2 + 1.65), 0.0]) and found[1].tolist() == [0.0, 0.0]
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    scores = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]])
    right = torch.tensor([[True, False, False]])
    # first; third of three equal ones, as ties count against it; third
    assert example.ndcg(weights, scores, right)[0].tolist() == pytest.approx([1.0, 0.5, 0.5])
    assert example.found_first(weights, scores, right)[0].tolist() == [1.0, 0.0, 0.0]
    assert example.ndcg(weights, scores, torch.zeros_like(right))[0].tolist() == [0.0] * 3  # in no list


def test_the_example_of_hybrid_search_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    run("hybrid_search.py", tmp_path, monkeypatch, "--documents", "40", "--epochs", "1")
    out = capsys.readouterr().out
    assert "40 documents, 16 test queries" in out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")][1:]
    (bm25, dense, static, policy, oracle) = ([float(cell) for cell in row[1:]] for row in rows)
    assert all(0 < value <= 1 for row in (bm25, dense, static, policy, oracle) for value in row)
    assert all(best >= each for row in (bm25, dense, static, policy) for best, each in zip(oracle, row, strict=True))
