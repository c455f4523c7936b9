"""Checks that the server at an address is of the kind that is needed there: Prefect's server, MLflow's, or a database.

Each check has a deadline and comes before MLflow or Prefect is imported: their own retries against a wrong server take minutes.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from softgrpo.common.text import one_line
from softgrpo.errors import ConfigError, StoreError, chain

T = TypeVar("T")
MOST_BYTES = 65_536
"""Of an answer that are read."""
UNAUTHORISED = (401, 403)
SOCKS_MODULES = ("socks", "socksio")
"""What requests and httpx, of MLflow and of Prefect, need for such a proxy."""


@dataclass(frozen=True)
class Kind:
    """A kind of web server.

    Attributes:
        name: Its name in messages.
        question: What is asked; it is appended to the address.
        knows: Whether an answer in JSON is one of this kind.
        credentials: Environment variables from which its client takes credentials.
    """

    name: str
    question: str
    knows: Callable[[Any], bool]
    credentials: tuple[str, ...]


KINDS = {
    "PREFECT_API_URL": Kind(
        "Prefect's server",
        "/health",
        lambda answer: answer is True,
        ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"),
    ),
    "MLFLOW_TRACKING_URI": Kind(
        "MLflow's server",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        lambda answer: isinstance(answer, dict) and set(answer) <= {"experiments", "next_page_token"},
        ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"),
    ),
}
"""By the environment variable that names the server."""
DRIVERS = {
    "psycopg": "Write postgresql+psycopg2:// (the extra postgres brings that driver), or install psycopg[binary] with pip",
    "psycopg2": "Install psycopg2-binary with pip",
    "MySQLdb": "Install pymysql with pip and write mysql+pymysql://, or install mysqlclient",
}
"""What to do where a driver is missing, by its module."""


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Returns what a function returns, or gives up after some seconds, however slowly an answer trickles in.

    Args:
        seconds: The limit.
        ask: It may go on in a thread of its own, which does not keep this process from ending.

    Raises:
        TimeoutError: It takes longer.
    """
    outcome = Future[T]()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except Exception as error:  # broad: the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome.result(seconds)


def check_web_server(uri: str, setting: str, shown: str, seconds: float) -> None:
    """Checks that a web server is of the kind that an environment variable has to name.

    Args:
        uri: Its address.
        setting: The variable.
        shown: The address without a password.
        seconds: For connecting, and between two pieces of the answer.

    Raises:
        StoreError: It is of another kind, or wants credentials.
        OSError: Nothing answers.
    """
    kind = KINDS[setting]
    try:
        status, answer = _answer(uri.rstrip("/") + kind.question, seconds)
    except requests.RequestException as error:
        if not isinstance(error, requests.exceptions.SSLError | requests.TooManyRedirects) and not any(
            isinstance(each, HTTPException) for each in chain(error)
        ):
            raise
        raise _another(kind, setting, shown, one_line(str(error))) from error
    if status in UNAUTHORISED:
        if any(os.environ.get(name) for name in kind.credentials):
            return  # the client sends them
        raise StoreError(
            f"{setting}={shown} answers with HTTP status {status}",
            f"{kind.name} has to let this machine in, by this address",
            f"Correct the address, or give credentials with {' or '.join(kind.credentials)}",
            code="STORE-035",
        )
    if status != requests.codes.ok or not kind.knows(answer):
        raise _another(kind, setting, shown, f"HTTP status {status} to {kind.question.partition('?')[0]}")


def _answer(address: str, seconds: float) -> tuple[int, Any]:
    """Returns the status and what the answer means in JSON, None where it is none or too long."""
    with requests.get(address, timeout=seconds, stream=True) as response:
        body = response.raw.read(MOST_BYTES, decode_content=True)
        try:
            return response.status_code, json.loads(body)
        except (ValueError, RecursionError):
            return response.status_code, None


def _another(kind: Kind, setting: str, shown: str, what: str) -> StoreError:
    return StoreError(
        f"{setting}={shown} is not the address of {kind.name}: it answers with {what}",
        f"{kind.name} must be there",
        f"Correct the address, or unset {setting} to use the output folder",
        code="STORE-036",
    )


def check_driver(uri: str, setting: str, shown: str) -> None:
    """Checks that the driver of a database is installed.

    Args:
        uri: Address of the database.
        setting: Environment variable it came from.
        shown: The address without a password.

    Raises:
        ConfigError: There is none.
    """
    from sqlalchemy import make_url  # a third of a second, where no database is named
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{setting}={shown}",
            f"The driver of such a database, the Python module {error.name}, is not installed",
            DRIVERS.get(str(error.name), f"Install {error.name}, or use another database"),
            code="CONFIG-077",
        ) from error
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"{setting}={shown}: {one_line(str(error))}",
            "It must be the address of a database that SQLAlchemy knows",
            "Write one, such as postgresql+psycopg2://user@host/mlflow",
            code="CONFIG-078",
        ) from error


def check_database_server(uri: str, setting: str, shown: str) -> None:
    """Checks that a database lets this machine in; its driver is installed.

    Raises:
        StoreError: It does not, or something else answers.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        create_engine(uri, poolclass=NullPool).connect().close()
    except SQLAlchemyError as error:
        message = one_line(str(getattr(error, "orig", None) or error))
        raise StoreError(
            f"{setting}={shown}: the database cannot be opened: {message}",
            "MLflow's record of all runs is there",
            f"Correct the address, start or mend the database, or unset {setting} to use the output folder",
            code="STORE-037",
        ) from error


def check_proxies() -> None:
    """Checks that the libraries can use the proxies that the environment names.

    Raises:
        ConfigError: One is a SOCKS proxy, and what that takes is not installed.
    """
    missing = [name for name in SOCKS_MODULES if find_spec(name) is None]
    for name, proxy in urllib.request.getproxies_environment().items():
        if missing and urlsplit(proxy).scheme.lower().startswith("socks"):
            place = urlsplit(proxy)
            raise ConfigError(
                f"{name}_proxy names a SOCKS proxy, {place.scheme}://{place.hostname}",
                f"Prefect and MLflow use it with further packages only; these modules are missing: {', '.join(missing)}",
                "Install pysocks and socksio with pip, or unset the variable (ALL_PROXY, HTTP_PROXY or HTTPS_PROXY)",
                code="CONFIG-079",
            )
