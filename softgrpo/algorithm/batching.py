"""Rows and batches of prompts: padding, batches of prompts of similar length, logits of all rows.

Nothing here knows recommender systems. Legend: N rows, B prompts, L tokens, M classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from softgrpo.algorithm.soft_grpo import check_finite
from softgrpo.errors import TrainingError
from softgrpo.reporting import ProgressBar

logger = logging.getLogger(__name__)

CHUNK_GROUPS = 50  # groups that are sorted by length together; that of transformers' LengthGroupedSampler
Row = dict[str, Any]
MODEL_INPUTS = ("input_ids", "attention_mask")
FURTHER_INPUTS = ("numbers", "log_prior")
"""Columns that the model's forward pass takes beside the tokens, where the rows have them."""


class PromptRows(Dataset[Row]):
    """Rows of a data set, each with its own number under `index`.

    Args:
        input_ids: Token ids per prompt.
        columns: Further columns, one value per prompt each; they reach the loss or the reward in the batch. The model itself
            gets the columns `numbers` (N, F) and `log_prior` (N, M): its forward pass must take those that there are.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
        self.input_ids = input_ids
        self.columns = columns

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, row: int) -> Row:
        return {
            "input_ids": self.input_ids[row],
            "index": row,
            **{name: values[row] for name, values in self.columns.items()},
        }


class PromptCollator:
    """Pads token ids on the tokenizer's side and stacks all other columns of numbers.

    Args:
        tokenizer: Of the language model.

    Raises:
        TrainingError: The tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.pad_token is None:
            raise TrainingError(
                "a tokenizer without a padding token",
                "prompts of a batch are padded to one length",
                "Set tokenizer.pad_token, e.g. to tokenizer.eos_token, and its id in model.config.pad_token_id",
                code="TRAINING-002",
            )
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Returns input_ids and attention_mask (B, L), and every other column: (B, ...), or a list where it holds no numbers.

        Raises:
            TrainingError: A row has no `input_ids` or no `index`.
        """
        for name in ("input_ids", "index"):
            if name not in rows[0]:
                raise TrainingError(
                    f"rows with {', '.join(rows[0])}",
                    f"each row needs '{name}'",
                    "Use softgrpo.algorithm.batching.PromptRows, or add the column",
                    code="TRAINING-003",
                )
        padded = self._tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        batch: dict[str, Any] = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        for name in rows[0]:
            if name != "input_ids":
                batch[name] = _together([row[name] for row in rows])
        return batch


def _together(values: list[Any]) -> Tensor | list[Any]:
    """Returns values as one tensor where they are numbers of one shape, and as they are otherwise."""
    if any(isinstance(value, str | Mapping) or value is None for value in values):
        return values
    try:
        stacked = np.stack([np.asarray(value) for value in values])
    except ValueError:  # of different shapes, or of rows of different lengths
        return values
    return torch.as_tensor(stacked) if stacked.dtype.kind in "biuf" else values


def token_counts(rows: Dataset[Row]) -> NDArray[np.int64]:
    """Returns the number of tokens of every prompt, (N,)."""
    assert isinstance(rows, Sized)
    return np.array([len(rows[row]["input_ids"]) for row in range(len(rows))], dtype=np.int64)


def padding_share(lengths: NDArray[np.int64], batch_size: int) -> float:
    """Returns the share of padding among all tokens computed, if rows are batched as they stand.

    Args:
        lengths: (N,) tokens per prompt in the order of the batches, N at least 1.
        batch_size: Prompts per forward pass.
    """
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return 1.0 - float(lengths.sum()) / sum(int(batch.max()) * len(batch) for batch in batches)


class FixedOrder(Sampler[int]):
    """Gives rows in a given order.

    Args:
        order: Row numbers.
    """

    def __init__(self, order: NDArray[np.int64]) -> None:
        self._order = order

    @classmethod
    def longest_first(cls, lengths: NDArray[np.int64]) -> FixedOrder:
        """Returns the order by falling length, in which memory runs out at once or never."""
        return cls(np.argsort(-lengths, kind="stable"))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order.tolist())


class GroupSampler(Sampler[int]):
    """Draws rows without replacement in groups, and gives every group `repeats` times before the next.

    A group is what one optimiser step sees. With `lengths`, shuffled rows are cut into chunks of many groups, sorted by
    length within each, and the groups are shuffled again (as in transformers' LengthGroupedSampler). The last rows, too
    few for a group, are filled up with those before them. The order depends on (seed, epoch) only, and what a group holds
    does not depend on how it is cut into micro batches or spread over processes.

    Args:
        rows: Number of rows.
        group: Rows per group: those of one optimiser step.
        repeats: Optimiser steps per group.
        seed: Of the order.
        lengths: (N,) tokens per prompt; None puts rows together at random.
    """

    def __init__(
        self, rows: int, group: int, repeats: int, seed: int, lengths: NDArray[np.int64] | None = None
    ) -> None:  # fmt: skip
        self._rows, self._group, self._repeats, self._seed, self._epoch = rows, group, repeats, seed, 0
        self._lengths = lengths

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._rows // self._group) * self._group * self._repeats

    def _by_length(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the order, sorted by length within chunks; at least four chunks where that leaves each a group."""
        assert self._lengths is not None
        groups = min(CHUNK_GROUPS, max(1, self._rows // (4 * self._group)))
        edges = range(0, self._rows, groups * self._group)
        chunks = [order[edge : edge + groups * self._group] for edge in edges]
        return np.concatenate([chunk[np.argsort(self._lengths[chunk], kind="stable")] for chunk in chunks])

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(self._rows)
        if self._lengths is not None:
            order = self._by_length(order)
        rest = self._rows % self._group
        if rest:
            before = np.roll(order[::-1], -rest)  # backwards from the last full group
            order = np.concatenate([order, np.resize(before, self._group - rest)])
        groups = order.reshape(-1, self._group)
        if self._lengths is not None:
            groups = generator.permutation(groups)
        return iter(np.repeat(groups[:, None], self._repeats, axis=1).ravel().tolist())


def policy_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Returns the logits of one batch in float32, (B, M).

    Args:
        model: Token ids (B, L), and `numbers` (B, F) and `log_prior` (B, M) where the batch has them, to logits (B, M).
        batch: With input_ids and attention_mask.

    Raises:
        TrainingError: A logit is NaN or infinite.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    inputs |= {name: batch[name] for name in FURTHER_INPUTS if name in batch}
    logits: Tensor = model(**inputs).logits
    return check_finite("logits", logits)


def predict_logits(
    model: nn.Module, rows: Dataset[Row], collator: PromptCollator, batch_size: int, bf16: bool, label: str
) -> Tensor:  # fmt: skip
    """Returns the logits of all rows in their order, (N, M) float32 on the CPU, with dropout off.

    Prompts of similar length are computed together; the share of padding is logged.

    Args:
        model: The policy's model; where it is, there it computes.
        rows: With `input_ids`.
        collator: Makes batches.
        batch_size: Prompts per forward pass.
        bf16: Compute in bfloat16.
        label: Text before the progress bar.

    Raises:
        TrainingError: A logit is NaN or infinite.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    lengths = token_counts(rows)
    order = FixedOrder.longest_first(lengths)
    loader: DataLoader[Row] = DataLoader(rows, batch_size=batch_size, sampler=order, collate_fn=collator)
    logits = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for batch in ProgressBar(loader, desc=label, unit="batch", mininterval=1.0):
            read = {name: batch[name].to(device) for name in (*MODEL_INPUTS, *FURTHER_INPUTS) if name in batch}
            logits.append(policy_logits(model, read).cpu())
    model.train(training)
    taken = list(order)
    logger.info("%s: padding_share = %.3f", label, padding_share(lengths[taken], batch_size))
    in_batch_order = torch.cat(logits)
    result = torch.empty(in_batch_order.shape)
    result[taken] = in_batch_order
    return result
