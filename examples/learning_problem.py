"""A learning problem with a known optimum: contexts, each with its own hidden mixture of three recallers.

The targets of a window are the items that a real merge ranks first under the hidden mixture of its context. So these weights reach
an NDCG of 1 and nothing can be better; a single recaller, or the same weights in every context, cannot reach it. The prompt names
the context, and nothing else tells the contexts apart: the lists of window w are the same in all of them.
Legend: C contexts, W windows per context, M recallers, D items per list.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    PreTrainedTokenizerFast,
    PrinterCallback,
)

from softgrpo.algorithm.batching import PromptRows
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import FusionConfig
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.rewards import RankingReward

MIXTURE = (0.5, 0.4, 0.1)
"""The hidden mixtures are its permutations: six contexts."""
WINDOWS, ITEMS, TARGETS = 8, 30, 5
FUSION = FusionConfig(method="score", normalisation="minmax", k=10)
EVERY = 5
"""Optimiser steps between two points of a curve."""
WORDS = ["[PAD]", "[UNK]", *(f"context{number}" for number in range(6))]


def judged_lists(mixtures: Tensor, seed: int = 0) -> JudgedLists:
    """Returns C * W windows, context by context: random scores of every item by every recaller, and the targets.

    Args:
        mixtures: (C, M).
        seed: Of the scores.
    """
    scores = torch.rand(WINDOWS, mixtures.shape[1], ITEMS, generator=torch.Generator().manual_seed(seed))
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    hidden = torch.einsum("cm,wmd->cwd", mixtures, (scores - low) / (high - low))  # what the merge computes
    targets = hidden.topk(TARGETS, -1).indices.flatten(0, 1)
    ordered, items = scores.repeat(len(mixtures), 1, 1).sort(-1, descending=True)
    return JudgedLists.build(items, ordered, targets, FUSION)


def simplex(steps: int, classes: int) -> Tensor:
    """Returns all weights in multiples of `1 / steps`, (N, M)."""
    cuts = itertools.combinations(range(steps + classes - 1), classes - 1)
    rows = [[b - a - 1 for a, b in itertools.pairwise((-1, *cut, steps + classes - 1))] for cut in cuts]
    return torch.tensor(rows) / steps


@dataclass(frozen=True)
class Problem:
    """The windows, and the best that can be had on them.

    Attributes:
        mixtures: (C, M) hidden mixtures.
        judged: The C * W windows.
        optimum: Mean NDCG of the best weights of a grid per context.
        static: That of the best weights of the same grid for all contexts together.
        single: That of the best single recaller per context.
    """

    mixtures: Tensor
    judged: JudgedLists
    optimum: float
    static: float
    single: float

    @classmethod
    def make(cls, mixture: tuple[float, float, float] = MIXTURE, seed: int = 0, steps: int = 40) -> Problem:
        """Makes the problem and searches grids of `1 / steps`."""
        mixtures = torch.tensor(sorted(set(itertools.permutations(mixture))))
        judged = judged_lists(mixtures, seed)

        def by_context(weights: Tensor) -> Tensor:
            return judged.ndcg(weights).view(len(mixtures), WINDOWS, -1).mean(1)  # (C, N)

        grid = by_context(simplex(steps, len(mixture)))
        single = by_context(torch.eye(len(mixture)))
        best = grid.amax(1).mean(), grid.mean(0).amax(), single.amax(1).mean()
        return cls(mixtures, judged, *(value.item() for value in best))

    def share(self, weights: Tensor) -> float:
        """Returns the mean NDCG of one weight vector per window, (C * W, M), as a share of the optimum."""
        return self.judged.ndcg(weights[:, None]).mean().item() / self.optimum


def tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer that knows the names of the contexts."""
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


def small_model(seed: int) -> BertForSequenceClassification:
    """Returns a randomly initialised BERT of one layer and hidden size 16."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        num_labels=len(MIXTURE),
        pad_token_id=0,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config)


@dataclass(frozen=True)
class Learned:
    """What one training reached, in shares of the optimum.

    Attributes:
        start: Of softmax(z) before training.
        end: By reading, see `READINGS`.
        curve: (optimiser step, mean reward of the samples since the last, share of softmax(z)).
        logged: What the trainer logged, in order.
    """

    start: float
    end: dict[str, float]
    curve: list[tuple[float, float, float]]
    logged: list[dict[str, float]]


READINGS = ("softmax(z)", "softmax(z / tau)", "argmax z")
"""How logits become weights: mixtures, or the recaller with the largest logit alone."""
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 24,  # two optimiser steps per epoch
    "num_train_epochs": 40,
    "eval_strategy": "steps",
    "eval_steps": EVERY,
    "eval_on_start": True,
    "logging_steps": EVERY,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "disable_tqdm": True,
}
"""Beside them, the defaults of `SoftGRPOConfig` hold: G = 4, tau 1, top_p 0.9, noise, beta 0.01."""


def learn(problem: Problem, seed: int = 0, **changes: Any) -> Learned:
    """Trains a small model with `SoftGRPOTrainer`; `changes` are the arguments that differ from `ARGUMENTS`."""
    judged = problem.judged
    rows = PromptRows([[WORDS.index(f"context{row // WINDOWS}")] for row in range(len(judged))], {})

    def shares(prediction: EvalPrediction) -> dict[str, float]:
        logits = torch.as_tensor(prediction.predictions)  # in the order of the rows
        single = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        weights = (logits.softmax(-1), (logits / arguments.tau_gumbel).softmax(-1), single)
        return {name: problem.share(each) for name, each in zip(READINGS, weights, strict=True)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = SoftGRPOConfig(folder, seed=seed, **{**ARGUMENTS, **changes})
        trainer = SoftGRPOTrainer(
            small_model(seed),
            RankingReward(judged.aligned, judged.targets, FUSION),
            arguments,
            rows,
            tokenizer(),
            eval_dataset=rows,
            compute_metrics=shares,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    history = trainer.state.log_history
    sampled = {entry["step"]: entry["reward"] for entry in history if "loss" in entry}
    read = {entry["step"]: entry for entry in history if f"eval_{READINGS[0]}" in entry}
    shared = {step: entry[f"eval_{READINGS[0]}"] for step, entry in read.items()}
    end = {name: read[max(read)][f"eval_{name}"] for name in READINGS}
    return Learned(shared[0], end, [(step, sampled[step], shared[step]) for step in sampled], history)
