"""The whole configuration, and what does not belong to lists or learning: evaluation and limits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softgrpo.common.names import TEXT
from softgrpo.config.features import FeaturesConfig
from softgrpo.config.fusion import FusionChoice, FusionConfig
from softgrpo.config.learning import GRPOConfig, LabelConfig, PolicyConfig, SFTConfig, TrainConfig
from softgrpo.config.lists import DataConfig, PromptConfig, RecallConfig, SplitConfig, TextConfig
from softgrpo.config.section import Count, Positive, Section
from softgrpo.config.shares import check_shares

TABLE_KS = (10, 20)
Baseline = Literal[
    "cem",
    "bayes",
    "thirds",
    "neighbours",
    "dirichlet",
    "stacking",
    "boosting",
    "network",
    "discrete",
    "ranker",
    "zero_shot",
]
SEARCHES: tuple[Baseline, ...] = ("cem", "bayes")


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
    baselines: tuple[Baseline, ...] = (
        *("cem", "bayes", "thirds", "neighbours", "dirichlet", "stacking", "boosting", "network", "discrete", "ranker"),
    )
    """Rows beside those that every table has. Searches for global weights: cem (cross-entropy method), bayes (Bayesian
    optimisation). Gates: thirds (static weights per third of history length), and on the numbers of a window neighbours (nearest
    windows), dirichlet (policy gradient), stacking (linear), boosting (trees), network (SofT-GRPO), discrete (GRPO, one recaller).
    ranker orders the items themselves (trees). zero_shot asks the untrained language model (decoders only; slow on a CPU)."""

    @property
    def searches(self) -> tuple[Baseline, ...]:
        """The searches among the baselines, in a fixed order; they are candidates of the best static mixture."""
        return tuple(name for name in SEARCHES if name in self.baselines)

    @model_validator(mode="after")
    def _baselines(self) -> Self:
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines = {', '.join(self.baselines)} names one twice")
        return self

    def cutoffs(self, k: int) -> tuple[int, ...]:
        """Returns the cut-offs of the table, ascending: the wanted ones, `k`, and those that every table has."""
        return tuple(sorted({*self.ks, k, *TABLE_KS}))


class LimitsConfig(Section):
    """What a run may take; it changes no numbers and no keys."""

    stage_hours: Positive = 24.0
    """Longest that one stage may work; one that hangs ends with an error, and the next run goes on from its last checkpoint. The
    whole runs in docs/results.md took less than an hour."""
    memory_gb: Positive | None = None
    """Memory, in GB, that a process of the run may take. A run whose estimate is above that does not start; candidate lists are
    aligned in shards of windows that stay within it, and at least one window at a time. null: what is free. Shards are never larger
    than what is fast, about 0.1 GB."""


class ExperimentConfig(Section):
    """Everything that decides a run's numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of everything random."""
    data: DataConfig = Field(default_factory=DataConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    recall: RecallConfig = Field(default_factory=RecallConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    fusion: FusionChoice = Field(default_factory=FusionChoice)
    features: FeaturesConfig = Field(default_factory=FeaturesConfig)
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    labels: LabelConfig = Field(default_factory=LabelConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sft: SFTConfig = Field(default_factory=SFTConfig)
    grpo: GRPOConfig = Field(default_factory=GRPOConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @property
    def merges(self) -> tuple[FusionConfig, ...]:
        """The merges to try, see `FusionChoice.merges`, with the bounds of the pool."""
        return self.fusion.for_pool(self.recall.recallers).merges

    @property
    def tells_record(self) -> bool:
        """Whether numbers and prompts may tell of the track record, its counts and the length of the history."""
        if self.features.record == "auto":
            return self.split.method != "leave_last" and not self.split.cross_fit
        return self.features.record == "on"

    @property
    def can_cross_fit(self) -> bool:
        """Whether `split.cross_fit` may be on: every recaller is fitted here, no vector of a training is read, and the split is not
        one in time."""
        return not (self.recall.files or self.features.user_vector or self.split.method == "global_time")

    @property
    def told_features(self) -> FeaturesConfig:
        """The section `features` with `record` resolved to on or off."""
        return self.features.model_copy(update={"record": "on" if self.tells_record else "off"})

    @property
    def told_prompt(self) -> PromptConfig:
        """The section `prompt`, without the track record and the length of the history where `features.record` is off."""
        if self.tells_record:
            return self.prompt
        return self.prompt.model_copy(update={"track_record": False, "history_length": False})

    @model_validator(mode="after")
    def _together(self) -> Self:
        recallers = self.recall.recallers
        if len(recallers) < 2:
            raise ValueError(f"recall.recallers holds {len(recallers)}: a pool needs at least two recallers to weigh")
        if len(set(recallers)) < len(recallers):
            raise ValueError(f"recall.recallers = {', '.join(recallers)} names a recaller twice")
        check_shares(self.fusion.min_share, self.fusion.max_share, recallers)
        deepest = max(self.evaluation.cutoffs(self.fusion.k))
        if deepest > self.recall.depth:
            raise ValueError(f"a cut-off of {deepest} is deeper than recall.depth = {self.recall.depth}")
        trained = self.grpo.reward_k
        if trained is not None and trained > self.recall.depth:
            raise ValueError(f"grpo.reward_k = {trained} is deeper than recall.depth = {self.recall.depth}")
        if self.grpo.reward == "log_probability" and self.fusion.method == "quota":
            raise ValueError("grpo.reward = log_probability needs merged scores, and fusion.method = quota has none")
        if self.split.cross_fit and self.recall.files:
            raise ValueError(
                f"split.cross_fit = {self.split.cross_fit} fits every recaller anew, and {', '.join(self.recall.files)} is a file "
                "of lists; give split.cross_fit 0, or leave the file out"
            )
        if self.split.cross_fit and self.features.user_vector:
            raise ValueError(
                f"split.cross_fit = {self.split.cross_fit} with features.user_vector: the vectors of two trainings have different "
                "axes, so one cannot be read as the other; switch one of the two off"
            )
        foreign = set(self.recall.settings) & set(self.recall.files)
        if foreign:
            raise ValueError(f"recall.settings names {', '.join(sorted(foreign))}, which is a file and has no settings")
        if TEXT in self.recall.settings:
            raise ValueError(
                f"recall.settings names {TEXT}, which is no RecBole model; its settings are in the section text"
            )
        told = self.prompt.blocks
        if len(set(told)) < len(told):
            raise ValueError(f"prompt.blocks = {', '.join(told)} names one twice")
        unknown = set(told) - set(self.features.names)
        if unknown:
            raise ValueError(f"prompt.blocks names {', '.join(sorted(unknown))}, which is off in features")
        strangers = set(self.recall.settings) - set(recallers) - {"all"}
        if strangers:
            raise ValueError(f"recall.settings names {', '.join(sorted(strangers))}, which is not in recall.recallers")
        return self
