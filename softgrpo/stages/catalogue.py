"""What the stages are: their settings, code and libraries. A stage's own module is imported when it runs, and not before."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from softgrpo.common.digests import digest_file
from softgrpo.common.names import recaller_and_fold
from softgrpo.config import ExperimentConfig
from softgrpo.data.files import data_files
from softgrpo.policy.model_files import identify_weights, model_of_texts
from softgrpo.recallers.plugins import plugin_identity
from softgrpo.stages.contract import Stage, StageContext

Parameters = Callable[[ExperimentConfig, str], dict[str, Any]]

GATES_LEARN_FROM = {"drop_flat", "noise_scale", "reward", "reward_k"}
"""Settings of SofT-GRPO that gates have too."""
PLACES = {"data_path", "source", "download"}
"""Settings that say where the data are."""
TABLES = ("numpy", "pandas", "pyarrow")
TRAINING = ("accelerate", "gguf", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def _split(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "data": config.data.model_dump(mode="json", exclude=PLACES),
        "split": config.split.model_dump(
            mode="json", exclude={"cross_fit"}
        ),  # it adds windows behind those of the split
        "files": {role: digest_file(path) for role, path in data_files(config.data).by_role().items()},
    }


def _recall(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recaller": variant,
        "settings": config.recall.settings_of(variant),
        **config.recall.model_dump(mode="json", exclude={"recallers", "settings", "files"}),
    }


def _cross_fit(config: ExperimentConfig) -> dict[str, Any]:
    """Returns what windows `split.cross_fit` adds follow from, besides the windows of the split; nothing where it is off."""
    if not config.split.cross_fit:
        return {}
    return {"cross_fit": config.split.model_dump(mode="json", include={"cross_fit", "window", "windows_per_user"})}


def _recall_fold(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    recaller, fold = recaller_and_fold(variant)
    return {**_recall(config, recaller), "fold": fold, **_cross_fit(config)}


def _recall_text_fold(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    recaller, fold = recaller_and_fold(variant)
    return {**_recall_text(config, recaller), "seed": config.seed, "fold": fold, **_cross_fit(config)}


def _embed(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    text = config.text
    with model_of_texts():
        weights = identify_weights(text.model_name)
    parameters: dict[str, Any] = {
        "text": text.model_dump(mode="json", include={"fields", "max_length", "batch_size"}),
        "weights": weights,
        "device": config.train.device,
    }
    if text.further_fields:  # the others come with the corpus
        path = data_files(config.data).items
        parameters["key"] = config.data.item_key_field or config.data.item_field
        parameters["file"] = None if path is None else digest_file(path)
    return parameters


def _recall_text(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    text = {"history_items", "half_life"}
    learnt: dict[str, Any] = {}
    if config.text.adapter != "off":
        text |= {"adapter", "adapter_epochs"}
        learnt = {"seed": config.seed}
    return {
        "recaller": variant,
        "text": config.text.model_dump(mode="json", include=text),
        **learnt,
        **config.recall.model_dump(mode="json", include={"depth", "batch_size"}),
    }


def _recall_file(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "recaller": variant,
        "file": digest_file(config.recall.files[variant]),  # what it holds counts, not where it lies
        "depth": config.recall.depth,
    }


def _recall_plugin(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return _refit_plugin(config, variant) | config.recall.model_dump(mode="json", include={"depth", "batch_size"})


def _refit(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recaller": variant,
        "settings": config.recall.settings_of(variant),
        **config.recall.model_dump(mode="json", include={"targets_per_user"}),
    }


def _refit_plugin(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recaller": variant,
        "settings": config.recall.settings.get(variant, {}),
        "plugin": plugin_identity(variant),
    }


def _snapshot(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    read = _split(config, variant)
    return {name: read[name] for name in ("seed", "data", "files")}


def _check(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "files": sorted(config.recall.files),
        "adapter": config.text.adapter,
        "split": config.split.model_dump(mode="json", exclude={"cross_fit"}),
        "features": config.told_features.model_dump(mode="json"),
        "prompt": config.told_prompt.model_dump(mode="json", exclude={"max_length"}),
        "k": config.fusion.k,
        "sample_windows": config.train.sample_windows,
        **_vector_library(config),
        **_cross_fit(config),
    }


def _vector_library(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the version of what reads the recallers' user vectors, where the block is on; others need not have it."""
    return {"recbole": importlib.metadata.version("recbole")} if config.features.user_vector else {}


