"""The policy: a language model with a classification head over the recallers, what that head reads, its adapters."""

from __future__ import annotations

import copy
import json
import re
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from softgrpo.config import PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.card import CARD, PolicyCard, load_card
from softgrpo.policy.freezing import freeze_lower_layers, frozen_modules
from softgrpo.policy.heads import NumbersHead, PriorHead, UnitHead
from softgrpo.policy.model_files import check_reachable, identify_weights, locate_weights
from softgrpo.policy.number_scale import NumberScale, Standardise
from softgrpo.policy.number_tokens import TOKENS, NumberTokens, add_number_tokens, insert_number_tokens
from softgrpo.policy.pretrained import empty_model, load_base, load_tokenizer
from softgrpo.policy.prior import static_prior
from softgrpo.policy.window_inputs import NUMBERS, hand_over

WEIGHTS = "model.safetensors"


@dataclass
class Policy:
    """A model ready to train or to ask.

    Attributes:
        model: (B, L) token ids, and the window inputs that the card names, to logits (B, M).
        tokenizer: With a padding token.
        card: What it is.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    card: PolicyCard

    def typical_numbers(self) -> dict[str, Tensor]:
        """Returns the numbers of an average policy window as an input of the model, (1, F); none where it reads none."""
        scales = [module for module in self.model.modules() if isinstance(module, Standardise)]
        return {NUMBERS: scales[0].mean[None]} if scales else {}


def find_head(model: nn.Module, classes: int) -> str:
    """Returns the name of the linear layer that gives the logits of M classes.

    Raises:
        PolicyError: There is none.
    """
    names: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not names:
        raise PolicyError(
            f"a {type(model).__name__} without a linear layer of {classes} outputs",
            "the policy needs a linear classification head",
            "Choose a model with a sequence-classification head",
            code="POLICY-007",
        )
    return names[-1]


def _make_head(linear: nn.Linear, card: PolicyCard, scale: NumberScale) -> nn.Module:
    """Returns the head that the card asks for, over the model's own linear one."""
    prior = None if card.prior_per_window else torch.tensor(card.prior or [0.0] * len(card.recallers))
    if card.reads_numbers == "head":
        return NumbersHead(linear, prior, scale)
    if card.reads_numbers == "tokens":
        return UnitHead(linear, prior)
    return PriorHead(linear, prior) if card.prior is not None or card.prior_per_window else linear


def _adapt(model: PreTrainedModel, card: PolicyCard, config: PolicyConfig, scale: NumberScale) -> nn.Module:
    """Freezes the model's lower part, puts the head on it that the card asks for, and LoRA adapters on the body."""
    freeze_lower_layers(model, card.frozen_layers)
    head = find_head(model, len(card.recallers))
    parent, _, leaf = head.rpartition(".")
    linear = model.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    setattr(model.get_submodule(parent), leaf, _make_head(linear, card, scale))
    if card.reads_numbers == "tokens":
        add_number_tokens(model, scale, card.recallers, card.max_length)
    adapted = model if card.adapter == "none" else _with_adapters(model, head, config)
    _let_read(adapted, card)
    return adapted


def _let_read(model: nn.Module, card: PolicyCard) -> None:
    """Lets a model take what it reads of a window beside its prompt."""
    if card.reads_numbers != "none" or card.prior_per_window:
        hand_over(model)
    if card.reads_numbers == "tokens":
        insert_number_tokens(model)


def _with_adapters(model: PreTrainedModel, head: str, config: PolicyConfig) -> nn.Module:
    """Returns the model with LoRA adapters on all linear layers but the frozen and those of the head, which is trained as it is."""
    # the outermost name is what peft can save whole: `classifier` for a nested head such as `classifier.out_proj`
    lora = LoraConfig(
        task_type=None,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        exclude_modules="|".join(filter(None, [rf"({re.escape(head)}|{TOKENS})(\..*)?", frozen_modules(model)])),
        modules_to_save=[head.partition(".")[0], *([TOKENS] if hasattr(model, TOKENS) else [])],
    )
    with warnings.catch_warnings():  # peft still asks by a name that transformers is about to drop
        warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, lora)


def head_parameters(policy: Policy) -> list[nn.Parameter]:
    """Returns the parameters of the head, and of soft tokens, that are trained: all that is new in a pretrained model."""
    own: list[nn.Module] = [each for each in policy.model.modules() if isinstance(each, NumberTokens | PriorHead)]
    heads = own or [policy.model.get_submodule(find_head(policy.model, len(policy.card.recallers)))]
    return [value for head in heads for value in head.parameters() if value.requires_grad]


