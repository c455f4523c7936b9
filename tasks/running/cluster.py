"""A Dask cluster from outside: connected to, and what goes wrong with it in words for people."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from softgrpo.errors import ConfigError, ProcessError, StoreError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE_SECONDS = 8


def package_is_missing(address: str) -> ConfigError:
    """Returns the error of an environment without the packages for Dask."""
    return ConfigError(
        f"--dask {address}",
        "A package for Dask is missing",
        "Run: pip install -c constraints.txt -e '.[dask]'",
        code="CONFIG-072",
    )


def threads_of_workers(client: Client, address: str) -> dict[str, int]:
    """Returns how many tasks each worker of a cluster runs at once, by the worker's address.

    Args:
        client: A connection to the cluster.
        address: Of its scheduler, as it was given.

    Raises:
        StoreError: Nothing answers, or there is no worker.
    """
    with answers(address):
        threads: dict[str, int] = client.nthreads()  # type: ignore[no-untyped-call]
    if not threads:
        raise StoreError(
            f"The Dask cluster at {address}",
            "It must have a worker",
            "Start one: dask worker ADDRESS",
            code="STORE-027",
        )
    return threads


@contextmanager
def answers(address: str) -> Iterator[None]:
    """Turns what a wrong address makes Dask raise into one error for people.

    Raises:
        StoreError: Nothing answers at the address, or it is none.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise StoreError(
            f"--dask {address}: {error}",
            "A Dask scheduler must answer there",
            "Start it, or correct the address",
            code="STORE-026",
        ) from error


@contextmanager
def open_cluster(address: str) -> Iterator[tuple[Client, dict[str, int]]]:
    """Gives a connection to a cluster, and how many tasks each of its workers runs at once.

    Args:
        address: Of its scheduler.

    Raises:
        ConfigError: The packages for Dask are missing.
        StoreError: Nothing answers at the address, or the cluster has no worker.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise package_is_missing(address) from error
    with answers(address):
        client = Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    logging.getLogger("distributed.client").setLevel(
        logging.CRITICAL
    )  # a scheduler that is gone is an error of its own
    with client:
        yield client, threads_of_workers(client, address)


@contextmanager
def losses_are_readable(what: str) -> Iterator[None]:
    """Turns what Dask raises where workers or their scheduler are lost into errors for people.

    Args:
        what: Name of what was to be done.

    Raises:
        ProcessError: It has taken one worker after another down.
        StoreError: The scheduler is gone.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        yield
    except KilledWorker as error:
        raise ProcessError(
            f"{what}: {error}",
            "What takes one worker after another down is given up; perhaps it needs more memory than they have",
            "Look into the workers' logs, give them more, and run the same command again",
            code="PROCESS-001",
        ) from error
    except FutureCancelledError as error:
        raise StoreError(
            f"{what}: {error}",
            "The Dask scheduler must be there for as long as the run",
            "Start it again and run the same command; what is finished is reused",
            code="STORE-025",
        ) from error
