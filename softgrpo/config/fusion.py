"""Settings of merging: how weighted candidate lists become one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, assert_never, get_args

from pydantic import Field

from softgrpo.config.section import Count, Positive, Section, WholeShare

MergeMethod = Literal["score", "quota", "rrf"]
"""How lists are merged; what each name does is in `softgrpo.ranking.fusion.merge_of`."""
FusionMethod = Literal["auto", MergeMethod]
"""A merge by name, or the search for the best one."""
Normalisation = Literal["none", "minmax", "zscore", "softmax", "percentile", "rank_reciprocal", "rank_exp", "platt"]


AUTO_RRF_K = (60.0, 10.0, 2.0)
"""Constants of reciprocal rank fusion that are tried; the first is the published one, and the default."""


class FusionChoice(Section):
    """How weighted candidate lists become one list, or that the best of all ways is searched."""

    method: FusionMethod = "auto"
    """auto: the stage data tries every merge and keeps the one that is best on validation windows; score: sum of weight times
    normalised score; quota: weighted turns; rrf: weighted reciprocal rank fusion. Labels, rewards, searches, evaluation and
    recommendations use the same."""
    normalisation: Normalisation = "minmax"
    """Normalisation of scores over the retrieved list (score only; auto tries all)."""
    rrf_k: Positive = 60.0
    """Constant of reciprocal rank fusion (rrf only; auto tries 60, 10 and 2 too)."""
    rank_exp_tau: Positive = 10.0
    """Scale, in ranks, of the normalisation rank_exp."""
    k: Count = 10
    """Cut-off of the NDCG that labels, rewards, searches and model selection use."""
    min_share: dict[str, WholeShare] = Field(default_factory=dict)
    """Smallest share of the weight (quota: of the turns) per recaller, e.g. {ItemKNN: 0.2}; empty: no bound. Weights beyond bounds
    are brought to the nearest ones within, in training, searches, evaluation and recommendations."""
    max_share: dict[str, WholeShare] = Field(default_factory=dict)
    """Largest share of the weight per recaller, e.g. {Pop: 0.3}; see min_share."""

    @property
    def idle(self) -> set[str]:
        """Names of bounds that say nothing; records and keys leave them out, and so do those of runs before there were bounds."""
        return {name for name in ("min_share", "max_share") if not getattr(self, name)}

    def for_pool(self, recallers: Sequence[str]) -> Self:
        """Returns the same with bounds that name every recaller, in the order of the pool; without bounds as it is."""
        if not (self.min_share or self.max_share):
            return self
        least = {name: self.min_share.get(name, 0.0) for name in recallers}
        most = {name: self.max_share.get(name, 1.0) for name in recallers}
        return self.model_copy(update={"min_share": least, "max_share": most})

    @property
    def reads_normalisation(self) -> bool:
        """Whether the method reads `normalisation`; where it does not, that setting says nothing about a run."""
        match self.method:
            case "score":
                return True
            case "auto" | "quota" | "rrf":
                return False
            case _:
                assert_never(self.method)

    @property
    def merges(self) -> tuple[FusionConfig, ...]:
        """The merges to try, the one that ties go to first; one where the method is named."""
        if self.method != "auto":
            return (FusionConfig.model_validate(self.model_dump()),)
        rrf = FusionConfig.model_validate(self.model_dump(exclude={"method"}))
        return (
            *(rrf.model_copy(update={"rrf_k": constant}) for constant in dict.fromkeys((self.rrf_k, *AUTO_RRF_K))),
            *(rrf.model_copy(update={"method": "score", "normalisation": name}) for name in get_args(Normalisation)),
            rrf.model_copy(update={"method": "quota"}),
        )


class FusionConfig(FusionChoice):
    """How weighted candidate lists become one list."""

    method: MergeMethod = "rrf"
    """score: sum of weight times normalised score; quota: weighted turns; rrf: weighted reciprocal rank fusion."""

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Smallest and largest share of each recaller, in the order that `for_pool` was asked for; None without bounds."""
        if not (self.min_share or self.max_share):
            return None
        return tuple(self.min_share.values()), tuple(self.max_share.values())

    @property
    def unbounded(self) -> Self:
        """The same merge without bounds."""
        return self.model_copy(update={"min_share": {}, "max_share": {}})

    @property
    def name(self) -> str:
        """What people call it, e.g. `rrf`, `rrf, k 10` or `score, minmax`; no two of `FusionChoice.merges` share one."""
        match self.method:
            case "score":
                return f"score, {self.normalisation}"
            case "rrf":
                return "rrf" if self.rrf_k == AUTO_RRF_K[0] else f"rrf, k {self.rrf_k:g}"
            case "quota":
                return "quota"
            case _:
                assert_never(self.method)

    @property
    def key(self) -> str:
        """Its name in metrics, e.g. `rrf`, `rrf_k_10` or `score_minmax`."""
        return self.name.replace(", ", "_").replace(" ", "_")
