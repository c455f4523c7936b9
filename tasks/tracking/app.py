"""MLflow's server with a password before it: what `mlflow server --app-name softgrpo` runs.

MLflow's own `basic-auth` keeps users and permissions in a database of its own, which begins with a password that everybody knows.
Here is one user, who may do everything. MLflow itself checks `Host` and `Origin`.
"""

from __future__ import annotations

import os

from starlette.types import ASGIApp

from softgrpo.errors import ConfigError
from softgrpo.tasks.servers.addresses import MLFLOW_CREDENTIALS
from softgrpo.tasks.servers.request_guard import PasswordGuard


def create_app() -> ASGIApp:
    """Returns the application that uvicorn serves.

    Raises:
        ConfigError: No password is set.
    """
    if not (credentials := os.environ.get(MLFLOW_CREDENTIALS)):
        raise ConfigError(
            f"{MLFLOW_CREDENTIALS} is not set",
            "MLflow's server asks for that user and password",
            "Set it to user:password",
            code="CONFIG-080",
        )
    from mlflow.server.fastapi_app import app  # the whole server, which an import of this module does not need

    return PasswordGuard(app, credentials)
