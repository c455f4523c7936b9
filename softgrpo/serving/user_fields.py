"""What is known of users now, from a file: the fields that a run's prompts tell, such as age or occupation.

Legend: B users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.config import DataConfig
from softgrpo.data.streams import Shard, Stream
from softgrpo.errors import DataError

USER = "user"


def fields_of(users: pd.DataFrame) -> list[str]:
    """Returns the names of the fields of a run's users, see `Corpus.users`."""
    return [str(name) for name in users if name != Columns.Token]


def open_user_fields(path: Path, config: DataConfig, fields: Sequence[str]) -> Stream:
    """Looks at a file of users: `user` or the name in the run's data set, and some of the run's fields by their names.

    Args:
        path: A .csv, .tsv, .parquet or atomic file.
        config: Of the run.
        fields: The run's.

    Raises:
        DataError: See `Stream.open`; or the file has none of the fields.
    """
    stream = Stream.open(path, {USER: (USER, config.user_field)} | {name: (name,) for name in fields}, (USER,))
    if not set(stream.columns) - {USER}:
        raise DataError(
            f"'{path}' with the columns {', '.join((*stream.columns.values(), *stream.ignored))}",
            f"It tells a field of the users that the run knows: {', '.join(fields) or 'the run knows none'}",
            "Rename a column, or leave the file out",
            code="DATA-041",
        )
    return stream


def read_user_fields(stream: Stream, shard: Shard, users: Sequence[str]) -> pd.DataFrame:
    """Reads the fields of some users.

    Args:
        stream: From `open_user_fields`.
        shard: That the users belong to.
        users: B names.

    Returns:
        B rows with a column of text for each field of the file, "" where it does not tell; the first row of a user counts.

    Raises:
        DataError: The file is damaged, or a row lacks its user.
    """
    wanted, names = pd.Index(list(users), dtype=object), [name for name in stream.columns if name != USER]
    rows = [pd.DataFrame(columns=[USER, *names], dtype=object)]
    rows += [table[table[USER].isin(wanted)] for _, table in stream.pieces(shard, USER)]
    found = pd.concat(rows).drop_duplicates(USER).set_index(USER)[names].reindex(wanted)
    return found.map(as_text).reset_index(drop=True)


def as_text(value: object) -> str:
    """Returns a field as a data set's file writes it: "" where it is missing, a whole number without decimals."""
    if isinstance(value, float):
        return "" if value != value else f"{value:g}"
    return "" if value is None else str(value)
