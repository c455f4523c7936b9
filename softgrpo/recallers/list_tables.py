"""Files of lists from elsewhere as tables: their schema, and the rows of some row groups. Legend: n rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.text import one_line
from softgrpo.errors import CandidateError

SCHEMA = {
    Columns.User: "text or whole numbers",
    Columns.Window: "whole numbers",
    Columns.Item: "text or whole numbers",
    Columns.Score: "numbers",
}
DOCUMENT = "docs/own-recaller.md has the schema; `softgrpo windows` exports the windows to score"
ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What a damaged file raises; the last for names of columns."""


@dataclass(frozen=True)
class ListFile:
    """An open file of lists. Texts are read as dictionaries, so that a name takes its room once.

    Attributes:
        path: The file.
        name: What the recaller is called.
        file: The same, open.
    """

    path: Path
    name: str
    file: pq.ParquetFile

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.file.metadata.num_rows)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(groups + 1,) the first row of each row group, and behind the last one how many rows there are."""
        meta = self.file.metadata
        return np.cumsum([0, *(meta.row_group(group).num_rows for group in range(meta.num_row_groups))])

    def read(self, groups: Sequence[int], columns: Sequence[str] = tuple(SCHEMA)) -> pa.Table:
        """Returns the rows of some row groups.

        Raises:
            CandidateError: The file is damaged.
        """
        try:
            table = self.file.read_row_groups(list(groups), columns=list(columns))
            table.validate(full=True)  # texts are UTF-8, and numbers of names are within their dictionaries
            return table.unify_dictionaries().combine_chunks()
        except ERRORS as error:
            raise unreadable(self.path, self.name, error) from error


def unreadable(path: Path, name: str, error: BaseException) -> CandidateError:
    """Returns the error of a file that is none, or a damaged one."""
    return CandidateError(
        f"{path} (recaller {name}) cannot be read: {one_line(str(error))}",
        "It must be a Parquet file, and a whole one",
        f"Write or copy it again. {DOCUMENT}",
        code="CANDIDATE-014",
    )


def open_file(path: Path, name: str, most: int) -> ListFile:
    """Looks at a file of lists.

    Args:
        path: The file.
        name: What the recaller is called.
        most: Rows that it may have.

    Raises:
        CandidateError: It is no Parquet file, of another schema, too long, or damaged.
    """
    if not path.is_file():
        raise CandidateError(
            f"{path} (recaller {name})", "There is no such file", "Correct recall.files", code="CANDIDATE-011"
        )
    try:
        columns = pq.read_schema(path)
        wrong = _wrong_columns(columns)
        if wrong:
            rule = f"It has the columns {', '.join(SCHEMA)}"
            raise CandidateError(f"{path} (recaller {name}): {'; '.join(wrong)}", rule, DOCUMENT, code="CANDIDATE-012")
        texts = [column for column in SCHEMA if _is_text(columns.field(column).type)]
        file = pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)
    except ERRORS as error:
        raise unreadable(path, name, error) from error
    if file.metadata.num_rows > most:
        raise CandidateError(
            f"{path} (recaller {name}) has {file.metadata.num_rows:,} rows",
            f"Each window of the split lists each item once at most, which makes {most:,} rows",
            DOCUMENT,
            code="CANDIDATE-013",
        )
    return ListFile(path, name, file)


def _wrong_columns(columns: pa.Schema) -> list[str]:
    """Returns what is wrong with each column that is needed."""
    problems = []
    for column, kind in SCHEMA.items():
        places = columns.get_all_field_indices(column)
        if len(places) > 1:
            problems.append(f"column '{column}' is there {len(places)} times, not once")
        elif not places or not _fits(columns.field(places[0]).type, kind):
            problems.append(
                f"column '{column}' is {columns.field(places[0]).type if places else 'missing'}, not {kind}"
            )
    return problems


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fits(kind: pa.DataType, expected: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):  # a column without any value has no type of its own
        return True
    whole = pa.types.is_integer(kind)
    if expected == "numbers":
        return bool(whole or pa.types.is_floating(kind))
    return bool(whole or (expected != "whole numbers" and _is_text(kind)))
