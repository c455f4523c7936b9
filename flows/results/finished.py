"""A finished run by its id: its configuration, and the files of its stages on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.flows.runtime.environment import prepare_to_read
from softgrpo.pipeline.refit import REFIT_OF, served_as
from softgrpo.presets import validate
from softgrpo.stages.contract import COST

if TYPE_CHECKING:
    from softgrpo.tasks.tracking.connection import Tracking
    from softgrpo.tasks.tracking.store import ArtifactStore

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
        config: The configuration it ran with; a refit has that of the evaluated run, and the place of its own data.
        folders: Verified files of the requested stages, as far as the run has them.
        link: Its page in MLflow.
        started: When it was started.
        commit: Of the checkout that ran it, None outside one.
        costs: See `softgrpo.flows.results.report_page.RunFacts`.
        refit_of: Id of the run that was evaluated, where this is a refit of it; "" elsewhere.
    """

    run_id: str
    name: str
    config: ExperimentConfig
    folders: dict[str, Path]
    link: str
    started: datetime
    commit: str | None
    costs: dict[str, float]
    refit_of: str = ""


def costs_of_stages(store: ArtifactStore, stages: Mapping[str, str]) -> dict[str, float]:
    """Returns the times that stages have reported, `<node>/<what>`.

    Args:
        store: Where the runs are.
        stages: Node -> MLflow run.
    """
    from softgrpo.tasks.tracking.lookup import read_run

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
    if REFIT_OF in tags:
        raise ConfigError(
            f"run '{run_id}' is a refit of run '{tags[REFIT_OF]}'",
            "A refit was not evaluated: the report and its numbers are those of the run that was",
            f"Name {tags[REFIT_OF]}; score, export and Router take a refit",
            code="CONFIG-105",
        )
    if tags.get("stage") != "pipeline":
        raise ConfigError(
            f"run '{run_id}'",
            "It must be the run of a pipeline",
            "Copy the id that `softgrpo run` printed at its end",
            code="CONFIG-030",
        )


def check_reached(run_id: str, stages: Container[str], names: Sequence[str]) -> None:
    """Checks that a run has at least one of some stages.

    Args:
        run_id: The id that the user named.
        stages: Nodes that the run has.
        names: The stages.

    Raises:
        ConfigError: It has none of them.
    """
    if not any(name in stages for name in names):
        raise ConfigError(
            f"run '{run_id}'",
            f"It did not reach the stage {' or '.join(names)}",
            "Name the run of a whole pipeline",
            code="CONFIG-031",
        )


def open_finished(
    run_id: str, output: Path, names: Sequence[str], needed: Sequence[str], *, refits: bool = False
) -> FinishedRun:
    """Finds a run of a pipeline, fetching files that are not here.

    Args:
        run_id: Id of the run, as `softgrpo run` prints it, or six or more characters from its beginning.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        names: Nodes whose files are fetched if the run has them; `recall-` stands for those of all recallers.
        needed: Those of them without which there is nothing to do.
        refits: Take a refit too: its recallers, and all else of the run that was evaluated.

    Raises:
        ConfigError: There is no such run, it is no run of a pipeline, or it has not reached a needed stage.
        StoreError: No run is stored there, MLflow does not answer, or files are gone or damaged.
    """
    prepare_to_read(output)
    from softgrpo.tasks.tracking.lookup import commit_of, open_store_of_run, read_run, started_at

    store = open_store_of_run(run_id, output)
    run = read_run(store, run_id)
    if not refits:
        check_pipeline(run_id, run.data.tags)
    stages = _stages_of(store, run.info.run_id)
    for name in needed:
        check_reached(run_id, stages, (name,))
    tracking = store.runs.tracking
    config, refit_of = _config_of(tracking, run.info.run_id), run.data.tags.get(REFIT_OF, "")
    if refit_of:  # its settings are those of the evaluated run, of data that may lie elsewhere now
        place = {"data_path": config.data.data_path, "source": config.data.source}
        config = _config_of(tracking, refit_of)
        config = config.model_copy(update={"data": config.data.model_copy(update=place)})
    wanted = [
        node for name in dict.fromkeys((*names, SNAPSHOT_NODE)) for node in stages if node == name or _is_of(node, name)
    ]
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
        refit_of,
    )


def _config_of(tracking: Tracking, run_id: str) -> ExperimentConfig:
    """Returns the settings that a run logged."""
    from softgrpo.tasks.tracking.connection import store_errors

    with tempfile.TemporaryDirectory() as folder, store_errors(tracking.uri):
        path = Path(tracking.client.download_artifacts(run_id, "config.yaml", folder))
        return validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def _stages_of(store: ArtifactStore, run_id: str) -> dict[str, str]:
    """Returns node -> MLflow run of a pipeline's run; of a refit those of the evaluated run, with its own in their places.

    Raises:
        ConfigError: It is another kind of run, or a refit that did not finish.
    """
    from softgrpo.tasks.tracking.lookup import read_run, stage_runs

    run = read_run(store, run_id)
    if (evaluated := run.data.tags.get(REFIT_OF)) is None:
        check_pipeline(run_id, run.data.tags)
        return stage_runs(store, run)
    if run.info.status != "FINISHED":
        raise ConfigError(
            f"run '{run_id}', a refit that is {run.info.status}",
            "Only a refit that finished has all recallers of one data set",
            f"Run: softgrpo refit {evaluated}; it goes on from what is finished",
            code="CONFIG-106",
        )
    refitted = {served_as(node): stage for node, stage in stage_runs(store, run).items()}
    return stage_runs(store, read_run(store, evaluated)) | refitted


def _is_of(node: str, name: str) -> bool:
    """Tells whether a name such as `recall-` stands for a node such as `recall-BPR`."""
    return name.endswith("-") and node.startswith(name)


def open_stored(run_id: str, output: Path | str) -> FinishedRun:
    """Opens a run with all that answers requests: data, recallers and methods; for `softgrpo.Router`.

    Args:
        run_id: See `open_finished`; a refit answers with its own recallers, the evaluated run with those that it trained.
        output: See `open_finished`.

    Raises:
        SoftGRPOError: See `open_finished`.
    """
    return open_finished(run_id, Path(output), SERVED, SERVED[:2], refits=True)
