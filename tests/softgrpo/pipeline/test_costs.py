"""The estimate of a run's time: what is counted, by hand, and that it ends no run."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize, data_size
from softgrpo.errors import PolicyError
from softgrpo.pipeline import costs, model_costs, text_costs
from softgrpo.pipeline.costs import (
    Machine,
    cost_line,
    duration,
    estimate,
    missing,
    recaller_seconds,
)
from softgrpo.pipeline.model_costs import operations, prompt_tokens
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import run_standalone
from softgrpo.policy.model_size import USUAL, layer_weights
from softgrpo.presets import resolve
from softgrpo.stages.contract import Node
from tests.support.fake_stages import FakeStages

SIZE = DataSize(users=100, items=1000, interactions=5000, training=2000, policy=400, valid=100, test=100, windows=700)
REFERENCE = Machine(1, costs.REFERENCE_SPEED, gpu=False)


def test_pairs_cost_examples_batches_and_early_stopping() -> None:
    settings = {"epochs": 10, "train_batch_size": 500}
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["BPR", "Pop"], "recall.settings.BPR": settings})
    epoch = 2000 * costs.EXAMPLE_SECONDS["pairs"] + 4 * costs.BATCH_SECONDS + 100 * 1000 * costs.SCORE_SECONDS
    assert recaller_seconds("BPR", config, SIZE) == pytest.approx(10 * epoch)


def test_sequences_cost_by_length_layers_and_items() -> None:
    said = {"recall.settings.SASRec": {"epochs": 1, "train_batch_size": 2048, "MAX_ITEM_LIST_LENGTH": 10}}
    config = resolve("ml-100k", "tiny", overrides={**said, "recall.targets_per_user": 3})
    # per position and layer 8 * 64^2 + 4 * 64 * 256 multiply-adds, per sequence 2 * 64 for each item, thrice for the backward pass
    flops = 3 * (2 * 10 * (8 * 64**2 + 4 * 64 * 256) + 2 * 64 * 1000)
    sequences = 3 * 100  # targets of each user
    expected = sequences * flops / (costs.SEQUENCE_SHARE * costs.REFERENCE_SPEED)
    expected += costs.BATCH_SECONDS + 100 * 1000 * costs.SCORE_SECONDS
    assert recaller_seconds("SASRec", config, SIZE) == pytest.approx(expected)
    assert recaller_seconds("ItemKNN", config, SIZE) == pytest.approx(1000**2 * costs.COMPUTED_SECONDS)


def test_prompts_are_counted_up_to_their_greatest_length() -> None:
    config = resolve("ml-100k", "tiny", overrides={"prompt.max_length": 512})
    assert prompt_tokens(config) == 25 + 3 * 25 + 3 * 7  # three recallers, three items without genres
    assert prompt_tokens(resolve("ml-100k", "tiny", overrides={"prompt.max_length": 100})) == 100
    assert prompt_tokens(resolve("ml-100k", "small")) == 25 + 3 * 25 + 10 * 10


def test_language_models_cost_passes_times_weights_times_tokens() -> None:
    said = {"sft.num_train_epochs": 3, "grpo.num_train_epochs": 1, "train.max_train_windows": 300}
    said["policy.frozen_layers"] = 0
    config = resolve("ml-100k", "tiny", overrides=said)
    token = 2 * layer_weights(config.policy.model_name, "tiny") * prompt_tokens(config)
    reads = (1 + config.train.evaluations) * model_costs.READ_WINDOWS * 100 / model_costs.READ_SHARE
    assert operations("sft", config, SIZE) == pytest.approx(token * (3 * 300 * 3 / model_costs.TRAIN_SHARE + reads))
    grpo = token * (
        2 * 300 * 3 / model_costs.TRAIN_SHARE + reads + 300 / model_costs.READ_SHARE
    )  # two iterations, and the reference
    assert operations("grpo", config, SIZE) == pytest.approx(grpo)
    assert operations("test", config, SIZE) == pytest.approx(1.5 * 100 * token / model_costs.READ_SHARE)
    lora = config.model_copy(update={"policy": config.policy.model_copy(update={"adapter": "lora"})})
    assert operations("sft", lora, SIZE) == pytest.approx(token * (3 * 300 * 2 / model_costs.TRAIN_SHARE + reads))


def test_frozen_layers_are_read_once_for_each_prompt() -> None:
    """Half of six: half of each pass over 300 windows that teach and the 70 % of 100 that choose, and half of what all cost."""
    said = {"train.max_train_windows": 300, "policy.frozen_layers": 6}
    frozen = resolve("ml-100k", "tiny", overrides=said)
    once = 2 * layer_weights(frozen.policy.model_name, "tiny") * prompt_tokens(frozen) * 370 / model_costs.READ_SHARE
    assert operations("grpo", frozen, SIZE) == pytest.approx(once)
    half, none = (
        frozen.model_copy(update={"policy": frozen.policy.model_copy(update={"frozen_layers": count})})
        for count in (3, 0)
    )
    assert operations("grpo", half, SIZE) == pytest.approx((once + operations("grpo", none, SIZE)) / 2)
    tokens = frozen.model_copy(update={"policy": frozen.policy.model_copy(update={"numbers": "tokens"})})
    assert operations("grpo", tokens, SIZE) == pytest.approx(operations("grpo", none, SIZE))


def test_texts_are_read_once_and_compared_with_every_window() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["Text", "Pop"]})
    weights = layer_weights(config.text.model_name, "tiny")
    assert operations("embed", config, SIZE) == pytest.approx(
        2 * weights * text_costs.TOKENS * 1000 / model_costs.READ_SHARE
    )
    learning = 8 * (2000 * text_costs.EXAMPLE_SECONDS + 100 * 1000 * text_costs.SCORE_SECONDS)
    lists = 700 * 1000 * text_costs.SCORE_SECONDS
    assert recaller_seconds("Text", config, SIZE) == pytest.approx(lists + learning)
    still = config.model_copy(update={"text": config.text.model_copy(update={"adapter": "off"})})
    assert recaller_seconds("Text", still, SIZE) == pytest.approx(lists)
    assert list(estimate(plan(config, "recall"), config, REFERENCE).seconds) == ["split", "embed", "recall"]


def test_a_faster_machine_and_more_cores_take_less() -> None:
    config = resolve("ml-100k", "tiny")
    slow = estimate(plan(config), config, REFERENCE)
    fast = estimate(plan(config), config, Machine(1, 2 * costs.REFERENCE_SPEED, gpu=False))
    assert fast.total == pytest.approx(slow.total / 2)
    more = estimate(plan(config), config, Machine(4, costs.REFERENCE_SPEED, gpu=False))
    assert more.seconds["recall"] == slow.seconds["recall"] and more.seconds["sft"] < slow.seconds["sft"]
    together = estimate(plan(config), config, REFERENCE, workers=3)
    assert (
        max(slow.seconds["recall"] / 3, 20) < together.seconds["recall"] < slow.seconds["recall"]
    )  # SASRec is the longest


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "5 s"), (11, "15 s"), (89, "90 s"), (91, "2 min"), (3599, "60 min"), (5400, "1.5 h"), (36000, "10.0 h")],
)
def test_times_are_told_roughly(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_line_names_all_stages_and_the_sum() -> None:
    line = costs.Estimate({"recall": 120.0, "sft": 240.0}).line()
    assert line == "estimate: about 6 min on this machine, if nothing else runs on it (recall 2 min, sft 4 min)"


MEASURED = {
    "recall.recallers": ["BPR", "SASRec", "ItemKNN"],
    "policy.numbers": "none",
    "policy.frozen_layers": 0,
    "prompt.max_length": 128,
    "prompt.list_shape": True,
    "prompt.overlap": True,
    "prompt.top_items": 1,
    "train.per_device_train_batch_size": 16,
    "train.evaluations": 2,
    "train.max_train_windows": 600,
    "grpo.num_train_epochs": 1,
}
"""Settings of an earlier main job, whose language model was trained whole."""


@pytest.mark.parametrize(
    ("said", "measured"),
    [
        (MEASURED, {"recall": 116, "sft": 103, "grpo": 134, "test": 32}),
        ({}, {"sft": 34.3, "grpo": 45.3, "gates": 12.9, "test": 32.1}),  # SASRec stopped early, so recall was quicker
    ],
    ids=["trained whole", "frozen"],
)
def test_the_estimate_of_a_run_is_near_its_documented_times(said: dict[str, Any], measured: dict[str, float]) -> None:
    """docs/performance.md; of what was measured several times the mean."""
    config = resolve("ml-100k", "tiny", overrides=said)
    seconds = estimate(plan(config), config, Machine(2, costs.REFERENCE_SPEED, gpu=False)).seconds
    for stage, took in measured.items():
        assert took / 2 < seconds[stage] < took * 2, stage


def nodes_left(stored: set[str], force: tuple[str, ...] = (), given: dict[str, str] | None = None) -> list[str]:
    """Returns the names of the fake nodes that are left where the stages of these names and variants are stored."""

    def digest(key: str) -> str | None:
        return "d" if key.rpartition("-")[0] in stored else None

    return [node.name for node in missing(FakeStages().nodes(), ExperimentConfig(), force, digest, given)]


def test_stored_stages_are_not_counted_and_what_follows_a_missing_one_is() -> None:
    everything = {"split", "recall-A", "recall-B", "sft", "test"}
    assert nodes_left(everything) == []
    assert nodes_left(everything - {"recall-B"}) == ["recall-B", "sft", "test"]
    assert nodes_left(everything, force=("sft",)) == ["sft", "test"]
    assert nodes_left(everything - {"split"}) == ["split", "recall-A", "recall-B", "sft", "test"]
    assert nodes_left({"sft", "test"}, given={"split": "1", "recall-A": "2", "recall-B": "3"}) == []


def test_nothing_is_said_where_nothing_is_trained() -> None:
    config = resolve("ml-100k", "tiny")
    assert cost_line([], config) is None
    assert cost_line([node for node in plan(config) if node.name in ("split", "data", "test")], config) is None


def test_what_cannot_be_estimated_ends_no_run() -> None:
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": "./not-there"})
    assert cost_line(plan(config), config) == "estimate: none (model './not-there')"


def test_a_run_says_its_estimate_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def some(config: ExperimentConfig, until: str) -> tuple[Node, ...]:
        real, fakes = {node.name: node for node in plan(config)}, FakeStages().nodes()
        return (fakes[0], *(Node(name, fakes[1].stage, real[name].variant, ("split",)) for name in ("recall-SASRec",)))

    monkeypatch.setattr("softgrpo.pipeline.run.plan", some)
    config = resolve("ml-100k", "tiny")
    with caplog.at_level(logging.INFO, logger="softgrpo"):
        run_standalone(config, output=tmp_path)
        first = [record.getMessage() for record in caplog.records]
        caplog.clear()
        run_standalone(config, output=tmp_path)
    assert first[0].startswith("estimate: about ") and "recall " in first[0]
    assert first[1].startswith("estimate: up to ") and " of disk" in first[1]
    assert "running" in first[2]
    assert not any("estimate" in record.getMessage() for record in caplog.records)


def test_the_speed_of_a_core_is_measured_and_plausible() -> None:
    assert 1e9 < costs.core_speed() < 1e13
    assert costs.core_speed() is costs.core_speed()  # once per process


def test_weights_are_counted_from_headers(tmp_path: Path) -> None:
    header = json.dumps(
        {"embed.w": {"shape": [50, 8]}, "a": {"shape": [8, 4]}, "b": {"shape": [4]}, "__metadata__": {}}
    )
    data = len(header).to_bytes(8, "little") + header.encode()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(data)
    assert layer_weights(str(tmp_path), "tiny") == 8 * 4 + 4
    (tmp_path / "model.safetensors").write_bytes(data[:20])
    with pytest.raises(PolicyError, match="no safetensors file"):
        layer_weights(str(tmp_path), "tiny")


@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_the_usual_weights_are_those_of_the_packaged_models(size: str) -> None:
    assert math.isclose(layer_weights(resolve("ml-100k", size).policy.model_name, size), USUAL[size], rel_tol=0.03)
    assert layer_weights("nobody/has-this", "small") == USUAL["small"]


def test_the_size_of_ml_100k() -> None:
    size = data_size(resolve("ml-100k", "tiny"))
    assert (size.users, size.items, size.interactions) == (943, 1349, 99287)
    assert size.valid <= 943 and size.test <= 943 and size.policy <= 4 * 943


CUDA_BUILD = "__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
CPU_BUILD = CUDA_BUILD.replace("'13.0'", "None")


@pytest.mark.parametrize(
    ("build", "cards", "variables", "gpu"),
    [
        (CUDA_BUILD, 1, {}, True),
        (CUDA_BUILD, 1, {"CUDA_VISIBLE_DEVICES": "0"}, True),
        (CUDA_BUILD, 1, {"CUDA_VISIBLE_DEVICES": ""}, False),
        (CUDA_BUILD, 1, {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        (CUDA_BUILD, 0, {}, False),
        (CPU_BUILD, 1, {}, False),
    ],
)
def test_a_gpu_is_one_that_torch_can_use(
    build: str,
    cards: int,
    variables: dict[str, str],
    gpu: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "version.py").write_text(build)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("softgrpo.pipeline.costs.importlib.util.find_spec", lambda name: spec)
    devices = tmp_path / "gpus"
    devices.mkdir()
    for card in range(cards):
        (devices / f"0000:0{card}:00.0").mkdir()
    costs.torch_has_cuda.cache_clear()
    try:
        assert costs.has_gpu(devices, variables) is gpu
    finally:
        costs.torch_has_cuda.cache_clear()


def test_a_language_model_that_stays_on_the_cpu_is_not_counted_as_on_a_gpu() -> None:
    config = resolve("ml-100k", "tiny", overrides={"train.device": "cpu"})
    nodes = [node for node in plan(config) if node.stage.name == "sft"]
    machines = [Machine(1, costs.REFERENCE_SPEED, gpu=gpu) for gpu in (False, True)]
    without, beside = (estimate(nodes, config, machine).total for machine in machines)
    assert without == beside
    assert estimate(nodes, resolve("ml-100k", "tiny"), machines[1]).total < without
