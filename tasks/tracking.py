"""Where MLflow is, whether it answers, and what it says when it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError

from softgrpo.errors import StoreError
from softgrpo.local_store import LocalStore
from tasks.addresses import check_answers, without_password


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


def tracking_uri(output: Path) -> str:
    """Returns MLFLOW_TRACKING_URI, or the address of the database in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.resolve() / 'mlflow.db'}"


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow and a full disk raise into one readable error.

    Raises:
        StoreError: MLflow refused a request, or no space is left.
    """
    try:
        yield
    except (MlflowException, OSError, SafetensorError) as error:
        if _is_full_disk(error):
            raise StoreError(
                "no space is left on the disk",
                "A stage counts only when all its files are written",
                "Make room, or choose another --output, and run the same command again; finished stages are reused",
            ) from error
        if not isinstance(error, MlflowException):
            raise
        said = str(error).strip().splitlines()[0]
        raise StoreError(
            f"MLflow at {without_password(uri)} said: {said}",
            "Every stage is recorded there before it counts as done",
            "Check the server or the database and run the same command again; finished stages are reused",
        ) from error


def _is_full_disk(error: Exception) -> bool:
    """Whether an error says that no space is left, in the words of the system, of safetensors or of SQLite."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    return any(words in str(error) for words in ("No space left", "database or disk is full"))


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
    artifacts = None if server else (output.resolve() / "mlartifacts").as_uri()
    with local.lock("mlflow"), store_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        return Tracking(client, uri, _experiment(client, experiment, artifacts))
