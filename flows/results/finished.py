"""A finished run by its id: its configuration, and the files of its stages on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from flows.runtime.environment import prepare_to_read
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.presets import validate
from softgrpo.stages.contract import COST

if TYPE_CHECKING:
    from tasks.tracking.store import ArtifactStore

SERVED = ("split", "data", "embed", "recall-", "gates", "sft", "grpo", "test")
"""Nodes that answer requests; without the first two there is nothing to ask."""
TIMED = ("recall-", "test")
"""Beginnings of the names of the nodes that report the costs of serving a user."""


@dataclass(frozen=True)
class FinishedRun:
    """What is known about a run of a pipeline.

    Attributes:
        run_id: Its id in MLflow.
        name: Its name on pages.
        config: The configuration it ran with.
        folders: Verified files of the requested stages, as far as the run has them.
        link: Its page in MLflow.
        started: When it was started.
        commit: Of the checkout that ran it, None outside one.
        costs: See `flows.results.report_page.RunFacts`.
    """

    run_id: str
    name: str
    config: ExperimentConfig
    folders: dict[str, Path]
    link: str
    started: datetime
    commit: str | None
    costs: dict[str, float]


def costs_of_stages(store: ArtifactStore, stages: Mapping[str, str]) -> dict[str, float]:
    """Returns the times that stages have reported, `<node>/<what>`.

    Args:
        store: Where the runs are.
        stages: Node -> MLflow run.
    """
    from tasks.tracking.lookup import read_run

    return {
        f"{node}/{name}": value
        for node, run_id in stages.items()
        if node.startswith(TIMED)
        for name, value in read_run(store, run_id).data.metrics.items()
        if name.startswith(COST)
    }


def check_pipeline(run_id: str, tags: Mapping[str, str]) -> None:
    """Checks that a run is that of a pipeline.

    Args:
        run_id: The id that the user named.
        tags: The run's tags.

    Raises:
        ConfigError: It is not.
    """
    if tags.get("stage") != "pipeline":
        raise ConfigError(
            f"run '{run_id}'",
            "It must be the run of a pipeline",
            "Copy the id that `softgrpo run` printed at its end",
            code="CONFIG-030",
        )


def open_finished(run_id: str, output: Path, names: Sequence[str], needed: Sequence[str]) -> FinishedRun:
    """Finds a run of a pipeline, fetching files that are not here.

    Args:
        run_id: Id of the run, as `softgrpo run` prints it, or six or more characters from its beginning.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        names: Nodes whose files are fetched if the run has them; `recall-` stands for those of all recallers.
        needed: Those of them without which there is nothing to do.

    Raises:
        ConfigError: There is no such run, it is no run of a pipeline, or it has not reached a needed stage.
        StoreError: No run is stored there, MLflow does not answer, or files are gone or damaged.
    """
    prepare_to_read(output)
    from tasks.tracking.connection import store_errors
    from tasks.tracking.lookup import commit_of, open_store_of_run, read_run, stage_runs, started_at

    store = open_store_of_run(run_id, output)
    run = read_run(store, run_id)
    check_pipeline(run_id, run.data.tags)
    stages = stage_runs(store, run)
    missing = [name for name in needed if name not in stages]
    if missing:
        raise ConfigError(
            f"run '{run_id}'",
            f"It did not reach the stage {missing[0]}",
            "Name the run of a whole pipeline",
            code="CONFIG-031",
        )
    tracking = store.runs.tracking
    with tempfile.TemporaryDirectory() as folder, store_errors(tracking.uri):
        path = Path(tracking.client.download_artifacts(run.info.run_id, "config.yaml", folder))
        config = validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    wanted = [node for name in dict.fromkeys(names) for node in stages if node == name or _is_of(node, name)]
    references = {node: store.fetch(node, read_run(store, stages[node])) for node in wanted}
    folders = {name: store.local.payload(reference["key"]) for name, reference in references.items()}
    return FinishedRun(
        run.info.run_id,
        str(run.info.run_name),
        config,
        folders,
        tracking.run_link(run.info.run_id),
        started_at(run),
        commit_of(run),
        costs_of_stages(store, stages),
    )


def _is_of(node: str, name: str) -> bool:
    """Tells whether a name such as `recall-` stands for a node such as `recall-BPR`."""
    return name.endswith("-") and node.startswith(name)


def open_stored(run_id: str, output: Path | str) -> FinishedRun:
    """Opens a run with all that answers requests: data, recallers and methods; for `softgrpo.Router`.

    Args:
        run_id: See `open_finished`.
        output: See `open_finished`.

    Raises:
        SoftGRPOError: See `open_finished`.
    """
    return open_finished(run_id, Path(output), SERVED, SERVED[:2])
