"""The address that the servers of `make services` bind to, and the names that they answer to."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable

from softgrpo.errors import ConfigError, StoreError

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
SETTING = "SERVICES_HOST"
ALLOWED_HOSTS = "SERVICES_ALLOWED_HOSTS"
"""Further names under which both servers are asked, such as that of a proxy before them, with commas between them."""
_NOWHERE = ("192.0.2.1", 9)
"""An address that no machine has (RFC 5737). Nothing is sent there: the system only says from which address it would be."""


def resolve_host(host: str) -> str:
    """Returns the IPv4 address of a name or address that the servers are to bind to.

    Args:
        host: What SERVICES_HOST says.

    Raises:
        ConfigError: It is neither.
    """
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{SETTING}={host}",
            "Both servers bind to it: an IPv4 address or a name of this machine",
            f"Correct it; {EVERYWHERE} is every address of this machine, {LOOPBACK} this machine alone",
            code="CONFIG-032",
        ) from error


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches a host that `resolve_host` knows."""
    return ipaddress.ip_address(resolve_host(host)).is_loopback


def check_host(host: str) -> None:
    """Checks that a name does not mean something else here than it does to others, as Debian's 127.0.1.1 for a machine's own name.

    Args:
        host: What SERVICES_HOST says.

    Raises:
        ConfigError: It is no address, or a name whose address no other machine reaches.
    """
    address = resolve_host(host)
    if address != host != "localhost" and is_loopback(address):
        raise ConfigError(
            f"{SETTING}={host}, which is {address} here",
            "No other machine reaches that address",
            f"Give the machine's address in its network; {LOOPBACK} is for this machine alone",
            code="CONFIG-033",
        )


def check_free(host: str, port: int, setting: str) -> None:
    """Checks that a server can bind to a port.

    Args:
        host: What SERVICES_HOST says.
        port: The port.
        setting: Environment variable that the port came from, for the message.

    Raises:
        ConfigError: The host is not this machine's.
        StoreError: Something is bound to the port, or this user may not take it.
    """
    try:
        socket.create_server((resolve_host(host), port)).close()
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"{SETTING}={host}",
                "The servers bind to an address of this machine, and it is none",
                f"Correct it; {EVERYWHERE} is every address of this machine",
                code="CONFIG-034",
            ) from error
        raise StoreError(
            f"port {port} of {host}",
            f"It must be free, and cannot be taken ({error.strerror})",
            f"Set {setting} to another",
            code="STORE-011",
        ) from error


def here(host: str) -> str:
    """Returns the host under which this machine itself reaches servers that are bound to a host."""
    return LOOPBACK if host == EVERYWHERE else host


def elsewhere(host: str) -> str:
    """Returns the host under which other machines reach them: where every address is taken, that of the way out."""
    if host != EVERYWHERE:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)
        except OSError:  # no network but this machine's own
            return socket.gethostname()
        return str(probe.getsockname()[0])


def names_of(host: str) -> list[str]:
    """Returns the names and addresses under which servers that are bound to a host are asked, without ports.

    Args:
        host: What SERVICES_HOST says.
    """
    further = [name.strip() for name in os.environ.get(ALLOWED_HOSTS, "").split(",") if name.strip()]
    own = [host] if is_loopback(host) else [elsewhere(host), socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys((*own, *further, "localhost", LOOPBACK)))


def origins_of(names: Iterable[str], port: int) -> list[str]:
    """Returns the origins of the pages of a server that is asked under names, as browsers send them."""
    return [f"http://{name}:{port}" for name in names]


def mlflow_guards(host: str, port: int) -> dict[str, str]:
    """Returns the variables that tell MLflow's server under which names it is asked, and by which pages.

    Args:
        host: What SERVICES_HOST says.
        port: Of MLflow's server.

    Returns:
        Empty where only this machine asks, by the names that MLflow knows by itself.
    """
    names = names_of(host)
    if is_loopback(host) and not os.environ.get(ALLOWED_HOSTS):
        return {}
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(form for name in names for form in (name, f"{name}:*")),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins_of(names, port)),  # of its own pages
    }
