"""Whether somebody answers at an address, asked before MLflow or Prefect is imported, whose own retries take minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import requests

from softgrpo.errors import StoreError

TIMEOUT_SECONDS = 5.0
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_answers(uri: str, setting: str) -> None:
    """Asks whether somebody answers at a network address; addresses of local files always pass.

    Args:
        uri: Address of a server or a database.
        setting: Environment variable it came from, for the message.

    Raises:
        StoreError: Nobody answers within some seconds.
    """
    address = urlsplit(uri)
    scheme = address.scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            requests.get(uri, timeout=TIMEOUT_SECONDS, stream=True).close()
        elif scheme in DEFAULT_PORTS and address.hostname:
            port = address.port or DEFAULT_PORTS[scheme]
            socket.create_connection((address.hostname, port), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:  # requests' errors are OSErrors too
        raise StoreError(
            f"{setting}={without_password(uri)}",
            f"nobody answers there within {TIMEOUT_SECONDS:g} s",
            f"Start the server, correct the address, or unset {setting} to use the output folder",
        ) from error


def without_password(uri: str) -> str:
    """Returns an address that can be shown."""
    address = urlsplit(uri)
    return uri.replace(f":{address.password}@", ":***@") if address.password else uri
