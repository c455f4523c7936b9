"""What was recommended, as tables, as records and in files; it needs no torch, so that a wrong name is refused at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.common.files import written_whole
from softgrpo.common.text import visible_json
from softgrpo.errors import ConfigError

STATIC = "static"
"""Key of the row of the best static mixture."""


@dataclass(frozen=True)
class Recommended:
    """What a run recommends.

    Attributes:
        users: One row per user asked for, in that order: `user`; `weights`, key of the method that gave them; `reason`, empty
            unless the static mixture stands in for that method; `weight_<recaller>`, sum 1, NaN where a ranker ordered the items.
        items: One row per user and rank: `user`, `rank` from 1, `item`, `title`, `score`, and `from_<recaller>`, which sum to the
            score. Score and rrf: weight times what one unit of weight gives. Quota: 1 from the recaller whose turn it was. Of a
            ranker the score is its own, and the parts are NaN.
        recallers: The M names.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    recallers: tuple[str, ...]

    @property
    def fallbacks(self) -> dict[str, list[str]]:
        """Users that got the static mixture, by reason."""
        static = self.users[self.users["reason"] != ""]
        return {str(reason): group[Columns.User].tolist() for reason, group in static.groupby("reason", sort=False)}


def as_records(recommended: Recommended) -> Iterator[dict[str, Any]]:
    """Gives one JSON-able record per user: user, source (key of the method), reason, weights, and items with each recaller's part.

    Weights and parts are null where a ranker ordered the items.
    """
    names = recommended.recallers
    by_user = dict(tuple(recommended.items.groupby(Columns.User, sort=False)))
    for row in recommended.users.to_dict("records"):
        listed = by_user.get(row[Columns.User], recommended.items.iloc[:0]).to_dict("records")
        yield {
            Columns.User: row[Columns.User],
            "source": row["weights"],
            "reason": row["reason"],
            "weights": _by_recaller(row, "weight", names),
            "items": [
                {key: item[key] for key in ("rank", Columns.Item, Columns.Title, Columns.Score)}
                | {"from": _by_recaller(item, "from", names)}
                for item in listed
            ],
        }


def _by_recaller(row: Mapping[Any, Any], column: str, names: Sequence[str]) -> dict[str, Any] | None:
    """Returns the values `<column>_<recaller>` of a row by recaller; None where a ranker weighed none."""
    values = {name: row[f"{column}_{name}"] for name in names}
    return None if any(math.isnan(value) for value in values.values()) else values


def write_recommended(path: Path, recommended: Recommended) -> None:
    """Writes a `.parquet` file, one row per user and rank with source, reason and weights, or a `.json` file, one record per user.

    Raises:
        ConfigError: The name ends otherwise.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        if path.suffix == ".json":
            text = json.dumps(list(as_records(recommended)), indent=1, ensure_ascii=False)
            aside.write_text(f"{visible_json(text)}\n", encoding="utf-8")
            return
        merged = recommended.users.merge(recommended.items, on=Columns.User, how="left", sort=False)
        merged.to_parquet(aside, index=False)


def check_format(path: Path) -> Path:
    """Returns a path whose name ends with `.parquet` or `.json`.

    Raises:
        ConfigError: It does not.
    """
    if path.suffix not in (".parquet", ".json"):
        raise ConfigError(
            f"'{path}'",
            "Recommendations are written as .parquet or .json",
            "Give the file such a name",
            code="CONFIG-070",
        )
    return path
