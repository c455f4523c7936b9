"""States of frozen layers: found for any model, computed once for each prompt, and a training that does not see the difference."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, TrainingArguments

from softgrpo.algorithm import frozen_states
from softgrpo.algorithm.batching import PromptCollator, PromptRows
from softgrpo.algorithm.frozen_states import count_fixed, layer_stacks, places_read
from softgrpo.algorithm.prompt_trainer import PromptTrainer
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.policy.freezing import freeze_lower_layers
from tests.support.toy_policy import OPTIMA, toy_reward, toy_tokenizer

SIZE = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
ROWS = [[3, 6, 7, 8], [4, 9], [5, 10, 11], [3, 11], [4, 6, 8, 10, 7], [5, 7], [3, 9, 6], [4, 7]]
KINDS = {"bert": "first", "llama": "last", "mpnet": "first"}


def small_model(kind: str, frozen: int, dropout: float = 0.0) -> PreTrainedModel:
    """Returns a small classifier with random weights and a head of zeros, as a new policy has."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    settings = SIZE | {"num_labels": 3, "pad_token_id": 0, "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings, **({} if kind == "llama" else rates))
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    freeze_lower_layers(model, frozen)
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 3][-1]
    nn.init.zeros_(head.weight)
    return model


def batch(side: str = "right") -> dict[str, Any]:
    """Returns two prompts of different lengths."""
    return PromptCollator(toy_tokenizer(side))([{"input_ids": ROWS[4], "index": 0}, {"input_ids": ROWS[1], "index": 1}])


def rows() -> PromptRows:
    colours = [ids[0] - 3 for ids in ROWS]
    return PromptRows(ROWS, {"colour": colours, "label": [OPTIMA[colour].numpy() for colour in colours]})


def trainer_of(kind: str, model: PreTrainedModel, folder: Path, **settings: Any) -> PromptTrainer:
    """Returns a trainer of SFT or SofT-GRPO that sees every prompt in three epochs and five evaluations."""
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "remove_unused_columns": False,
    }
    data: dict[str, Any] = {"train_dataset": rows(), "eval_dataset": PromptRows(ROWS[:3], {})}
    if kind == "sft":
        args = TrainingArguments(**common | settings)
        return RecallerSFTTrainer(model=model, args=args, data_collator=PromptCollator(toy_tokenizer()), **data)
    data["eval_dataset"] = PromptRows(ROWS[:3], {"colour": [0, 1, 2]})
    args = SoftGRPOConfig(**common | {"num_generations": 4, "bf16": False, "beta": 0.1} | settings)
    return SoftGRPOTrainer(model=model, reward_funcs=toy_reward, args=args, processing_class=toy_tokenizer(), **data)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(frozen_states, "MOST_BYTES", 0)
    yield


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def visits(model: PreTrainedModel) -> list[int]:
    """Returns a list that grows by the number of prompts at every visit to the lowest layer's own network."""
    seen: list[int] = []
    inner = next(module for module in layer_stacks(model)[0][0].modules() if isinstance(module, nn.Linear))
    inner.register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    return seen


# ---------------------------------------------------------------- what is fixed


