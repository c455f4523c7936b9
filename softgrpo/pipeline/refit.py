"""The plan of a refit: the recallers of a finished run trained again on everything up to now.

    split -> snapshot -> refit-<recaller>     one for each recaller that is trained
    split -> snapshot -> embed-snapshot       where `Text` is in the pool

`split` and `embed` are those of the finished run. `Text` keeps what it learnt: it compares embeddings, and an adapter of them was
chosen on the run's validation windows, of which a refit has none. A recaller from a file has no model that could be trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softgrpo.common.artifacts import CURVES
from softgrpo.common.names import SNAPSHOT_NODE, TEXT
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, StoreError
from softgrpo.presets import validate
from softgrpo.recallers.kinds import COMPUTED
from softgrpo.recallers.plugins import plugin_names
from softgrpo.stages.catalogue import EMBED_SNAPSHOT, REFIT, REFIT_PLUGIN, SNAPSHOT
from softgrpo.stages.contract import Node

REFIT_OF = "refit_of"
"""Tag of the MLflow run of a refit: the run that was evaluated."""
EMBED_NODE, RECALLER_NODE = "embed-snapshot", "refit-"
_VALID_NDCG, _LOSS = "recall_valid_ndcg", "recall_loss"


def refit_plan(config: ExperimentConfig) -> tuple[Node, ...]:
    """Returns the nodes of a refit, in an order in which every node comes after its upstream nodes.

    Args:
        config: From `refit_config`.
    """
    plugins = plugin_names()
    recallers = [
        Node(f"{RECALLER_NODE}{name}", REFIT_PLUGIN if name in plugins else REFIT, name, (SNAPSHOT_NODE,))
        for name in trained_recallers(config)
    ]
    texts = [Node(EMBED_NODE, EMBED_SNAPSHOT, "", ("split", "embed", SNAPSHOT_NODE))]
    return (
        Node(SNAPSHOT_NODE, SNAPSHOT, "", ("split",)),
        *recallers,
        *(texts if TEXT in config.recall.recallers else []),
    )


def served_as(node: str) -> str:
    """Returns the node of a finished run whose place a node of its refit takes; of `snapshot` the name itself."""
    if node == EMBED_NODE:
        return "embed"
    return f"recall-{node.removeprefix(RECALLER_NODE)}" if node.startswith(RECALLER_NODE) else node


def trained_recallers(config: ExperimentConfig) -> tuple[str, ...]:
    """Returns the recallers of a pool that a refit trains, in pool order."""
    return tuple(name for name in config.recall.recallers if name != TEXT and name not in config.recall.files)


def refit_config(
    config: ExperimentConfig, folders: Mapping[str, Path], data_path: Path | None = None
) -> ExperimentConfig:
    """Returns the settings of a refit: those of the run, with the epochs that were chosen.

    A sample of the users (`data.max_users`) becomes all of them: another sample would be drawn from more users.

    Args:
        config: Of the finished run.
        folders: Of its stages `recall-<recaller>`.
        data_path: Where the data set lies now; None takes the run's.

    Raises:
        ConfigError: The run reads the recallers' user vectors, which other recallers have not; or nothing can be trained.
        StoreError: A stage does not tell which epoch was chosen.
    """
    if config.told_features.user_vector:
        raise ConfigError(
            "a run with features.user_vector = true",
            "Its methods read the vectors that its own recallers learnt of the users, and refitted ones learn others",
            "Train with --features.user_vector false",
            code="CONFIG-104",
        )
    if not trained_recallers(config) and TEXT not in config.recall.recallers:
        raise ConfigError(
            f"a run whose recallers are all from files: {', '.join(config.recall.recallers)}",
            "A refit trains recallers, and files have no model",
            "Give their lists of now: softgrpo score RUN --lists NAME=FILE",
            code="CONFIG-109",
        )
    values: dict[str, Any] = config.model_dump(mode="json")
    values["data"]["max_users"] = None
    if data_path is not None:
        values["data"] |= {"data_path": str(data_path), "source": None}
    for name in trained_recallers(config):
        if name not in plugin_names() and name not in COMPUTED:
            epochs = chosen_epoch(name, folders[f"recall-{name}"])
            values["recall"]["settings"][name] = {**config.recall.settings.get(name, {}), "epochs": epochs}
    return validate(values)


def chosen_epoch(name: str, folder: Path) -> int:
    """Returns the epoch whose weights a recaller of a run has, from its stored curves.

    RecBole keeps the last of the epochs that are equally good on the held-back items, and the very last one where nobody has an
    item to hold back.

    Args:
        name: The recaller.
        folder: Of its stage.

    Raises:
        StoreError: No curve is stored there.
    """
    path = folder / CURVES
    curves = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (valid := curves.get(_VALID_NDCG)) and valid["value"]:
        return int(max(zip(valid["value"], valid["step"], strict=True))[1])
    if (loss := curves.get(_LOSS)) and loss["step"]:
        return int(max(loss["step"]))
    raise StoreError(
        f"the stored stage of recaller {name} has no curve of its training",
        "A refit trains as many epochs as were chosen, which the curve tells",
        "Run the pipeline again, with --force recall: an earlier version stored none",
        code="STORE-045",
    )
