"""Data as users of TRL hold it, to rows of prompts: a `datasets.Dataset`, a list of dicts, or a dict of columns.

Legend: N rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from datasets import Dataset as ArrowDataset
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from softgrpo.algorithm.batching import PromptRows, Row
from softgrpo.errors import TrainingError

PROMPT = "prompt"
"""Column of the prompts: texts, or conversations (lists of messages with `role` and `content`)."""
PromptData: TypeAlias = Dataset[Row] | ArrowDataset | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]
"""What `as_rows` takes."""


def as_rows(data: PromptData, tokenizer: PreTrainedTokenizerBase, longest: int | None = None) -> Dataset[Row]:
    """Returns rows with `input_ids` and `index`; a torch dataset passes as it is.

    Args:
        data: Columns or rows with `prompt`, or with `input_ids`; all other columns are kept.
        tokenizer: Of the language model. Conversations go through its chat template.
        longest: Tokens that the model reads; None sets no bound.

    Raises:
        TrainingError: There is no row, neither `prompt` nor `input_ids`, columns differ in length, a prompt is neither a text nor
            a conversation, or one has more than `longest` tokens.
    """
    if isinstance(data, ArrowDataset):
        columns: dict[str, Any] = dict(data[:])
    elif isinstance(data, Mapping):
        columns = dict(data)
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        columns = _columns(data)
    elif isinstance(data, Dataset):
        return data
    else:
        raise TrainingError(
            f"data of type {type(data).__name__}",
            "rows are a datasets.Dataset, a list of dicts, a dict of columns, or PromptRows; their number is known",
            "Pass one of these",
            code="TRAINING-023",
        )
    _check_lengths(columns)
    ids = columns.pop("input_ids") if "input_ids" in columns else _token_ids(columns[PROMPT], tokenizer)
    columns.pop("index", None)  # a row's number is its place
    rows = PromptRows(ids, columns)
    _check_longest(rows, longest)
    return rows


def prompt_texts(batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Returns the prompts of a batch as texts: the column `prompt` where it holds texts, what the model reads otherwise."""
    prompts = batch.get(PROMPT)
    if isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts):
        return tuple(prompts)
    return tuple(tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns dicts of one row each as columns; a value that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _check_lengths(columns: Mapping[str, Any]) -> None:
    lengths = {name: len(values) for name, values in columns.items()}
    if (
        not {PROMPT, "input_ids"} & set(columns)
        or not max(lengths.values(), default=0)
        or len(set(lengths.values())) > 1
    ):
        raise TrainingError(
            f"columns {', '.join(f'{name} ({length})' for name, length in lengths.items()) or 'none'}",
            f"rows have a column '{PROMPT}' or 'input_ids', at least one row, and as many values in every column",
            "Rename or complete the columns",
            code="TRAINING-024",
        )


def _token_ids(prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if all(isinstance(prompt, str) for prompt in prompts):
        return list(tokenizer(list(prompts))["input_ids"])
    if all(isinstance(prompt, list) for prompt in prompts):
        texts = tokenizer.apply_chat_template(list(prompts), tokenize=False, add_generation_prompt=True)
        return list(tokenizer(texts, add_special_tokens=False)["input_ids"])
    strange = next(prompt for prompt in prompts if not isinstance(prompt, str))
    raise TrainingError(
        f"a prompt of type {type(strange).__name__}",
        "all prompts are texts, or all are lists of messages",
        f"Correct the column '{PROMPT}'",
        code="TRAINING-025",
    )


def _check_longest(rows: PromptRows, longest: int | None) -> None:
    lengths = [len(ids) for ids in rows.input_ids]
    if longest is not None and max(lengths) > longest:
        row = lengths.index(max(lengths))
        raise TrainingError(
            f"a prompt of {lengths[row]} tokens in row {row}",
            f"the model reads at most {longest} tokens",
            "Shorten the prompts",
            code="TRAINING-026",
        )
