"""The benchmark's own parts: its plain-Python reference, its verdicts, its turns, and one run of each line on a toy model.

No test looks at how fast anything is.
"""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from benchmarks.__main__ import main, measured, sections
from benchmarks.against_trl import measure_against_trl
from benchmarks.listing import measure_listing
from benchmarks.memory import measure_memory, peak_bytes
from benchmarks.merging import (
    Reference,
    make_problem,
    measure_merging,
    merge_by_quota,
    merge_by_value,
    plain_ndcg,
)
from benchmarks.models import TINY, TOY, load, make_prompts
from benchmarks.orchestration import SERVICES, Spans, covered, family, memory_of, timed
from benchmarks.reading import measure_reading
from benchmarks.recbole_evaluation import by_recbole, by_softgrpo, rows_of
from benchmarks.recommending import measure_recommending
from benchmarks.report import Row, describe_machine, markdown, plain_table, print_report
from benchmarks.reporting import measure_reporting
from benchmarks.share import measure_share
from benchmarks.speedups import FASTER, batches_of, frozen, measure_speedups, step_of
from benchmarks.steps import measure_steps, sft_trainer
from benchmarks.throughput import measure_throughput, model_flop
from benchmarks.timing import LEAST_SECONDS, ratio, take_turns, train_in_turns
from benchmarks.window_inputs import SIDES, measure_window_inputs
from softgrpo.config import FusionConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.windows import make_windows
from softgrpo.presets import resolve
from softgrpo.ranking.fusion import align
from softgrpo.ranking.rewards import RankingReward

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
LISTS = [[(7, 1.0), (3, 0.5), (9, 0.0)], [(3, 1.0), (8, 0.5), (7, 0.0)]]


def test_the_reference_sums_values() -> None:
    # 7: 0.5 * 1 + 0.5 * 0 = 0.5; 3: 0.25 + 0.5 = 0.75; 9: 0; 8: 0.25
    assert merge_by_value(LISTS, [0.5, 0.5], 10) == [3, 7, 8, 9]
    assert merge_by_value(LISTS, [0.5, 0.5], 2) == [3, 7]


def test_the_reference_leaves_out_what_has_no_weight() -> None:
    assert merge_by_value(LISTS, [1.0, 0.0], 10) == [7, 3, 9]


def test_the_reference_takes_turns() -> None:
    # shares 2/3 and 1/3; step 1: due 2/3, 1/3 -> 7; step 2: 1/3, 2/3 -> 3; step 3: 1, 0 -> 9 (3 is used); then 8
    assert merge_by_quota(LISTS, [2.0, 1.0], 10) == [7, 3, 9, 8]


def test_the_reference_scores_by_hand() -> None:
    discounts = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    # targets at ranks 1 and 3 of the best possible ranks 1 and 2: (1 + 1/2) / (1 + 1/log2(3))
    assert plain_ndcg([4, 5, 6], {4, 6}, discounts) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("method", ["score", "quota", "rrf"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_reference_agrees_with_the_batched_merge(method: str, seed: int) -> None:
    problem = make_problem(windows=6, samples=5, recallers=3, depth=40, seed=seed)
    fusion = FusionConfig.model_validate({"method": method})
    aligned = align(problem.items, problem.scores, fusion)
    batched = RankingReward(aligned, problem.targets, fusion)(problem.weights, {"index": torch.arange(6)})
    plain = torch.tensor(Reference.of(problem, aligned, fusion).ndcg())
    assert plain.shape == (6, 5)
    assert plain.max() > 0
    assert torch.allclose(plain, batched, atol=1e-6, rtol=0)


def test_the_merging_lines_are_complete() -> None:
    rows = measure_merging(CPU, make_problem(windows=2, samples=2, depth=20), rounds=1)
    assert [(row.at_least, row.value is not None) for row in rows] == [
        (50.0, True),
        (20.0, True),
        (None, True),
        (None, True),
    ]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", 1.05, "times", at_most=1.05), "met"),
        (Row("a", 1.06, "times", at_most=1.05), "missed"),
        (Row("a", 16.0, "times", at_least=16.0), "met"),
        (Row("a", 15.9, "times", at_least=16.0), "missed"),
        (Row("a", 3.0, "ms"), ""),
        (Row("a", None, "", at_most=1.0, details="why"), "not measured"),
    ],
)
def test_verdicts(row: Row, verdict: str) -> None:
    assert row.verdict == verdict


def test_a_plain_table_needs_no_library() -> None:
    rows = [
        Row("step", 1.0312, "times", at_most=1.05, details="2 s over 2 s"),
        Row("gpu", None, "", details="no memory"),
    ]
    assert plain_table(rows).splitlines() == [
        "what  measured    aim      " + " " * 14 + "details",
        "step  1.03 times  <= 1.05  met           2 s over 2 s",
        "gpu   -                    not measured  no memory",
    ]


