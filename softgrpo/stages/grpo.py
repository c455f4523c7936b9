"""Stage `grpo`: SofT-GRPO from the SFT policy, rewarded by the merged list, by NDCG@k unless `grpo.reward` says otherwise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.common.artifacts import CURVES
from softgrpo.policy.head_rate import head_rate
from softgrpo.policy.model import Policy, head_parameters, store_policy
from softgrpo.stages.callbacks import training_callbacks
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import AskedRows, Prepared
from softgrpo.stages.policy_rows import keep_prior, load_for, load_prior, rows_of
from softgrpo.stages.together import train_together
from softgrpo.stages.training import (
    common_arguments,
    curves,
    evaluation_at,
    ranking_metrics,
    train_keeping_best,
)

OF_THE_STAGE = {"learning_rate", "head_learning_rate", "num_train_epochs", "drop_flat", "reward", "reward_k"}
"""Settings that are no arguments of `SoftGRPOConfig` of the same name."""


def _make_trainer(
    context: StageContext,
    prepared: Prepared,
    policy: Policy,
    asked: AskedRows,
    log_prior: NDArray[np.float32] | None = None,
) -> SoftGRPOTrainer:
    config, grpo = context.config, context.config.grpo
    rows = prepared.rewarded_rows()
    common = common_arguments(
        config.train,
        grpo.learning_rate,
        grpo.num_train_epochs,
        len(rows),
        config.seed,
        context.work,
        grpo.num_iterations,
    )
    chosen = grpo.model_dump(exclude=OF_THE_STAGE)
    context.reporter.info(f"SofT-GRPO on {len(rows)} windows, {grpo.num_generations} generations each")
    return SoftGRPOTrainer(
        model=policy.model,
        reward=prepared.training_reward(rows),
        args=SoftGRPOConfig(**common, **chosen),
        head=head_parameters(policy),
        head_learning_rate=head_rate(config.policy, grpo.head_learning_rate),
        train_dataset=rows_of(prepared, rows, policy, log_prior=log_prior),
        processing_class=policy.tokenizer,
        eval_dataset=rows_of(prepared, asked.rows, policy, log_prior=log_prior),
        compute_metrics=ranking_metrics(
            prepared.reward(asked.rows), config.recall.recallers, grpo.tau_gumbel, asked.share, prepared.fusion
        ),
        callbacks=training_callbacks(config.train, context.reporter, "SofT-GRPO", config.recall.recallers),
    )


def choose_reading(drawn: dict[str, dict[str, list[float]]], step: float, tau: float) -> float:
    """Returns the temperature, 1 or tau, whose reading softmax(z / temperature) is better on validation windows.

    The better reading is what the model was kept for (`ndcg_best_reading`), so model and temperature are chosen together.

    Args:
        drawn: Curves of the training, from `softgrpo.stages.training.curves`.
        step: Step of the model that was kept.
        tau: Temperature of the samples.
    """
    kept = evaluation_at(drawn, step)
    return tau if kept["ndcg_multi_tau"] > kept["ndcg_multi"] else 1.0


def run(context: StageContext) -> dict[str, float]:
    if context.config.train.processes > 1 and context.config.grpo.num_train_epochs > 0:
        return train_together(context, __name__)
    return train(context)


def train(context: StageContext) -> dict[str, float]:
    """Trains in this process; of several that train together, the first writes the files."""
    config = context.config
    prepared = Prepared.of(config, context.inputs)
    policy = load_for(prepared, context.inputs["sft"])
    asked = prepared.asked_rows()
    log_prior = load_prior(prepared, context.inputs["sft"], policy.card)
    trainer = _make_trainer(context, prepared, policy, asked, log_prior)
    metrics = train_keeping_best(trainer, context.work, context.reporter)
    if not trainer.is_world_process_zero():
        return metrics
    drawn = curves(trainer)
    trained = config.grpo.num_train_epochs > 0
    tau = choose_reading(drawn, metrics["best_step"], config.grpo.tau_gumbel) if trained else 1.0
    read = Policy(policy.model, policy.tokenizer, replace(policy.card, reading_tau=tau))
    store_policy(context.out, read, config.policy.merge_adapter)
    if log_prior is not None:
        keep_prior(context.inputs["sft"], context.out)
    (context.out / CURVES).write_text(json.dumps(drawn), encoding="utf-8")
    return metrics | {"reading_tau": tau, "validation_windows": float(asked.total)}