def create_policy(
    config: PolicyConfig,
    recallers: tuple[str, ...],
    max_length: int,
    static_weights: NDArray[np.float64],
    seed: int,
    scale: NumberScale | None = None,
) -> Policy:
    """Loads pretrained weights and puts a new head over the recallers on them.

    Args:
        config: Which model, adapter and prior.
        recallers: The classes.
        max_length: Tokens per prompt.
        static_weights: (M,) the best static mixture, for the prior.
        seed: Seed of the new head and of the adapters.
        scale: Of the numbers that the policy reads; only needed where `config.numbers` lets it read them.

    Raises:
        PolicyError: The model cannot be found, read or adapted, or the scale of its numbers is missing.
    """
    scale = _scale_read(config, scale)
    source, gguf = locate_weights(config.model_name)
    check_reachable(config.model_name, max_length)
    tokenizer = load_tokenizer(source, gguf)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_base(config.model_name, len(recallers))
        model.config.pad_token_id = tokenizer.pad_token_id
        model.config.id2label = dict(enumerate(recallers))
        model.config.label2id = {name: index for index, name in enumerate(recallers)}
        prior = static_prior(static_weights, config.prior_floor) if config.prior == "static" else None
        weights = identify_weights(config.model_name)
        card = PolicyCard(
            config.model_name,
            weights,
            recallers,
            max_length,
            config.adapter,
            prior,
            prior_per_window=config.prior == "gate",
            reads_numbers=config.numbers,
            numbers=scale.names,
            frozen_layers=config.frozen_layers,
        )
        return Policy(_adapt(model, card, config, scale), tokenizer, card)


def _scale_read(config: PolicyConfig, scale: NumberScale | None) -> NumberScale:
    """Returns the scale of the numbers that a new policy reads: of none where it reads none."""
    if config.numbers == "none":
        return NumberScale.unknown(())
    if scale is None or not scale.names:
        raise PolicyError(
            f"policy.numbers = {config.numbers} without numbers",
            "A policy that reads numbers needs their names and their scale over policy windows",
            "Pass NumberScale.of(names, values) as `scale`, or set policy.numbers to none",
            code="POLICY-033",
        )
    return scale


def save_policy(folder: Path, policy: Policy) -> None:
    """Writes weights (safetensors), configuration, tokenizer and card; adapters alone where LoRA was trained.

    Where no prior is set, plain transformers (and peft) load the folder as it stands.
    """
    policy.tokenizer.save_pretrained(folder)
    card = policy.card
    if isinstance(policy.model, PeftModel):
        base, adapters = policy.model.get_base_model(), policy.model.peft_config["default"]
        assert isinstance(base, PreTrainedModel)
        adapters.base_model_name_or_path = card.model_name  # not where it lies on this machine
        policy.model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
        (folder / "README.md").unlink()  # an empty form, but for the path of the base model on this machine
        base.config.save_pretrained(folder)
    else:
        assert isinstance(policy.model, PreTrainedModel)
        policy.model.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps(asdict(card), indent=2), encoding="utf-8")


def merge_adapters(policy: Policy) -> Policy:
    """Returns a plain policy with the adapters merged into a copy of the weights; one without adapters as it is."""
    if not isinstance(policy.model, PeftModel):
        return policy
    merged = copy.deepcopy(policy.model).merge_and_unload()
    _let_read(merged, policy.card)
    return Policy(merged, policy.tokenizer, replace(policy.card, adapter="none"))


def store_policy(folder: Path, policy: Policy, merge: bool) -> None:
    """Saves a policy and, if wanted and it has adapters, a plain one with the adapters merged in `<folder>/merged`."""
    save_policy(folder, policy)
    if merge and policy.card.adapter != "none":
        save_policy(folder / "merged", merge_adapters(policy))


def load_policy(folder: Path, config: PolicyConfig, recallers: tuple[str, ...] | None = None) -> Policy:
    """Loads what `save_policy` wrote, prior, adapters and the scale of its numbers included.

    Args:
        folder: Of the saved policy.
        config: The settings it was made with: the model, for adapters their rank and scale and where the base weights are now.
        recallers: The pool it is wanted for; None takes any.

    Raises:
        PolicyError: It is no policy, or one over another list of recallers, made from another model, or with adapters of
            another rank or scale.
    """
    card = load_card(folder)
    if recallers is not None and recallers != card.recallers:
        raise PolicyError(
            f"a policy over {', '.join(card.recallers)}",
            f"this run weighs {', '.join(recallers)}, in that order",
            "Train a policy for this pool",
            code="POLICY-008",
        )
    # the same weights may lie elsewhere by now, so their content decides and not their place; a whole policy needs no base
    same_name = card.adapter == "none" and config.model_name == card.model_name
    if not same_name and identify_weights(config.model_name) != card.weights:
        raise PolicyError(
            f"a policy made from '{card.model_name}'",
            f"the weights of policy.model_name = {config.model_name} are others",
            "Name the model that the policy was made from",
            code="POLICY-009",
        )
    tokenizer = load_tokenizer(str(folder), None)
    if card.adapter == "lora":
        stored = LoraConfig.from_pretrained(str(folder))
        if (stored.r, stored.lora_alpha) != (config.lora_r, config.lora_alpha):
            raise PolicyError(
                f"adapters of rank {stored.r} and scale {stored.lora_alpha}",
                f"this run has policy.lora_r = {config.lora_r} and policy.lora_alpha = {config.lora_alpha}",
                "Set the values that the policy was trained with",
                code="POLICY-010",
            )
        base = load_base(config.model_name, len(card.recallers))
        base.config.pad_token_id = tokenizer.pad_token_id
        model = _adapt(base, card, config, NumberScale.unknown(card.numbers))
        set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        return Policy(model, tokenizer, card)
    base = empty_model(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    model = _adapt(base, card, config, NumberScale.unknown(card.numbers))
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return Policy(model, tokenizer, card)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of all trainable weights, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.named_parameters() if value.requires_grad}


def restore_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts a copy from `trainable_state` back."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.copy_(state[name])