def test_markdown_for_the_document() -> None:
    text = markdown({"threads": "2 of torch"}, [Row("step", 1.0312, "times", at_most=1.05, details="2 s over 2 s")])
    assert text.splitlines() == [
        "- threads: 2 of torch",
        "",
        "| what | measured | aim |  | details |",
        "| --- | --- | --- | --- | --- |",
        "| step | 1.03 times | <= 1.05 | met | 2 s over 2 s |",
    ]


def test_the_machine_is_told_with_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    machine = describe_machine(CPU)
    print_report(machine, [Row("step", 1.0, "times", at_most=1.05)])
    shown = capsys.readouterr().out
    assert {"processor", "threads", "load before", "system", "versions"} == set(machine)
    assert f"torch {importlib.metadata.version('torch')}" in shown  # PyPI's wheel has no local version in its metadata
    assert "step" in shown and "met" in shown


def test_ratios_are_of_neighbours() -> None:
    # a machine that becomes 10 times slower half-way: the neighbours' ratios stay 2
    assert ratio([2.0, 2.0, 20.0], [1.0, 1.0, 10.0]) == 2.0


def test_sides_take_turns() -> None:
    calls: list[str] = []

    def short() -> None:
        calls.append("a")

    def long() -> None:
        calls.append("b")
        time.sleep(1.5 * LEAST_SECONDS)

    seconds = take_turns({"a": short, "b": long}, 2, 1, CPU)
    assert "".join(letter for letter, _ in itertools.groupby(calls)) == "ababab"
    assert calls.count("b") == 3  # long enough alone; the short one is repeated
    assert calls.count("a") > 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert max(seconds["a"]) < LEAST_SECONDS <= min(seconds["b"])  # of one call


class Fails(TrainerCallback):
    """Fails at the second step."""

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == 1:
            raise RuntimeError("out of paper")


def test_trainings_take_turns_and_a_failure_ends_all(tmp_path: Path) -> None:
    loaded, prompts = load(TOY), make_prompts(TOY, TOY.batch)
    order: list[str] = []

    class Notes(TrainerCallback):
        def __init__(self, name: str) -> None:
            self._name = name

        def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            order.append(self._name)

    trainers = {name: sft_trainer(loaded, TOY, prompts, 3, CPU, str(tmp_path)) for name in ("a", "b")}
    for name, trainer in trainers.items():
        trainer.add_callback(Notes(name))
    assert [len(values) for values in train_in_turns(trainers, warm_up=1).values()] == [2, 2]
    assert order == ["a", "b"] * 3
    trainers = {name: sft_trainer(loaded, TOY, prompts, 3, CPU, str(tmp_path)) for name in ("a", "b")}
    trainers["b"].add_callback(Fails())
    with pytest.raises(RuntimeError, match="out of paper"):
        train_in_turns(trainers, warm_up=1)


def test_prompts_are_as_long_as_wanted() -> None:
    lengths = [len(prompt.split()) for prompt in make_prompts(TOY, 5, shortest=0.5)]
    assert sorted(lengths) == [7, 9, 10, 12, 14]  # 0.5 * 14 to 14: 7, 8.75, 10.5 (even), 12.25, 14
    assert {len(ids) for ids in load(TOY).tokenizer(make_prompts(TOY, 3, shortest=1.0))["input_ids"]} == {14}


def test_a_missing_package_is_told_and_stood_in_for() -> None:
    shape = replace(TOY, model_name="package:no_such_package/model")
    loaded = load(shape)
    assert "no-such-package" in loaded.note
    assert "random weights" in loaded.note
    assert loaded.model.config.hidden_size == 16


def test_the_settings_of_tiny_are_those_of_its_weights() -> None:
    pretrained = load(TINY)
    assert pretrained.note == ""
    assert {name: getattr(pretrained.model.config, name) for name in TINY.settings} == TINY.settings
    assert pretrained.model.config.model_type == TINY.model_type


def test_step_lines() -> None:
    rows = measure_steps(TOY, CPU, steps=2, warm_up=1)
    assert [row.at_most for row in rows] == [1.05, 1.15]
    assert all(row.value is not None and row.value > 0 and "random weights" in row.details for row in rows)


def test_the_share_line_adds_up() -> None:
    row = measure_share(TOY, CPU, steps=2, warm_up=1)
    parts = {part.split()[0]: float(part.split()[-2]) for part in row.details.split(", ") if part.endswith("%")}
    assert set(parts) == {"forward", "reward", "backward", "clipping", "optimiser", "all"}
    assert sum(parts.values()) == pytest.approx(100.0, abs=0.5)
    assert row.value == pytest.approx(100.0 - parts["forward"] - parts["backward"], abs=0.2)