@pytest.mark.parametrize("frozen", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_layers_are_found_and_nothing_is_changed(kind: str, frozen: int) -> None:
    model = small_model(kind, frozen)
    before = weights(model)
    layers = list(layer_stacks(model)[0])
    assert count_fixed(model, layers, batch()) == frozen
    if frozen == 3:
        assert places_read(model, layers[-1], batch()) == KINDS[kind]
        padding_first = places_read(model, layers[-1], batch("left"))
        assert padding_first == ("last" if kind == "llama" else None)  # encoders read the first token, here padding
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_tokens_in_the_middle_are_not_taken_for_the_first() -> None:
    model = small_model("bert", 3)
    pooler = model.get_submodule("bert.pooler")
    pooler.forward = lambda states: torch.tanh(pooler.dense(states[:, :2].mean(1)))  # type: ignore[assignment]
    assert places_read(model, list(layer_stacks(model)[0])[-1], batch()) == "all"


def test_layers_with_dropout_are_no_fixed_function() -> None:
    model = small_model("bert", 2, dropout=0.5)
    layers = list(layer_stacks(model)[0])
    assert count_fixed(model, layers, batch()) == 2  # freezing has switched theirs off
    for module in layers[1].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert count_fixed(model, layers, batch()) == 1


def test_layers_above_something_that_learns_are_not_fixed() -> None:
    model = small_model("bert", 2)
    model.get_input_embeddings().weight.requires_grad_(True)
    assert count_fixed(model, list(layer_stacks(model)[0]), batch()) == 0


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("training", ["sft", "grpo"])
@pytest.mark.parametrize(("kind", "frozen"), [("bert", 2), ("bert", 3), ("llama", 2), ("llama", 3), ("mpnet", 3)])
def test_each_prompt_passes_the_frozen_layers_once_and_training_is_the_same(
    kind: str, frozen: int, training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for most in (2**30, 0):
        monkeypatch.setattr(frozen_states, "MOST_BYTES", most)
        model = small_model(kind, frozen)
        seen = visits(model)
        trainer_of(training, model, tmp_path / str(most)).train()
        results.append((weights(model), sum(seen)))
        assert not any("forward" in vars(layer) for layer in layer_stacks(model)[0])  # all as it was
    (remembered, few), (computed, many) = results
    probes = 2 * (3 + (frozen == 3))  # of two prompts each
    assert few == probes + 8 + 3  # each prompt of the training and of the evaluation once
    assert many == probes + 3 * (8 + 3) + 8 * (training == "grpo")  # epochs, evaluations, and the reference
    moved = 0
    for name, value in remembered.items():
        torch.testing.assert_close(value, computed[name], rtol=1e-4, atol=1e-6)
        moved += not torch.equal(value, weights(small_model(kind, frozen))[name])
    assert moved


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, halved = small_model("bert", 3), small_model("bert", 3)
    trainer_of("grpo", whole, tmp_path / "whole", save_strategy="no").train()
    trainer_of("grpo", halved, tmp_path / "halved", save_strategy="steps", save_steps=2).train()
    resumed = small_model("bert", 3)
    trainer_of("grpo", resumed, tmp_path / "halved").train(str(tmp_path / "halved/checkpoint-2"))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_a_batch_with_an_unknown_prompt_is_computed(tmp_path: Path) -> None:
    model = small_model("bert", 3)
    trainer = trainer_of("sft", model, tmp_path)
    nn.init.normal_(model.classifier.weight)
    expected = model.eval()(**asked()).logits.detach()
    with trainer._frozen_states():
        model.eval()
        torch.testing.assert_close(model(**asked()).logits, expected)
    assert not torch.equal(expected, torch.zeros_like(expected))


def asked() -> dict[str, Tensor]:
    found = PromptCollator(toy_tokenizer())([{"input_ids": ROWS[0], "index": 0}, {"input_ids": [9, 9, 9], "index": 1}])
    return {name: found[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.usefixtures("forgetful")
def test_states_that_take_too_much_are_computed_at_every_visit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model("bert", 3)
    seen = visits(model)
    with caplog.at_level("INFO"):
        trainer_of("sft", model, tmp_path).train()
    assert "frozen layers are computed at every visit" in caplog.text
    assert sum(seen) > 5 * len(ROWS)


def test_states_are_found_by_the_tokens_of_a_prompt_whatever_its_batch() -> None:
    model = small_model("llama", 3)
    nn.init.normal_(model.score.weight)
    plain = copy.deepcopy(model).eval()
    collator = PromptCollator(toy_tokenizer("left"))
    with frozen_states.frozen_states_of(model, [rows()], collator, 3, torch.no_grad):
        for order in ([4, 1], [1, 3, 0], [7]):
            one = collator([{"input_ids": ROWS[row], "index": row} for row in order])
            inputs = {name: one[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                np.testing.assert_allclose(model.eval()(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5)
