"""What the stages are: their settings, code and libraries. A stage's own module is imported when it runs, and not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from softgrpo.common.digests import digest_file
from softgrpo.config import ExperimentConfig
from softgrpo.data.locate import SUFFIXES, locate
from softgrpo.policy.model_files import identify_weights
from softgrpo.stages.contract import Stage, StageContext

Parameters = Callable[[ExperimentConfig, str], dict[str, Any]]

TABLES = ("numpy", "pandas", "pyarrow")
TRAINING = ("accelerate", "gguf", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def _split(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    folder = locate(config.data)
    paths = [folder / f"{config.data.dataset}{suffix}" for suffix in SUFFIXES]
    return {
        "seed": config.seed,
        "data": config.data.model_dump(mode="json", exclude={"data_path", "download"}),
        "split": config.split.model_dump(mode="json"),
        "files": {path.suffix: digest_file(path) for path in paths if path.is_file()},
    }


def _recall(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recaller": variant,
        "settings": config.recall.settings_of(variant),
        **config.recall.model_dump(mode="json", exclude={"recallers", "settings", "files"}),
    }


def _recall_file(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "recaller": variant,
        "file": digest_file(config.recall.files[variant]),  # what it holds counts, not where it lies
        "depth": config.recall.depth,
    }


def _check(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "files": sorted(config.recall.files),
        "split": config.split.model_dump(mode="json"),
        "features": config.features.model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json", exclude={"max_length"}),
        "k": config.fusion.k,
    }


def _data(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "fusion": config.fusion.model_dump(mode="json"),
        "features": config.features.model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json", exclude={"max_length"}),
        "grid_steps": config.evaluation.grid_steps,
        "searches": list(config.evaluation.searches),
    }


def _training(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "recallers": list(config.recall.recallers),
        "fusion": config.fusion.model_dump(mode="json"),
        "max_length": config.prompt.max_length,
        # the weights themselves stand for the name, which may be a path of this machine
        "policy": config.policy.model_dump(mode="json", exclude={"size", "model_name"}),
        "weights": identify_weights(config.policy.model_name),
        "train": config.train.model_dump(mode="json"),
    }


def _sft(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    own = {"labels": config.labels.model_dump(mode="json"), "sft": config.sft.model_dump(mode="json")}
    if config.labels.kind == "gate":
        own["gate"] = {"drop_flat": config.grpo.drop_flat}  # says what the gate learns from
    return _training(config) | own


def _grpo(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    return _training(config) | {"grpo": config.grpo.model_dump(mode="json")}


def _test(config: ExperimentConfig, variant: str) -> dict[str, Any]:
    left_out: dict[str, Any] = {"data": {"data_path", "download"}, "recall": {"files"}, "limits": True}
    return {"config": config.model_dump(mode="json", exclude=left_out)}  # the report tells it all


def _stage(name: str, parameters: Parameters, libraries: tuple[str, ...], module: str = "") -> Stage:
    module = f"softgrpo.stages.{module or name}"

    def run(context: StageContext) -> dict[str, float]:
        metrics: dict[str, float] = importlib.import_module(module).run(context)
        return metrics

    return Stage(name, run, parameters, module, libraries)


SPLIT = _stage("split", _split, TABLES)
RECALL = _stage("recall", _recall, (*TABLES, "recbole", "scipy", "torch"))
RECALL_FILE = _stage("recall", _recall_file, TABLES, "recall_file")
DATA = _stage("data", _data, (*TABLES, "optuna", "safetensors", "scikit-learn", "torch"))
CHECK = _stage("check", _check, (*TABLES, "safetensors"))
SFT = _stage("sft", _sft, (*TRAINING, "pandas", "scikit-learn"))
GRPO = _stage("grpo", _grpo, (*TRAINING, "trl"))
TEST = _stage("test", _test, (*TRAINING, "jinja2", "matplotlib", "pandas", "pyarrow", "scikit-learn"))
EVERY = (SPLIT, RECALL, RECALL_FILE, DATA, CHECK, SFT, GRPO, TEST)