def test_the_lines_of_what_makes_a_step_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)  # compiling takes longer than this file
    rows = measure_speedups(TOY, CPU, rounds=1, warm_up=0)
    assert [row.what.removeprefix("toy: ") for row in rows] == [
        *(f"step over that with {name}" for name in FASTER),
        "steps on prompts at random over those by length",
    ]
    assert all(row.value is not None and row.value > 0 for row in rows)
    # of two layers one is frozen: a step moves the other only
    half = frozen(load(TOY).model, 0.5)
    before = {name: value.detach().clone() for name, value in half.named_parameters()}
    loaded = load(TOY)
    step_of(half, [batches_of(loaded, [[3, 4], [5, 6, 7]])], CPU)()
    moved = {name for name, value in half.named_parameters() if not torch.equal(value, before[name])}
    assert any("layers.1." in name for name in moved)
    assert not any("layers.0." in name or "embed" in name for name in moved)


def test_the_lines_of_numbers_and_a_prior_per_window() -> None:
    rows = measure_window_inputs(TOY, CPU, rounds=1, warm_up=0)
    assert [row.what.removeprefix("toy: ") for row in rows] == [f"step with {name} over one without" for name in SIDES]
    assert all(row.value is not None and row.value > 0 and row.at_most == 1.03 for row in rows)
    assert all("4 prompts of up to 16 tokens, random weights" in row.details for row in rows)


def test_the_line_against_trl() -> None:
    row = measure_against_trl(TOY, CPU, steps=1, warm_up=1)
    assert row.value is not None and row.value > 1
    assert row.at_least == 16.0


def test_throughput_lines() -> None:
    rows = measure_throughput(TOY, CPU, steps=1, warm_up=1)
    assert [row.unit for row in rows] == ["prompts/s", "%"]


def test_model_flop_by_hand() -> None:
    # layer: q and o 16*16, k and v 16*16 each, three 16*32, two norms of 16; twice; a norm of 16; head 16*3
    weights = 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16 + 16 * 3
    attention = 12 * 2 * 16 * 10  # layers, width, tokens
    assert model_flop(load(TOY).model, prompts=3, tokens=10) == 3 * 10 * (6 * weights + attention)


def test_peak_memory_is_of_this_process() -> None:
    before = peak_bytes(CPU)
    block = torch.ones(64 * 2**20, dtype=torch.uint8) * 2
    assert before > 2**20
    assert peak_bytes(CPU) >= before
    assert block.numel() == 64 * 2**20


@pytest.mark.slow
def test_memory_in_processes_of_their_own() -> None:
    row = measure_memory(TOY, CPU)
    assert row.at_most == 1.1
    assert row.value is not None and 0.5 < row.value < 2.0


def test_too_little_memory_is_a_line_of_its_own() -> None:
    def section() -> Row:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    (row,) = measured(section, "memory-large")
    assert (row.what, row.verdict, row.details) == ("memory-large", "not measured", "CUDA out of memory.")


def test_the_command_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("line", 2.0, "times", at_most=1.0)
    monkeypatch.setattr("benchmarks.__main__.sections", lambda device: {"one": lambda: row, "two": lambda: [row, row]})
    files = ["--json", str(tmp_path / "bench.json"), "--markdown", str(tmp_path / "bench.md")]
    assert main(["--only", "two", *files]) == 0
    assert (tmp_path / "bench.md").read_text(encoding="utf-8").count("| missed |") == 2
    written = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [line["verdict"] for line in written["rows"]] == ["missed", "missed"]
    assert "torch" in written["machine"]["versions"]
    with pytest.raises(SystemExit):
        main(["--only", "three"])
    assert "one, two" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "no GPU that torch can use" in capsys.readouterr().err


def test_listing_compares_equal_lists() -> None:
    row = measure_listing(users=300, items=600, rounds=1)
    assert row.value is not None and row.value > 0
    assert row.at_least == 1.0 and "300 windows, 600 items, 100 each" in row.details


def test_searches_and_report_are_measured_with_all_rows() -> None:
    searches, report = measure_reporting(users=30, items=4000, draws=100)
    assert (searches.verdict, report.verdict) == ("met", "met")
    assert "grid, cem, bayes on " in searches.details
    assert report.what == "report, 100 bootstrap draws" and "24 rows, 30 users" in report.details


def test_recommending_is_measured_from_files_to_file() -> None:
    row = measure_recommending(users=30, items=4000)
    assert row.value is not None and row.value > 0 and row.at_least == 2000
    assert row.details.startswith("30 users, 3 lists of 100")


