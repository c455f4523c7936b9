"""What the later stages read of the earlier ones. Legend: W windows, M recallers, T targets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from softgrpo.baselines.merge_search import MergeSearch
from softgrpo.baselines.static_mixture import StaticMixture
from softgrpo.common.artifacts import CANDIDATES, EMBEDDINGS, FEATURES, MERGES, NUMBERS, PLATT, PROMPTS, WINDOWS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.records import Corpus, Windows
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows, targets_of
from softgrpo.errors import DataError
from softgrpo.policy.features import Features, load_features
from softgrpo.policy.numbers import WindowNumbers, load_numbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.prompts import EncodedPrompts, encode
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.rewards import RankingReward, training_reward
from softgrpo.ranking.searched import SearchedLists
from softgrpo.ranking.sharded import ShardedLists
from softgrpo.recallers.stored_lists import StoredLists
from softgrpo.stages.left_out import FEW_WINDOWS, FLAT, SMALL_SHARE, UNHIT, LeftOut
from softgrpo.stages.merge_files import load_merges, load_static
from softgrpo.stages.shards import (
    held_bytes,
    judge,
    judged_shards,
    learning_windows,
    seeded_sample,
    shard_size,
    table_shard_size,
)

logger = logging.getLogger(__name__)


def embeddings_of(inputs: Mapping[str, Path]) -> NDArray[np.float32] | None:
    """Returns the embeddings of the items' texts, (items, components); None where no stage `embed` is among a stage's inputs."""
    return load_embeddings(inputs["embed"] / EMBEDDINGS) if "embed" in inputs else None


@dataclass(frozen=True)
class AskedRows:
    """Validation windows that choose a language model.

    Attributes:
        rows: Ascending numbers of those that it reads: those in which weights can earn anything.
        total: How many windows they stand for, all others with NDCG 0 whatever the weights.
    """

    rows: NDArray[np.int64]
    total: int

    @property
    def share(self) -> float:
        """By what a mean NDCG over `rows` is multiplied to be the mean over all windows, in (0, 1]."""
        return len(self.rows) / self.total


@dataclass(frozen=True)
class Prepared:
    """Output of the stages `split` and `data`, read on demand.

    Attributes:
        config: The resolved configuration.
        split: Folder of the stage `split`.
        data: Folder of the stage `data`.
    """

    config: ExperimentConfig
    split: Path
    data: Path

    @classmethod
    def of(cls, config: ExperimentConfig, inputs: Mapping[str, Path]) -> Prepared:
        """Returns the output that a stage gets as its inputs."""
        return cls(config, inputs["split"], inputs["data"])

    @cached_property
    def corpus(self) -> Corpus:
        """All interactions."""
        return load_corpus(self.split)

    @cached_property
    def windows(self) -> Windows:
        """All windows: those of the split and, behind them, those that `split.cross_fit` adds."""
        return load_windows(self.data if (self.data / WINDOWS).is_file() else self.split)

    @cached_property
    def stored_lists(self) -> StoredLists:
        """Candidate lists, to be read for some windows at a time."""
        return StoredLists.open(self.data / CANDIDATES, held_bytes(self.config.limits))

    @property
    def recallers(self) -> tuple[str, ...]:
        """The M names."""
        return self.stored_lists.recallers

    @cached_property
    def targets(self) -> NDArray[np.int32]:
        """Targets of all windows, (W, T), -1 behind the last."""
        return targets_of(self.corpus, self.windows)

    @cached_property
    def features(self) -> Features:
        """Features of all windows."""
        return load_features(self.data / FEATURES)

    @cached_property
    def merges(self) -> MergeSearch:
        """The merges that were tried."""
        return load_merges(self.data)

    @cached_property
    def fusion(self) -> FusionConfig:
        """The run's merge. Runs of earlier versions stored none; theirs is the one that they name."""
        if (self.data / MERGES).is_file():
            return self.merges.chosen
        (named,) = self.config.merges
        return named

    @cached_property
    def numbers(self) -> WindowNumbers:
        """Numbers of all windows, as gates read them."""
        return load_numbers(self.data / NUMBERS)

    @cached_property
    def static(self) -> StaticMixture:
        """The best static mixture."""
        return load_static(self.data)

    @cached_property
    def platt(self) -> torch.Tensor | None:
        """Parameters (M, 2) of the normalisation `platt`, None where it was not tried."""
        stored = self.data / PLATT
        if not stored.is_file():
            return None
        return torch.tensor(json.loads(stored.read_text(encoding="utf-8")), dtype=torch.float64)

    def judged(self, rows: NDArray[np.int64], fusion: FusionConfig | None = None) -> JudgedLists:
        """Returns lists and targets of some windows, in their order.

        Args:
            rows: Window numbers.
            fusion: How the lists will be merged; None takes the run's merge.
        """
        return judge(self.stored_lists, self.targets, rows, fusion or self.fusion, self.platt)

    def sharded(self, rows: NDArray[np.int64], fusion: FusionConfig | None = None) -> ShardedLists:
        """Returns lists and targets of some windows, aligned a shard at a time; arguments as of `judged`."""
        merge, lists = fusion or self.fusion, self.stored_lists
        step = table_shard_size(self.config.limits, len(lists.recallers), lists.depth)
        return ShardedLists(
            lambda places: self.judged(rows[places], merge),
            len(rows),
            step,
            merge,
            len(lists.recallers),
            torch.from_numpy(self.targets[rows]).long(),
        )

    def contending(self, rows: NDArray[np.int64], k: int | None = None) -> JudgedLists:
        """Returns lists and targets of some windows, with only the items that weights can bring into the first k.

        Args:
            rows: Window numbers; they are aligned a shard at a time.
            k: None takes `fusion.k`.
        """
        merge, lists = self.fusion if k is None else self.fusion.model_copy(update={"k": k}), self.stored_lists
        size = shard_size(self.config.limits, len(lists.recallers), lists.depth)
        shards = judged_shards(lists, self.targets, rows, merge, self.platt, size)
        return SearchedLists.join(shards, torch.from_numpy(self.targets[rows]), len(rows)).hit

    def reward(self, rows: NDArray[np.int64]) -> RankingReward:
        """Returns what is reported, NDCG@`fusion.k`, over some windows, whose number is their place in `rows`."""
        return training_reward(self.contending(rows), "ndcg", None)

    def training_reward(self, rows: NDArray[np.int64]) -> RankingReward:
        """Returns what samples earn in training, by `grpo.reward` and `grpo.reward_k`; windows are numbered as in `reward`."""
        kind, k = self.config.grpo.reward, self.config.grpo.reward_k
        if kind == "log_probability":  # it is over all items
            return training_reward(self.judged(rows), kind, k)
        return training_reward(self.contending(rows, k), kind, k)

    def encoded(self, rows: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase) -> EncodedPrompts:
        """Returns the token ids of the prompts of some windows, in their order."""
        return encode(load_prompts(self.data / PROMPTS, rows), tokenizer, self.config.prompt.max_length)

    @cached_property
    def _learning_windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return learning_windows(self.windows, self.config.train.sample_windows, self.config.seed)

    @property
    def learning_rows(self) -> NDArray[np.int64]:
        """Policy windows that anything is learnt from, ascending; see `train.sample_windows`."""
        return self._learning_windows[0]

    @property
    def validation_rows(self) -> NDArray[np.int64]:
        """Validation windows that anything is chosen by, ascending; see `train.sample_windows`."""
        return self._learning_windows[1]

    def labelled_rows(self) -> NDArray[np.int64]:
        """Returns the policy windows that SFT trains on, ascending; those of `split.cross_fit` are among them.

        Raises:
            DataError: None is left.
        """
        rows = self.learning_rows
        if self.config.labels.drop_unhit and self.config.labels.kind != "gate":
            rows = self._told_apart(rows, self.features.ndcg[rows].max(1) > 0, UNHIT)
        return self._few(rows, self.config.train.max_train_windows)

    def rewarded_rows(self) -> NDArray[np.int64]:
        """Returns the policy windows that SofT-GRPO and the gates train on, ascending; those of `split.cross_fit` are among them.

        Raises:
            DataError: None is left.
        """
        rows = self.learning_rows
        if self.config.grpo.drop_flat:
            rows = self._told_apart(rows, self.training_reward(rows).responsive(self.config.seed).numpy(), FLAT)
        return self._few(rows, self.config.train.max_train_windows)

    def _told_apart(self, rows: NDArray[np.int64], kept: NDArray[np.bool_], why: LeftOut) -> NDArray[np.int64]:
        """Returns the rows to keep; says what is wrong with the others where hardly one is left."""
        if not kept.any():
            raise DataError(
                f"no policy window {why.kept}", why.rule, f"{why.remedy}, or {why.switch} false", code="DATA-025"
            )
        count = int(kept.sum())
        if count < len(rows) and count < max(FEW_WINDOWS, SMALL_SHARE * len(rows)):
            logger.warning(
                "%s has %d of %d policy windows to learn from: %s. %s give it more",
                why.stage,
                count,
                len(rows),
                why.others,
                why.remedy,
            )
        return rows[kept]

    def choosing_rows(self) -> NDArray[np.int64]:
        """Returns the validation windows that choose a language model, ascending, those in which nothing can be earned among them.

        Mixtures and gates are chosen on all of `validation_rows`; where they compete with a language model, it is on these.
        """
        return self._few(self.validation_rows, self.config.train.max_valid_windows)

    def asked_rows(self) -> AskedRows:
        """Returns those validation windows that a language model reads to be chosen."""
        rows = self.choosing_rows()
        reachable = self.contending(rows).reachable.numpy()
        # where every model earns 0, one window is enough to say so
        return AskedRows(rows[reachable] if reachable.any() else rows[:1], len(rows))

    def _few(self, rows: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
        return seeded_sample(rows, limit, self.config.seed)
