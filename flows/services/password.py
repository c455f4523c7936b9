"""The password that the servers of `make services` ask for where other machines reach them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from softgrpo.errors import ConfigError
from softgrpo.tasks.servers.addresses import MLFLOW_CREDENTIALS

USER = "softgrpo"
FILE = "password"
BYTES = 24


def make_password(folder: Path) -> Path:
    """Returns the file of the password, made if needed, which its owner alone can read.

    Args:
        folder: Of the services, which exists. A password that is there stays.
    """
    path = folder / FILE
    if not path.exists():
        with open(
            path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)
        ) as file:
            file.write(secrets.token_urlsafe(BYTES) + "\n")
    return path


def server_variables(folder: Path) -> dict[str, str]:
    """Returns the variables by which both servers know the password.

    Args:
        folder: Of the services, with the password in it.

    Raises:
        ConfigError: The password is empty.
    """
    credentials = f"{USER}:{_read(folder)}"
    return {"PREFECT_SERVER_API_AUTH_STRING": credentials, MLFLOW_CREDENTIALS: credentials}


def client_variables(folder: Path) -> dict[str, str]:
    """Returns the variables by which clients of both servers know the password.

    Args:
        folder: Of the services, with the password in it.

    Raises:
        ConfigError: The password is empty.
    """
    password = _read(folder)
    return {
        "PREFECT_API_AUTH_STRING": f"{USER}:{password}",
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": password,
    }


def _read(folder: Path) -> str:
    password = (folder / FILE).read_text(encoding="utf-8").strip()
    if not password:
        raise ConfigError(
            f"'{folder / FILE}' is empty",
            "Servers that other machines reach ask for the password in it",
            "Write one, or delete the file: the next start makes one",
            code="CONFIG-038",
        )
    return password
