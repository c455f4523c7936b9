"""Requests to Prefect's interface where its own client, which takes seconds to import, is too slow."""

from __future__ import annotations

import os
import uuid

import requests

from softgrpo.errors import StoreError

TIMEOUT_SECONDS = 30.0


def open_session(api: str, credentials: str | None = None) -> requests.Session:
    """Returns a session whose requests carry what the server asks of clients: a CSRF token, and a password where it has one.

    Args:
        api: Address of Prefect's API.
        credentials: `user:password`; by default those of PREFECT_API_AUTH_STRING, if it is set.

    Raises:
        StoreError: The server does not answer, or refuses.
    """
    session = requests.Session()
    if credentials := credentials or os.environ.get("PREFECT_API_AUTH_STRING"):
        user, _, password = credentials.partition(":")
        session.auth = (user, password)
    client = str(uuid.uuid4())
    try:
        answer = session.get(f"{api}/csrf-token", params={"client": client}, timeout=TIMEOUT_SECONDS)
        if answer.status_code != requests.codes.unprocessable_entity:  # a server without that protection
            answer.raise_for_status()
            session.headers.update({"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": answer.json()["token"]})
    except requests.RequestException as error:
        raise StoreError(
            f"Prefect's server at {api}: {error}",
            "It must answer and take requests of this client",
            "Look into its log; PREFECT_API_AUTH_STRING names user:password where it asks for them",
            code="STORE-034",
        ) from error
    return session
