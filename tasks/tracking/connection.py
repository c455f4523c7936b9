"""Where MLflow is, whether it answers, and what it says when it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_ALREADY_EXISTS, TEMPORARILY_UNAVAILABLE, ErrorCode

from softgrpo.common.files import make_private
from softgrpo.common.redaction import without_login, without_password
from softgrpo.errors import StoreError, full_disk_is_readable
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.servers.addresses import check_answers, make_line
from softgrpo.tasks.servers.database import DATABASE, make_database
from softgrpo.tasks.tracking.artifacts import FOLDER
from softgrpo.tasks.tracking.pages import EXPERIMENTS, TRAINING, model_page, run_page, view_id, view_page

__all__ = [
    "EXPERIMENTS",
    "Tracking",
    "connect",
    "insert",
    "open_early",
    "open_tracking",
    "store_errors",
    "tracking_uri",
]

Result = TypeVar("Result")

STAGES = "mlflow-artifacts:/stages"
"""Where files of runs are, in a SQLite store; see `softgrpo.tasks.tracking.artifacts`."""


@dataclass(frozen=True)
class Tracking:
    """An open connection to MLflow.

    Attributes:
        client: Talks to the tracking store; it depends on no global state of MLflow.
        uri: Address of the tracking store.
        experiment_id: The experiment that all runs of one dataset belong to; empty in a connection that only reads.
    """

    client: MlflowClient
    uri: str
    experiment_id: str

    def __reduce__(self) -> tuple[Callable[[str, str], Tracking], tuple[str, str]]:
        """Lets a connection be handed to another process, which opens one of its own."""
        return _reopened, (self.uri, self.experiment_id)

    @property
    def has_pages(self) -> bool:
        """Whether a server shows the store on pages."""
        return urlsplit(self.uri).scheme in ("http", "https")

    @property
    def _server(self) -> str:
        """Address of the pages, for a browser."""
        return without_login(self.uri).rstrip("/")

    def comparison_link(self, run_ids: Sequence[str]) -> str | None:
        """Returns the address of the page that compares runs, None where no server shows one."""
        if not self.has_pages:
            return None
        runs, experiments = (
            quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [self.experiment_id])
        )
        return f"{self._server}/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING}"

    def view_link(self, k: int) -> str | None:
        """Returns the address of the runs of one cut-off as a table, None where no server shows it."""
        return f"{self._server}/{view_page(self.experiment_id, view_id(k))}" if self.has_pages else None

    def artifact_link(self, run_id: str, path: str) -> str:
        """Returns the address of the page that shows a file of a run; call it where there are pages, see `has_pages`."""
        return f"{self._server}/{run_page(self.experiment_id, run_id, f'/artifacts/{quote(path)}')}"

    def model_link(self, name: str) -> str:
        """Returns the address of the page of a registered model; call it where there are pages, see `has_pages`."""
        return f"{self._server}/{model_page(name)}"

    def run_link(self, run_id: str) -> str:
        """Returns the address of a run's page, or for a local database the command that shows it."""
        if self.has_pages:
            return f"{self._server}/{run_page(self.experiment_id, run_id)}"
        file = Path(self.uri.removeprefix("sqlite:///"))
        hint = f" ({make_line('services', file.parent)} shows it)" if file.name == DATABASE else ""
        return f"{run_id} in {without_password(self.uri)}{hint}"


def _reopened(uri: str, experiment_id: str) -> Tracking:
    return Tracking(MlflowClient(tracking_uri=uri), uri, experiment_id)


def tracking_uri(output: Path) -> str:
    """Returns MLFLOW_TRACKING_URI, or the address of the database in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.resolve() / DATABASE}"


def is_unavailable(error: BaseException) -> bool:
    """Tells whether an error is MLflow's word that it cannot answer now and may do so later."""
    return isinstance(error, MlflowException) and error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE)


def insert(write: Callable[[], Result]) -> Result:
    """Calls a write to MLflow, and once more where the database says that another machine has just inserted the same row.

    MLflow looks whether a row is there and inserts it without a lock in between. The second of two machines that do so at once
    is refused; when it asks again, it finds the row. A refusal with another cause comes again.

    Args:
        write: Reads what is there and writes what is missing.

    Raises:
        MlflowException: The write is refused for another reason.
    """
    try:
        return write()
    except MlflowException as error:
        if error.error_code not in {ErrorCode.Name(code) for code in (BAD_REQUEST, RESOURCE_ALREADY_EXISTS)}:
            raise
        return write()


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
        message = str(error).strip().splitlines()[0]
        raise StoreError(
            f"MLflow at {without_password(uri)} said: {message}",
            "Every stage is recorded there before it counts as done",
            "Check the server or the database and run the same command again; finished stages are reused",
            code="STORE-039",
        ) from error


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if experiment.lifecycle_stage == "deleted":
        raise StoreError(
            f"MLflow experiment '{name}' is deleted",
            "Runs cannot be added to a deleted experiment",
            f"Restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}",
            code="STORE-040",
        )
    return str(experiment.experiment_id)


def connect(output: Path) -> Tracking:
    """Opens MLflow without an experiment, to read.

    Args:
        output: Folder that holds the default database.

    Raises:
        StoreError: MLflow does not answer within 10 s.
    """
    uri = tracking_uri(output)
    check_answers(uri, "MLFLOW_TRACKING_URI")
    with store_errors(uri):
        return Tracking(MlflowClient(tracking_uri=uri), uri, "")


def _connect_or_make(output: Path) -> Tracking:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        make_database(output)
        make_private(output.resolve() / FOLDER)  # MLflow would make it for all to read
    return connect(output)


def open_early(output: Path, local: LocalStore) -> None:
    """Opens MLflow where it is a database, before the flow that needs it: its code and the check of its tables take a second.

    Args:
        output: Folder that holds the default database.
        local: Gives the lock, as in `open_tracking`.

    Raises:
        StoreError: As in `open_tracking`.
    """
    if urlsplit(tracking_uri(output)).scheme not in ("http", "https"):
        with local.lock("mlflow"):
            _connect_or_make(output)


def open_tracking(output: Path, experiment: str, local: LocalStore) -> Tracking:
    """Opens MLflow and finds or makes the experiment.

    Args:
        output: Folder that holds the default database and its artifacts.
        experiment: Name of the experiment.
        local: Gives the lock that keeps two first runs from making the same database at once.

    Raises:
        StoreError: MLflow does not answer within 10 s, or refuses.
    """
    folder = output.resolve() / FOLDER  # of another database, which has no folder of its own
    places = {"sqlite": STAGES, "http": None, "https": None, "databricks": None}  # None: the server decides
    with local.lock("mlflow"):
        tracking = _connect_or_make(output)
        place = places.get(urlsplit(tracking.uri).scheme, folder.as_uri())
        if place == folder.as_uri():
            make_private(folder)
        with store_errors(tracking.uri):
            found = insert(lambda: _experiment(tracking.client, experiment, place))
            return replace(tracking, experiment_id=found)
