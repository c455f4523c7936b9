"""Tables that come in parts, as one Parquet file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 2**18
"""Rows from which parts are written: fewer of them wait for the next ones."""


def write_frames(path: Path, frames: Iterable[pd.DataFrame]) -> None:
    """Writes tables with the same columns one behind the other; what is held is about `GROUP` rows, or the largest table.

    Args:
        path: The file.
        frames: At least one.
    """
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.Table] = []

        def write() -> pq.ParquetWriter:
            table = pa.concat_tables(waiting).combine_chunks()
            opened = writer or stack.enter_context(pq.ParquetWriter(path, table.schema))
            opened.write_table(table)
            waiting.clear()
            return opened

        for frame in frames:
            waiting.append(pa.Table.from_pandas(frame, preserve_index=False))
            if sum(table.num_rows for table in waiting) >= GROUP:
                writer = write()
        if waiting:
            write()
