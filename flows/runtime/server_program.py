"""Prefect's server, with a guard that checks each request: `python -m softgrpo.flows.runtime.server_program`.

`make services` and the compose file give it `--host` and `--port`; `softgrpo.flows.runtime.own_server` a socket that is open already.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from softgrpo.common.redaction import hide_passwords
from softgrpo.errors import ConfigError
from softgrpo.flows.runtime.empty_database import reserve_disk_space
from softgrpo.flows.runtime.failures import REFUSED
from softgrpo.flows.runtime.hosts import ALLOWED_HOSTS, LOOPBACK, is_loopback, origins_of
from softgrpo.tasks.servers.request_guard import RequestGuard

GRACE_SECONDS = 2
OWN_HOSTS = (LOOPBACK, "localhost")
PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"
CORS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
TOKEN_EXPIRATION = "P30D"
"""ISO 8601, longer than a run. Threads of a run share one client, and a client has one valid token at a time: two threads that
renew it at once, which Prefect's hour would bring about, refuse each other. So does a client whose clock is an hour ahead."""


def guarded(hosts: list[str], port: int) -> ASGIApp:
    """Returns Prefect's server behind the guard, with CSRF tokens, for pages of its own origins only.

    Args:
        hosts: Names and addresses under which it is asked.
        port: Under which it is asked.
    """
    os.environ.setdefault("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true")
    os.environ.setdefault("PREFECT_SERVER_CSRF_TOKEN_EXPIRATION", TOKEN_EXPIRATION)
    os.environ.setdefault(CORS, ",".join(origins_of(hosts, port)))
    from prefect.server.api.server import create_app  # reads the environment

    remedy = f"Names are added with {ALLOWED_HOSTS}, origins with {CORS}, where the server is started"
    return RequestGuard(create_app(final=True), hosts, os.environ[CORS].split(","), remedy)


def check_password(host: str) -> None:
    """Checks that a server that other machines reach asks for a password.

    Args:
        host: What the server is to bind to.

    Raises:
        ConfigError: It does not.
    """
    if not is_loopback(host) and not os.environ.get(PASSWORD):
        raise ConfigError(
            f"--host {host} without {PASSWORD}",
            "Anyone who reaches Prefect's server can make a worker run anything, so other machines need a password",
            f"Set {PASSWORD} to user:password here, and PREFECT_API_AUTH_STRING to the same for clients; or bind to {LOOPBACK}",
            code="CONFIG-035",
        )


def _parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="softgrpo.flows.runtime.server_program", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help="what it binds to")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--descriptor", type=int, help="of a socket that listens already, instead of both")
    parser.add_argument(
        "--allowed-hosts", default=",".join(OWN_HOSTS), metavar="NAME,NAME", help="names it is asked by"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Runs the server until it is ended."""
    hide_passwords()
    arguments = _parsed(words)
    try:
        check_password(arguments.host)
    except ConfigError as error:
        print(f"softgrpo: {error}", file=sys.stderr)
        return REFUSED
    hosts = arguments.allowed_hosts.split(",")
    with ExitStack() as open_until_the_end:
        sockets, port, level = None, arguments.port, "warning"
        if arguments.descriptor is not None:
            sockets = [socket.socket(fileno=arguments.descriptor)]
            port, level = sockets[0].getsockname()[1], "error"
            open_until_the_end.enter_context(reserve_disk_space(Path(os.environ["PREFECT_HOME"])))
        config = uvicorn.Config(
            guarded(hosts, port),
            arguments.host,
            arguments.port,
            log_level=level,
            lifespan="on",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        uvicorn.Server(config).run(sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
