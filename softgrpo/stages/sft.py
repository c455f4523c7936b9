"""Stage `sft`: supervised fine-tuning of the policy on which recaller served the user best."""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainingArguments

from softgrpo.algorithm.batching import PromptCollator
from softgrpo.algorithm.dropout import switch_dropout_off
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer
from softgrpo.common.artifacts import CONFUSION, CURVES, GATE
from softgrpo.evaluation.confusion import choice_metrics, confusion_table
from softgrpo.policy.head_rate import head_rate
from softgrpo.policy.model import Policy, head_parameters, store_policy
from softgrpo.stages.callbacks import training_callbacks
from softgrpo.stages.contract import StageContext
from softgrpo.stages.gate_prior import fit_gate_prior
from softgrpo.stages.inputs import AskedRows, Prepared
from softgrpo.stages.labels import make_class_weights, make_labels, smooth
from softgrpo.stages.policy_rows import create_for, rows_of, save_prior
from softgrpo.stages.teacher import teach
from softgrpo.stages.together import train_together
from softgrpo.stages.training import (
    common_arguments,
    curves,
    evaluation_at,
    ranking_metrics,
    train_keeping_best,
)


def make_targets(context: StageContext, prepared: Prepared, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the label distributions (W, M) of policy windows."""
    config = context.config
    if config.labels.kind != "gate":
        return make_labels(prepared.features.ndcg[rows], config.labels)
    if not config.sft.num_train_epochs:
        return np.zeros_like(prepared.features.ndcg[rows])  # SFT is left out, and nobody reads them
    teacher, labels = teach(prepared, rows)
    context.reporter.info(
        f"labels of a network on the windows' numbers ({teacher.choice}): NDCG {teacher.valid_ndcg:.4f} on validation windows, the "
        f"best static mixture {prepared.static.best.valid_ndcg:.4f}"
    )
    return smooth(labels, config.labels.smoothing)


def _make_trainer(
    context: StageContext,
    prepared: Prepared,
    policy: Policy,
    asked: AskedRows,
    log_prior: NDArray[np.float32] | None = None,
) -> tuple[RecallerSFTTrainer, float]:
    """Returns the trainer and the share of prompts that lost history items."""
    config = context.config
    if config.sft.disable_dropout:
        switch_dropout_off(policy.model)
    rows = prepared.labelled_rows()
    prompts = prepared.encoded(rows, policy.tokenizer)
    labels = make_targets(context, prepared, rows)
    class_weights = make_class_weights(labels, config.labels)
    common = common_arguments(
        config.train, config.sft.learning_rate, config.sft.num_train_epochs, len(rows), config.seed, context.work
    )
    reward, fusion = prepared.reward(asked.rows), prepared.fusion
    ranking = ranking_metrics(reward, config.recall.recallers, tau=1.0, share=asked.share, fusion=fusion)
    choices = choice_metrics(prepared.features.ndcg[asked.rows], config.recall.recallers)
    trainer = RecallerSFTTrainer(
        class_weights=torch.from_numpy(class_weights),
        model=policy.model,
        args=TrainingArguments(**common),
        head=head_parameters(policy),
        head_learning_rate=head_rate(config.policy, config.sft.head_learning_rate),
        data_collator=PromptCollator(policy.tokenizer),
        train_dataset=rows_of(prepared, rows, policy, prompts, {"label": labels}, log_prior),
        eval_dataset=rows_of(prepared, asked.rows, policy, log_prior=log_prior),
        compute_metrics=lambda prediction: ranking(prediction) | choices(prediction),
        callbacks=training_callbacks(config.train, context.reporter, "SFT"),
    )
    context.reporter.info(f"SFT on {len(rows)} windows, {prompts.truncated_share:.0%} of the prompts shortened")
    return trainer, prompts.truncated_share


def make_prior(context: StageContext, prepared: Prepared) -> NDArray[np.float32] | None:
    """Fits the gate that the policy starts at and stores it; returns its log weights of all windows (W, M), None without one."""
    if context.config.policy.prior != "gate":
        return None
    gate, log_prior = fit_gate_prior(prepared)
    gate.save(context.out / GATE)
    save_prior(context.out, log_prior)
    context.reporter.info(
        f"the policy starts at the gate '{gate.kind}' ({gate.choice}): NDCG {gate.valid_ndcg:.4f} on validation windows, "
        f"the best static mixture {prepared.static.best.valid_ndcg:.4f}"
    )
    return log_prior


def run(context: StageContext) -> dict[str, float]:
    if context.config.train.processes > 1 and context.config.sft.num_train_epochs > 0:
        return train_together(context, __name__)
    return train(context)


def train(context: StageContext) -> dict[str, float]:
    """Trains in this process; of several that train together, the first writes the files."""
    config = context.config
    prepared = Prepared.of(config, context.inputs)
    policy = create_for(prepared)
    asked = prepared.asked_rows()
    log_prior = make_prior(context, prepared)
    trainer, truncated_share = _make_trainer(context, prepared, policy, asked, log_prior)
    metrics = train_keeping_best(trainer, context.work, context.reporter)
    if not trainer.is_world_process_zero():
        return metrics
    store_policy(context.out, policy, config.policy.merge_adapter)
    drawn = curves(trainer)
    (context.out / CURVES).write_text(json.dumps(drawn), encoding="utf-8")
    kept = evaluation_at(drawn, metrics["best_step"])
    confusion_table(kept, prepared.recallers).to_csv(context.out / CONFUSION)
    names = ("ndcg_single", "ndcg_multi", "accuracy", "macro_f1", "windows_with_a_best")
    metrics |= {f"valid_{name}": kept[name] for name in names if name in kept}
    return metrics | {"truncated_prompts": truncated_share, "validation_windows": float(asked.total)}
