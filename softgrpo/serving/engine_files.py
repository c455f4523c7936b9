"""Weights of a run's users for search engines, as files: one Parquet table, and one file of JSON lines for each engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.common.files import written_whole
from softgrpo.common.text import visible_json
from softgrpo.config import FusionConfig
from softgrpo.errors import ConfigError, nearest
from softgrpo.serving.search_engines import ENGINES, Engine, filled, placeholders, request_body

TABLE = "weights.parquet"
_FORM = '{"elasticsearch": {"BPR": {...}, ...}, ...}'
_CORRECT = "Correct the file, docs/export.md shows one"


def read_queries(path: Path, engines: Sequence[Engine], recallers: Sequence[str]) -> dict[Engine, dict[str, Any]]:
    """Reads the query of each recaller from a JSON file: engine -> recaller -> query.

    Args:
        path: The file.
        engines: Engines that queries are needed for.
        recallers: All of the run.

    Raises:
        ConfigError: There is no such file, it is no such JSON, or it lacks an engine or a recaller.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--queries {path}: {error}", f"It is a JSON file of the form {_FORM}", _CORRECT, code="CONFIG-097"
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(stored.get(engine), dict) for engine in engines):
        raise ConfigError(
            f"--queries {path}", f"It names the queries of {', '.join(engines)}: {_FORM}", _CORRECT, code="CONFIG-098"
        )
    for engine in engines:
        for name in (*recallers, *stored[engine]):
            if name not in recallers or name not in stored[engine]:
                raise ConfigError(
                    f"--queries {path}: {engine} {'without' if name in recallers else 'with'} '{name}'",
                    f"Each recaller has one query: {', '.join(recallers)}",
                    _CORRECT,
                    code="CONFIG-099",
                )
            if not isinstance(stored[engine][name], dict):
                raise ConfigError(
                    f"--queries {path}: the query of '{name}' for {engine} is {json.dumps(stored[engine][name])[:60]}",
                    "A query is an object, as the engine takes it",
                    _CORRECT,
                    code="CONFIG-114",
                )
    return {engine: stored[engine] for engine in engines}


def check_engines(names: Sequence[str]) -> tuple[Engine, ...]:
    """Returns the engines of these names, each once.

    Raises:
        ConfigError: There is no such engine.
    """
    for name in names:
        if name not in ENGINES:
            raise ConfigError(f"engine '{name}'", "there is no such engine", nearest(name, ENGINES), code="CONFIG-100")
    return tuple(engine for engine in ENGINES if engine in names)


def write_engine_files(
    folder: Path,
    users: pd.DataFrame,
    engines: Sequence[Engine],
    queries: Mapping[Engine, Mapping[str, Any]],
    fusion: FusionConfig,
    depth: int,
    k: int,
) -> list[Path]:
    """Writes the weights of users.

    Args:
        folder: Where to; it is made.
        users: `user`, `weights`, `reason` and `weight_<recaller>`, see `Recommended.users`.
        engines: Which engines.
        queries: Engine -> recaller -> query; an engine that is missing gets placeholders.
        fusion: The run's merge.
        depth: Items that each query retrieves.
        k: Items wanted.

    Returns:
        The files.

    Raises:
        ConfigError: An engine takes fewer queries than there are recallers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recallers = [name.removeprefix("weight_") for name in users.columns if name.startswith("weight_")]
    with written_whole(folder / TABLE) as aside:
        users.to_parquet(aside, index=False)
    rows = users.to_dict("records")
    for engine in engines:
        asked = queries.get(engine, placeholders(recallers))
        with written_whole(folder / f"{engine}.jsonl") as aside, aside.open("w", encoding="utf-8") as file:
            for row in rows:
                user = str(row[Columns.User])
                weights = {name: float(row[f"weight_{name}"]) for name in recallers}
                own = {name: filled(asked[name], user) for name in recallers}
                line = {"user": user, "body": request_body(engine, weights, own, fusion, depth, k)}
                file.write(visible_json(json.dumps(line, ensure_ascii=False)) + "\n")
    return [folder / TABLE, *(folder / f"{engine}.jsonl" for engine in engines)]
