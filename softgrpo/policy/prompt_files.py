"""Prompts in files, written and read for some windows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.policy.prompts import PromptParts

PROMPT_SCHEMA = pa.schema(
    [
        ("head", pa.string()),
        ("items", pa.list_(pa.string())),
        ("tail", pa.string()),
        ("shorter", pa.list_(pa.string())),
    ]
)


NO_PROMPT = PromptParts("", (), "")
"""Stands where a window has none."""


def prompts_table(parts: Sequence[PromptParts]) -> pa.Table:
    """Returns prompts as files hold them, one row per window."""
    rows = {
        "head": [part.head for part in parts],
        "items": [list(part.items) for part in parts],
        "tail": [part.tail for part in parts],
        "shorter": [list(part.shorter) for part in parts],
    }
    return pa.table(rows, schema=PROMPT_SCHEMA)


def load_prompts(path: Path, rows: NDArray[np.int64]) -> list[PromptParts]:
    """Reads the prompts of some windows, in the order asked for."""
    found: dict[int, PromptParts] = {}
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            behind = first + file.metadata.row_group(group).num_rows
            own = np.unique(rows[(rows >= first) & (rows < behind)])
            if len(own):
                table = file.read_row_group(group).take(pa.array(own - first)).to_pydict()
                parts = zip(*(table[name] for name in PROMPT_SCHEMA.names), strict=True)
                for row, (head, items, tail, shorter) in zip(own.tolist(), parts, strict=True):
                    found[row] = PromptParts(head, tuple(items), tail, tuple(shorter))
            first = behind
    return [found[row] for row in rows.tolist()]


def first_prompt(path: Path) -> PromptParts:
    """Returns the first prompt of a file; `NO_PROMPT` where no window has one."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            tails = file.read_row_group(group, columns=["tail"])["tail"].to_pylist()
            row = next((row for row, tail in enumerate(tails) if tail), None)
            if row is not None:
                values = file.read_row_group(group).slice(row, 1).to_pylist()[0]
                return PromptParts(values["head"], tuple(values["items"]), values["tail"], tuple(values["shorter"]))
    return NO_PROMPT
