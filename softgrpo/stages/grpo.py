"""Stage `grpo`: SofT-GRPO from the SFT policy, rewarded by NDCG@k of the merged list."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from softgrpo.callbacks import Progress, Report
from softgrpo.policy import Policy, load_policy, save_policy
from softgrpo.records import Part
from softgrpo.stages import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.training import (
    PromptCollator,
    PromptRows,
    common_arguments,
    curves,
    predict_logits,
    ranking_metrics,
    train_keeping_best,
)
from softgrpo.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer


def _make_trainer(context: StageContext, prepared: Prepared, policy: Policy) -> SoftGRPOTrainer:
    config, grpo = context.config, context.config.grpo
    rows, valid = prepared.training_rows(drop_unhit=False), prepared.windows.of(Part.VALID)
    common = common_arguments(
        config.train,
        grpo.learning_rate,
        grpo.num_train_epochs,
        len(rows),
        config.seed,
        context.work,
        grpo.num_iterations,
    )
    chosen = grpo.model_dump(exclude={"learning_rate", "num_train_epochs"})
    context.reporter.info(f"SofT-GRPO on {len(rows)} windows, {grpo.num_generations} generations each")
    return SoftGRPOTrainer(
        model=policy.model,
        reward=prepared.reward(rows),
        args=SoftGRPOConfig(**common, **chosen),
        train_dataset=PromptRows(prepared.encoded(rows, policy.tokenizer).input_ids, {}),
        processing_class=policy.tokenizer,
        eval_dataset=PromptRows(prepared.encoded(valid, policy.tokenizer).input_ids, {}),
        compute_metrics=ranking_metrics(prepared.reward(valid), config.recall.recallers, grpo.tau_gumbel),
        callbacks=[Report(context.reporter), Progress("SofT-GRPO")],
    )


def _choose_reading(prepared: Prepared, policy: Policy) -> tuple[float, dict[str, float]]:
    """Chooses, on validation windows, between the weights softmax(z) and softmax(z / tau_gumbel)."""
    config = prepared.config
    valid = prepared.windows.of(Part.VALID)
    rows = PromptRows(prepared.encoded(valid, policy.tokenizer).input_ids, {})
    train = config.train
    logits = predict_logits(
        policy.model, rows, PromptCollator(policy.tokenizer), train.eval_batch_size, train.bf16, "validation"
    )
    readings = {tau: (logits / tau).softmax(-1) for tau in dict.fromkeys((1.0, config.grpo.tau_gumbel))}
    scores = prepared.judged(valid).ndcg(torch.stack(list(readings.values()), dim=1).double()).mean(0).tolist()
    best = max(range(len(readings)), key=lambda index: scores[index])
    metrics = {f"valid_ndcg_reading_{tau:g}": score for tau, score in zip(readings, scores, strict=True)}
    return list(readings)[best], metrics


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    prepared = Prepared.of(config, context.inputs)
    policy = load_policy(context.inputs["sft"], config.policy, prepared.lists.recallers)
    trainer = _make_trainer(context, prepared, policy)
    metrics = train_keeping_best(trainer, context.work, context.reporter)
    tau, readings = _choose_reading(prepared, policy)
    save_policy(context.out, Policy(policy.model, policy.tokenizer, replace(policy.card, reading_tau=tau)))
    (context.out / "curves.json").write_text(json.dumps(curves(trainer)), encoding="utf-8")
    return metrics | readings | {"reading_tau": tau}