def _data(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "fusion": config.fusion.model_dump(mode="json", exclude=config.fusion.idle),
        "features": config.told_features.model_dump(mode="json"),
        "prompt": config.told_prompt.model_dump(mode="json", exclude={"max_length"}),
        "grid_steps": config.evaluation.grid_steps,
        "searches": list(config.evaluation.searches),
        "sample_windows": config.train.sample_windows,
        **_vector_library(config),
        **_cross_fit(config),
    }


def _gates(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "fusion": config.fusion.model_dump(mode="json", exclude=config.fusion.idle),
        "fitted": sorted({*config.evaluation.baselines} - {*config.evaluation.searches, "zero_shot"}),
        "policy": config.policy.model_dump(mode="json", include={"prior", "prior_floor"}),
        "max_train_windows": config.train.max_train_windows,
        "sample_windows": config.train.sample_windows,
        "grpo": config.grpo.model_dump(mode="json", include=GATES_LEARN_FROM),
    }


def _training(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "fusion": config.fusion.model_dump(mode="json", exclude=config.fusion.idle),
        "max_length": config.prompt.max_length,
        # the weights themselves stand for the name, which may be a path of this machine
        "policy": config.policy.model_dump(mode="json", exclude={"size", "model_name"}),
        "weights": identify_weights(config.policy.model_name),
        "train": config.train.model_dump(mode="json"),
    }


def _sft(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    own = {"labels": config.labels.model_dump(mode="json"), "sft": config.sft.model_dump(mode="json")}
    if config.labels.kind == "gate" or config.policy.prior == "gate":
        own["gate"] = config.grpo.model_dump(mode="json", include=GATES_LEARN_FROM)
    return _training(config) | own


def _grpo(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return _training(config) | {"grpo": config.grpo.model_dump(mode="json")}


def _test(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    left_out: dict[str, Any] = {"data": PLACES, "recall": {"files"}, "limits": True}
    if config.fusion.idle:
        left_out["fusion"] = config.fusion.idle
    if not config.split.cross_fit:
        left_out["split"] = {"cross_fit"}
    return {"config": config.model_dump(mode="json", exclude=left_out)}  # the report tells it all


def _stage(name: str, parameters: Parameters, libraries: tuple[str, ...], module: str = "") -> Stage:
    module = f"softgrpo.stages.{module or name}"

    def run(context: StageContext) -> dict[str, float]:
        metrics: dict[str, float] = importlib.import_module(module).run(context)
        return metrics

    return Stage(name, run, parameters, module, libraries)


SPLIT = _stage("split", _split, TABLES)
EMBED = _stage(
    "embed", _embed, ("gguf", "pandas", "pyarrow", "numpy", "safetensors", "tokenizers", "torch", "transformers")
)
RECALL = _stage("recall", _recall, (*TABLES, "recbole", "scipy", "torch"))
RECALL_FILE = _stage("recall", _recall_file, TABLES, "recall_file")
RECALL_PLUGIN = _stage("recall", _recall_plugin, (*TABLES, "safetensors", "torch"), "recall_plugin")
RECALL_TEXT = _stage("recall", _recall_text, (*TABLES, "torch"), "recall_text")
RECALL_FOLD = _stage("recall", _recall_fold, RECALL.libraries, "recall_fold")
RECALL_TEXT_FOLD = _stage("recall", _recall_text_fold, RECALL_TEXT.libraries, "recall_text_fold")
SNAPSHOT = _stage("split", _snapshot, TABLES, "snapshot")
EMBED_SNAPSHOT = _stage("embed", _embed, EMBED.libraries, "embed_snapshot")
REFIT = _stage("recall", _refit, RECALL.libraries, "refit")
REFIT_PLUGIN = _stage("recall", _refit_plugin, RECALL_PLUGIN.libraries, "refit_plugin")
DATA = _stage("data", _data, (*TABLES, "optuna", "safetensors", "scikit-learn", "torch"))
CHECK = _stage("check", _check, (*TABLES, "safetensors"))
GATES = _stage("gates", _gates, (*TABLES, "safetensors", "scikit-learn", "skops", "torch"))
SFT = _stage("sft", _sft, (*TRAINING, "pandas", "scikit-learn", "skops"))
GRPO = _stage("grpo", _grpo, (*TRAINING, "trl"))
TEST = _stage("test", _test, (*TRAINING, "jinja2", "matplotlib", "pandas", "pyarrow", "scikit-learn", "skops"))
EVERY = (
    *(SPLIT, EMBED, RECALL, RECALL_FILE, RECALL_PLUGIN, RECALL_TEXT, RECALL_FOLD, RECALL_TEXT_FOLD),
    *(DATA, CHECK, GATES, SFT, GRPO, TEST),
    *(SNAPSHOT, EMBED_SNAPSHOT, REFIT, REFIT_PLUGIN),
)
