"""MLflow runs that hold several pipelines: the pools of a comparison, the trials of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from softgrpo.stages.contract import Watch, unwatched
from softgrpo.tasks.tracking.connection import store_errors
from softgrpo.tasks.tracking.descriptions import NOTE, short
from softgrpo.tasks.tracking.runs import Runs

GROUP, NAME, MEMBER = "group", "group_name", "member"


@dataclass(frozen=True)
class Member:
    """Makes a pipeline's run a member of a group.

    Attributes:
        group: Id of the group's run.
        name: Name of the pipeline's run, unique in the group.
        watch: Puts something between a stage and its reporter.
    """

    group: str
    name: str
    watch: Watch = unwatched


def _search(runs: Runs, query: str) -> list[Run]:
    matches: list[Run] = []
    token = None
    with store_errors(runs.tracking.uri):
        while True:
            page = runs.tracking.client.search_runs([runs.tracking.experiment_id], query, page_token=token)
            matches += page
            token = page.token
            if not token:
                return matches


def _inside(runs: Runs, run_id: str) -> list[Run]:
    return _search(runs, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")


def members(runs: Runs, group: str) -> dict[str, str]:
    """Returns member name -> run id; of members with equal names the one that was started last."""
    inside = sorted(_inside(runs, group), key=lambda run: int(run.info.start_time))
    return {str(run.data.tags[MEMBER]): str(run.info.run_id) for run in inside if MEMBER in run.data.tags}


def _end_lost(runs: Runs, run_id: str) -> None:
    """Marks the runs inside a run that say they are running as killed."""
    for run in _inside(runs, run_id):
        if run.info.status == "RUNNING":
            _end_lost(runs, run.info.run_id)
            with store_errors(runs.tracking.uri):
                runs.tracking.client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def group_run(runs: Runs, kind: str, name: str, settings: Mapping[str, Any], *, resume: bool = False) -> Iterator[str]:
    """Gives the id of a group's run.

    Args:
        runs: Access to the runs.
        kind: What holds the members together, e.g. `tune`.
        name: Name of the run.
        settings: Its parameters, nested.
        resume: Go on with the run of that kind and name, if there is one; no other process may be working on it. Runs inside
            it that are still at RUNNING were lost, by `kill -9` or with the machine, and are marked as killed.
    """
    query = f"tags.{GROUP} = '{kind}' and tags.{NAME} = '{name}'"
    if resume and (earlier := _search(runs, query)):
        run_id = str(earlier[0].info.run_id)
        _end_lost(runs, run_id)
        with runs.continued(run_id):
            yield run_id
        return
    with runs.recorded(name, {GROUP: kind, NAME: name}) as run_id:
        runs.params(run_id, settings)
        yield run_id


def publish_table(runs: Runs, run_id: str, table: pd.DataFrame, markdown: str, name: str) -> None:
    """Adds a table to a run, as `<name>.parquet` and `<name>.md`.

    Args:
        runs: Access to the runs.
        run_id: The run.
        table: The table.
        markdown: The same as a page, for readers.
        name: Name of the files, without ending.
    """
    with TemporaryDirectory() as folder, store_errors(runs.tracking.uri):
        path = Path(folder) / f"{name}.parquet"
        table.to_parquet(path)
        runs.tracking.client.log_artifact(run_id, str(path))
        runs.tracking.client.log_text(run_id, markdown, f"{name}.md")


def describe(runs: Runs, run_id: str, markdown: str) -> None:
    """Shows Markdown as the description of a group's run.

    Args:
        runs: Access to the runs.
        run_id: The run.
        markdown: Its text; the names in it have gone through `softgrpo.tasks.tracking.descriptions.plain`.
    """
    runs.tag(run_id, {NOTE: short(markdown)})


def publish_text(runs: Runs, run_id: str, text: str, name: str) -> None:
    """Adds a text file to a run."""
    with store_errors(runs.tracking.uri):
        runs.tracking.client.log_text(run_id, text, name)