def test_reading_is_measured_in_a_process_of_its_own() -> None:
    seconds, peak = measure_reading(rows=20_000, users=300, items=500)
    assert seconds.at_most == 60.0 and peak.at_most == 6.0
    assert "of 300 users" in seconds.what and "CPU" in seconds.details
    assert seconds.value is not None and 0 < seconds.value < 60
    assert peak.value is not None and 0.05 < peak.value < 6


def test_what_is_measured_where() -> None:
    steps = ["steps-tiny", "steps-mini", "speedups-tiny", "speedups-mini"]
    wanted = [
        "merge",
        "memory",
        *steps[:2],
        "share",
        *steps[2:],
        "inputs-tiny",
        "inputs-mini",
        "trl",
        "reading",
        "lists",
        "merges",
        "recommend",
        "report",
        "estimate",
    ]
    assert list(sections(CPU)) == wanted
    assert "throughput-Qwen2.5-0.5B" in sections(torch.device("cuda"))
    assert "throughput-Llama-3.2-1B" in sections(torch.device("cuda"))


def test_the_benchmark_needs_only_five_packages() -> None:
    # torch, transformers, peft, trl, accelerate, and what those bring along themselves (datasets, tokenizers, numpy, rich)
    allowed = {"torch", "transformers", "trl", "datasets", "tokenizers", "numpy", "rich", "softgrpo", "benchmarks"}
    names = set()
    commands_of_their_own = {
        ROOT / "benchmarks" / name for name in ("orchestration.py", "recbole_evaluation.py", "serving.py")
    }
    for path in set((ROOT / "benchmarks").glob("*.py")) - commands_of_their_own:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # some lines say what they need besides, and load it where it is measured
        outside = path.name in ("listing.py", "made_up.py", "reading.py", "reporting.py")
        for node in tree.body if outside else ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) <= allowed


def test_the_benchmark_starts_where_nothing_else_is_installed() -> None:
    absent = ["recbole", "prefect", "mlflow", "sklearn", "scipy", "matplotlib", "gguf"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_stages_that_overlap_count_once() -> None:
    # 0 to 3 and 5 to 6 are covered: 4 s, in whatever order they ended
    assert covered([(1.0, 3.0), (0.0, 2.0), (5.0, 6.0), (5.5, 5.75)]) == 4.0
    assert covered([]) == 0.0


def test_a_timed_function_does_what_it_did_and_its_time_counts_when_it_fails_too() -> None:
    spans: Spans = []
    assert timed(math.hypot, spans)(3.0, 4.0) == 5.0
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0, spans)()
    assert len(spans) == 2 and covered(spans) < 1.0


def test_memory_is_that_of_a_service_with_all_its_processes(tmp_path: Path) -> None:
    """A supervisor with one service, "mlflow", that has a child which takes 50 MB."""
    child = "import time; kept = bytearray(b'x' * 50_000_000); print(1, flush=True); time.sleep(60)"
    service = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    supervisor = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {service!r}, 'mlflow'])"
    (tmp_path / "services").mkdir()
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert len(family(process.pid)) == 3
        (tmp_path / "services" / "supervisord.pid").write_text(str(process.pid))
        found = memory_of(tmp_path)
        os.killpg(process.pid, 9)
    assert set(found) == {SERVICES["mlflow"]}
    assert 55e6 < found[SERVICES["mlflow"]] < 200e6


@pytest.mark.parametrize("name", ["Pop", "SASRec", "FPMC"])
def test_recbole_evaluates_the_same_split_by_itself(name: str, tmp_path: Path) -> None:
    """Users take eight of twelve items, popular ones more often. Popularity needs no training: both sides must agree on it."""
    rng, chance = np.random.default_rng(3), 1 / np.arange(2, 14)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        taken = rng.choice(12, 8, replace=False, p=chance / chance.sum())
        lines += [f"{user}\ti{item}\t{at}" for at, item in enumerate(taken)]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/shop.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    split = {"split.method": "leave_last", "split.window": 1, "data.k_core": 0}
    said = {
        "data.data_path": tmp_path,
        "recall.recallers": ["Pop", "SASRec", "FPMC"],
        "recall.settings.SASRec.epochs": 1,
        "recall.settings.FPMC.epochs": 1,
        "recall.settings.Pop.train_batch_size": 1,  # RecBole counts an item once per batch
        **split,
    }
    config = resolve("shop", "tiny", "full", said)
    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    rows = rows_of(corpus, windows)
    counts = Counter(item for _, _, item in rows["train"])
    assert len(rows["test"]) == corpus.num_users and len(set(counts.values())) == len(counts) == 12, "no ties"
    theirs = by_recbole(name, config, rows, tmp_path / "work")
    ours = by_softgrpo(name, config, corpus, windows, tmp_path / "work")
    assert 0 < theirs <= 1 and 0 < ours <= 1
    if name == "Pop":
        assert ours == pytest.approx(theirs, abs=1e-4)  # RecBole rounds to four digits
