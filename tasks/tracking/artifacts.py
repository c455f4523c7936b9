"""Where the scheme `mlflow-artifacts:` leads in processes of softgrpo; other programs of the environment are not touched.

MLflow resolves such an address through its server. Without a server, with a SQLite file, it means here the folder `mlartifacts`
beside the file: the same folder that `mlflow server --artifacts-destination` is told to serve. So what was written without a
server can be read through one, from another machine too, and an output folder can be moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

FOLDER = "mlartifacts"
SCHEME = "mlflow-artifacts"
SQLITE = "sqlite:///"


def open_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """Returns what reads and writes the files of an address.

    Args:
        artifact_uri: `mlflow-artifacts:/...`.
        tracking_uri: Address of the tracking store; None takes MLflow's global one.
        registry_uri: Address of the model registry.
    """
    tracking = tracking_uri or mlflow.get_tracking_uri()
    if not tracking.startswith(SQLITE):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
    folder = Path(tracking.removeprefix(SQLITE)).resolve().parent / FOLDER
    path = folder / unquote(urlsplit(artifact_uri).path).lstrip("/")
    return LocalArtifactRepository(path.as_uri(), tracking_uri=tracking_uri, registry_uri=registry_uri)


def register() -> None:
    """Lets MLflow open addresses of the scheme in this process with `open_repository`."""
    makers = cast("dict[str, object]", get_registered_artifact_repositories())  # MLflow's hint names what they make
    makers[SCHEME] = open_repository
