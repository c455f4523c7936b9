"""SFT, SofT-GRPO and test read the same token ids of a window: one chat template, one limit, one place that makes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from softgrpo.algorithm.batching import PromptRows
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.policy.card import PolicyCard
from softgrpo.policy.model import Policy
from softgrpo.policy.prompts import PromptParts
from softgrpo.stages import answered, grpo, sft
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.opened import Opened
from tests.softgrpo.stages.test_training import Notes
from tests.support.toy_policy import toy_decoder, toy_encoder, toy_tokenizer
from tests.support.whole import save_prompts

RECALLERS = ("A", "B", "C")
TEMPLATE = (
    "{% for m in messages %}red {{ m['content'] }} </s>{% endfor %}{% if add_generation_prompt %} green{% endif %}"
)
CHOSEN = {
    "train": {"device": "cpu"},
    "sft": {"head_learning_rate": 0.25, "disable_dropout": True},
    "grpo": {"sampling": "discrete", "scale_rewards": "batch", "drop_flat": False, "head_learning_rate": 0.5},
}
TEXTS = [("a b", "c d e f", "blue"), ("c", "", "blue"), ("d e", "f", "blue")]


class Stored(Prepared):
    """Prompts on disk as the stage `data` leaves them; every part holds the same windows."""

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        super().__init__(config, folder, folder)
        everything = np.arange(len(TEXTS))
        self.__dict__["windows"] = SimpleNamespace(of=lambda *parts: everything)
        self.__dict__["features"] = SimpleNamespace(ndcg=np.eye(3, dtype=np.float32))
        self.__dict__["stored_lists"] = SimpleNamespace(recallers=RECALLERS)
        self.__dict__["fusion"] = FusionConfig()

    def contending(self, rows: Any, k: Any = None) -> Any:
        """Returns lists in which a target is within reach of every window."""
        return SimpleNamespace(reachable=torch.ones(len(rows), dtype=torch.bool))

    def reward(self, rows: Any) -> Any:
        """Returns a reward that is never asked."""
        return lambda weights, batch: weights.sum(-1)

    training_reward = reward


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat"])
@pytest.mark.parametrize(("make", "side"), [(toy_encoder, "right"), (toy_decoder, "left")], ids=["encoder", "decoder"])
def test_the_three_stages_read_the_same_token_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None, make: Any, side: str
) -> None:
    config = ExperimentConfig.model_validate({**CHOSEN, "recall": {"recallers": RECALLERS}})
    save_prompts(tmp_path / "prompts.parquet", [PromptParts(head, (body,), tail) for head, body, tail in TEXTS])
    tokenizer = toy_tokenizer(side)
    tokenizer.chat_template = template
    policy = Policy(make(), tokenizer, PolicyCard("toy", {}, RECALLERS, 512, "none", None))
    prepared, seen = Stored(config, tmp_path), []
    context = StageContext(config, "", {}, tmp_path, tmp_path, Notes())

    def asked(model: Any, rows: PromptRows, *rest: Any) -> torch.Tensor:
        seen.append(rows)
        return torch.zeros(len(rows), 3)

    monkeypatch.setattr(answered, "load_for", lambda *given: policy)
    monkeypatch.setattr(answered, "predict_logits", asked)
    opened = Opened(config, {"grpo": tmp_path})
    opened.__dict__["prepared"] = prepared  # what it has read already
    answered.policy_logits(opened, "grpo", "test")
    asked_rows = prepared.asked_rows()
    dropout = [module for module in policy.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert side == "left" or any(module.p for module in dropout)
    supervised, _ = sft._make_trainer(context, prepared, policy, asked_rows)
    assert not any(module.p for module in dropout)
    reinforced = grpo._make_trainer(context, prepared, policy, asked_rows)
    assert (reinforced.args.sampling, reinforced.args.scale_rewards) == ("discrete", "batch")  # settings arrive
    for trainer, rate in ((supervised, 0.25), (reinforced, 0.5)):
        assert rate in {group["lr"] for group in trainer.create_optimizer().param_groups if group["params"]}
    for trainer in (supervised, reinforced):
        seen += [trainer.train_dataset, trainer.eval_dataset]
    ids = [rows.input_ids for rows in seen]
    assert len(ids) == 5 and all(each == ids[0] for each in ids)
    batches = [next(iter(trainer.get_eval_dataloader())) for trainer in (supervised, reinforced)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in ("input_ids", "attention_mask", "index"))
    red, end, green = (tokenizer.convert_tokens_to_ids(word) for word in ("red", "</s>", "green"))
    for row in ids[0]:  # the template once, or not at all
        assert [row.count(red), row.count(end), row.count(green)] == ([1, 1, 1] if template else [0, 0, 0])
