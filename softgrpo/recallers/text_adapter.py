"""Learns the adapter of the recaller `Text`: the next item of the training part against the other next items of a batch.

The language model's embeddings stay as they are. Two maps are learnt on top of them, one for queries and one for items, both from
zero, so that training starts at the recaller without an adapter. The loss is the softmax over a batch with half of the correction
for how often an item is drawn as a negative (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
recommendations", doi:10.1145/3298689.3346996).
Legend: n examples, q items of a query, B examples of a batch, d numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.common.records import Corpus, Windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.by_text import NO_ITEM, Adapter, TextRecaller
from softgrpo.reporting import ProgressBar, Reporter

BATCH = 1024
TEMPERATURE = 0.1
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
CORRECTION = 0.5
"""Share of the correction for frequent negatives: 0 makes popular items rare in lists, 1 frequent. Half finds most on the
validation windows of Amazon_Beauty."""
MOST_EXAMPLES = 200_000
"""Examples of an epoch; of more, each epoch draws its own."""
PATIENCE = 3
"""Epochs in a row that may be no better than the best before them."""

Evaluate = Callable[[Adapter], float]


@dataclass(frozen=True)
class Examples:
    """Next items in the training parts of all users, with the items of the query before each.

    Attributes:
        user: (n,) int32.
        latest: (n, q) int32 items of the query, the latest first, -1 behind the last.
        target: (n,) int32 the next item.
    """

    user: NDArray[np.int32]
    latest: NDArray[np.int32]
    target: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, model: TextRecaller, corpus: Corpus, windows: Windows) -> Examples:
        """Returns the examples in `corpus.sequence(u)[:windows.train_end[u]]` of every user; items without a text are left out."""
        width = model.history_items
        users, latest, targets = [], [np.empty((0, width), np.int32)], [np.empty(0, np.int32)]
        for user, end in enumerate(windows.train_end):
            items = corpus.sequence(user)[:end]
            items = items[model.has_text[items]]
            if len(items) > 1:
                padded = np.concatenate([np.full(width - 1, NO_ITEM, np.int32), items[:-1]])
                latest.append(np.lib.stride_tricks.sliding_window_view(padded, width)[:, ::-1])
                targets.append(items[1:])
                users.append(np.full(len(items) - 1, user, np.int32))
        return cls(np.concatenate([np.empty(0, np.int32), *users]), np.concatenate(latest), np.concatenate(targets))

    def pairs(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Returns users and items of all that training reads, (p,) each, every pair once."""
        read = np.column_stack([self.latest, self.target])
        users = np.broadcast_to(self.user[:, None], read.shape)[read != NO_ITEM]
        unique = np.unique(np.column_stack([users, read[read != NO_ITEM]]), axis=0)
        return unique[:, 0], unique[:, 1]


def batch_loss(queries: Tensor, items: Tensor, targets: Tensor, log_counts: Tensor) -> Tensor:
    """Returns the mean cross-entropy of each query's own item against the items of the other queries.

    Args:
        queries: (B, d) of unit length.
        items: (B, d) of unit length, the next item of each query.
        targets: (B,) numbers of these items; the same item elsewhere in the batch is no negative.
        log_counts: (B,) log of how often each of them is a next item: frequent items are drawn as negatives more often.
    """
    logits = queries @ items.T / TEMPERATURE - CORRECTION * log_counts
    others = ~torch.eye(len(targets), dtype=torch.bool)
    logits = logits.masked_fill((targets[:, None] == targets) & others, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(targets)))


class _Learner:
    """Two maps on the way, with what their training needs.

    Args:
        model: The recaller without an adapter.
        examples: What they learn from.
        seed: Of the order of the examples.
    """

    def __init__(self, model: TextRecaller, examples: Examples, seed: int) -> None:
        width = model.embeddings.shape[1]
        self._maps = [torch.zeros(width, width, requires_grad=True) for _ in range(2)]
        self._optimizer = torch.optim.AdamW(self._maps, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        counts = np.bincount(examples.target, minlength=len(model.embeddings))
        self._log_counts = np.log(counts.clip(1)).astype(np.float32)
        self._generator = np.random.default_rng(seed)
        self._model, self._examples = model, examples

    def adapter(self) -> Adapter:
        """Returns a copy of the maps."""
        return Adapter(*(each.detach().numpy().copy() for each in self._maps))

    def go_through(self, name: str) -> float:
        """Makes one pass over the examples, in a new order, and returns the mean loss.

        Raises:
            RecallerError: The loss is no number.
        """
        order = self._generator.permutation(len(self._examples))[:MOST_EXAMPLES]
        losses = []
        for first in ProgressBar(range(0, len(order), BATCH), desc=name, unit="batch", mininterval=0.5):
            loss = self._loss(order[first : first + BATCH])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(loss.item())
        if not np.isfinite(losses).all():
            raise RecallerError(
                "The training loss of the adapter of Text is no number",
                "Training must not diverge",
                "Switch it off: --text.adapter off",
                code="RECALLER-017",
            )
        return float(np.mean(losses))

    def _loss(self, rows: NDArray[np.int64]) -> Tensor:
        model, target = self._model, self._examples.target[rows]
        vectors = (model.means(self._examples.latest[rows]), model.embeddings[target])
        queries, items = (
            torch.nn.functional.normalize(each + each @ by, dim=1)
            for each, by in zip(map(torch.from_numpy, vectors), self._maps, strict=True)
        )
        return batch_loss(queries, items, torch.from_numpy(target), torch.from_numpy(self._log_counts[target]))


def fit_adapter(
    model: TextRecaller,
    examples: Examples,
    evaluate: Evaluate,
    *,
    epochs: int,
    at_least: float,
    seed: int,
    reporter: Reporter,
) -> tuple[Adapter | None, float]:
    """Learns an adapter; the epoch with the best value is kept.

    Args:
        model: The recaller without an adapter.
        examples: What it learns from, at least one.
        evaluate: Gives the value of an adapter, higher is better.
        epochs: Passes over the examples, at most.
        at_least: Value that an adapter must exceed.
        seed: Of the order of the examples.
        reporter: Gets `recall_loss` and `recall_valid_ndcg` per epoch.

    Returns:
        The adapter and its value; None and `at_least` where no epoch exceeds that.

    Raises:
        RecallerError: The loss is no number.
    """
    learner = _Learner(model, examples, seed)
    best: tuple[Adapter | None, float] = (None, at_least)
    waited = 0
    for epoch in range(1, epochs + 1):
        loss = learner.go_through(f"Text adapter, epoch {epoch}")
        adapter = learner.adapter()
        value = evaluate(adapter)
        reporter.metrics({"recall_loss": loss, "recall_valid_ndcg": value}, epoch)
        best, waited = ((adapter, value), 0) if value > best[1] else (best, waited + 1)
        if waited == PATIENCE:
            break
    return best
