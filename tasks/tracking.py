"""Where MLflow is, whether it answers, and what it says when it fails."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from softgrpo.errors import StoreError, full_disk_is_readable
from softgrpo.local_store import LocalStore
from tasks.addresses import check_answers, without_password

logger = logging.getLogger("softgrpo.tracking")

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
WITH_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("tags", "value"),  # `files`, see tasks/store.py
)
"""Tables and columns of MLflow's database that hold addresses of artifacts."""


@dataclass(frozen=True)
class Tracking:
    """An open connection to MLflow.

    Attributes:
        client: Talks to the tracking store; it depends on no global state of MLflow.
        uri: Address of the tracking store.
        experiment_id: The experiment that all runs of one dataset belong to.
    """

    client: MlflowClient
    uri: str
    experiment_id: str

    def run_link(self, run_id: str) -> str:
        """Returns the address of a run's page, or for a local database the command that shows it."""
        if urlsplit(self.uri).scheme in ("http", "https"):
            return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"
        return f"run {run_id} in {self.uri} (show it with: mlflow ui --backend-store-uri {self.uri})"


def default_uri(output: Path) -> str:
    """Returns the address of the database in the output folder."""
    return f"sqlite:///{output.resolve() / DATABASE}"


def tracking_uri(output: Path) -> str:
    """Returns MLFLOW_TRACKING_URI, or the address of the database in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(output)


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow and a full disk raise into one readable error.

    Raises:
        StoreError: MLflow refused a request, or no space is left.
    """
    try:
        with full_disk_is_readable():
            yield
    except MlflowException as error:
        said = str(error).strip().splitlines()[0]
        raise StoreError(
            f"MLflow at {without_password(uri)} said: {said}",
            "Every stage is recorded there before it counts as done",
            "Check the server or the database and run the same command again; finished stages are reused",
        ) from error


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        raise StoreError(
            f"MLflow experiment '{name}' is deleted",
            "Runs cannot be added to a deleted experiment",
            f"Restore it: mlflow experiments restore --experiment-id {found.experiment_id}",
        )
    return str(found.experiment_id)


def follow_move(database: Path, old: str, new: str) -> None:
    """Corrects where MLflow's own database says that artifacts are; it holds whole addresses, and knows no way to change them.

    Args:
        database: MLflow's SQLite file.
        old: Address of the folder that they were in.
        new: Address of the folder that they are in.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in WITH_ADDRESSES:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) where {column} = ? or {column} like ? escape '!'",
                (new, len(old) + 1, old, re.sub("([!%_])", r"!\1", old) + "/%"),
            )


def open_tracking(output: Path, experiment: str, local: LocalStore) -> Tracking:
    """Opens MLflow and finds or makes the experiment.

    Args:
        output: Folder that holds the default database and its artifacts.
        experiment: Name of the experiment.
        local: Gives the lock that keeps two first runs from making the same database at once.

    Raises:
        StoreError: MLflow does not answer within 10 s, or refuses.
    """
    uri = tracking_uri(output)
    check_answers(uri, "MLFLOW_TRACKING_URI")
    server = urlsplit(uri).scheme in ("http", "https", "databricks")
    artifacts = (output.resolve() / ARTIFACTS).as_uri()
    with local.lock("mlflow"), store_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        found = _experiment(client, experiment, None if server else artifacts)
        known = str(client.get_experiment(found).artifact_location)
        if uri == default_uri(output) and known != artifacts and known.endswith(f"/{ARTIFACTS}"):
            logger.info("the output folder was moved: in MLflow's database its artifacts now are in %s", artifacts)
            follow_move(output / DATABASE, known, artifacts)
        return Tracking(client, uri, found)
