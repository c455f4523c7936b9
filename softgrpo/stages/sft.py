"""Stage `sft`: supervised fine-tuning of the policy on which recaller served the user best."""

from __future__ import annotations

import json

import numpy as np
from transformers import TrainingArguments

from softgrpo.callbacks import Progress, Report
from softgrpo.policy import Policy, create_policy, save_policy
from softgrpo.records import Part
from softgrpo.sft import RecallerSFTTrainer, make_labels
from softgrpo.stages import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.training import (
    PromptCollator,
    PromptRows,
    common_arguments,
    curves,
    ranking_metrics,
    train_keeping_best,
)


def _make_trainer(context: StageContext, prepared: Prepared, policy: Policy) -> tuple[RecallerSFTTrainer, float]:
    """Returns the trainer and the share of prompts that lost history items."""
    config = context.config
    rows, valid = prepared.training_rows(config.labels.drop_unhit), prepared.windows.of(Part.VALID)
    prompts = prepared.encoded(rows, policy.tokenizer)
    labels = make_labels(prepared.features.ndcg[rows], config.labels)
    common = common_arguments(
        config.train, config.sft.learning_rate, config.sft.num_train_epochs, len(rows), config.seed, context.work
    )
    reward = prepared.reward(valid)
    trainer = RecallerSFTTrainer(
        model=policy.model,
        args=TrainingArguments(**common),
        data_collator=PromptCollator(policy.tokenizer),
        train_dataset=PromptRows(prompts.input_ids, {"label": labels}),
        eval_dataset=PromptRows(prepared.encoded(valid, policy.tokenizer).input_ids, {}),
        compute_metrics=ranking_metrics(reward, config.recall.recallers, tau=1.0),
        callbacks=[Report(context.reporter), Progress("SFT")],
    )
    context.reporter.info(f"SFT on {len(rows)} windows, {prompts.truncated_share:.0%} of the prompts shortened")
    return trainer, prompts.truncated_share


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    prepared = Prepared.of(config, context.inputs)
    weights = np.asarray(prepared.static.best.weights)
    policy = create_policy(config.policy, prepared.lists.recallers, config.prompt.max_length, weights, config.seed)
    trainer, truncated_share = _make_trainer(context, prepared, policy)
    metrics = train_keeping_best(trainer, context.work, context.reporter)
    save_policy(context.out, policy)
    (context.out / "curves.json").write_text(json.dumps(curves(trainer)), encoding="utf-8")
    return metrics | {"truncated_prompts": truncated_share}
