"""Prefect's server, MLflow's server and a worker: start, status and stop. `make services`, `stop`, `deploy` and `env` run this.

supervisord (deployments/supervisord.conf) keeps the three alive. What is running is known by its socket, so that `stop` ends
exactly what `start` began, and two output folders have services of their own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import requests

from softgrpo.common.files import make_private
from softgrpo.common.paths import ROOT
from softgrpo.common.redaction import hide_passwords
from softgrpo.errors import ConfigError, SoftGRPOError, StoreError
from softgrpo.flows.runtime.empty_database import install_empty_database
from softgrpo.flows.runtime.environment import check_writable, keep_off_proxy, set_quiet_defaults
from softgrpo.flows.runtime.failures import FAILED, INTERRUPTED, OK
from softgrpo.flows.runtime.hosts import check_free, check_host, here, is_loopback
from softgrpo.flows.services.health import wait_healthy
from softgrpo.flows.services.password import FILE, USER, make_password
from softgrpo.flows.services.places import CONFIGURATION, Services, find_services
from softgrpo.flows.services.record import check_same_worker, error_warnings, worker_data_path, write_record
from softgrpo.flows.services.registration import DEPLOYMENTS_FILE, complete
from softgrpo.flows.services.worker_environment import data_line, worker_datasets
from softgrpo.tasks.servers.database import make_database
from softgrpo.tasks.tracking.pages import start_page

__all__ = ["Services", "deploy", "export_lines", "find_services", "main", "start", "stop"]

ENDING_SECONDS = 10.0  # of supervisord, when what it keeps alive has ended
HEALTH_SECONDS = 2.0
POOL = "local"
POOL_TEMPLATE = ROOT / "deployments" / "work_pool.json"
MESSAGE_CHARACTERS = 500


def start(services: Services) -> str:
    """Starts what does not run yet, and waits until the servers answer and the worker has its pool.

    Returns:
        Where the pages are.

    Raises:
        ConfigError: Both ports are one, the host is not this machine's, or the services run elsewhere than they are asked to.
        StoreError: A port is taken, the folder cannot be written, or a server does not come up; then what was started has ended.
    """
    keep_off_proxy(here(services.host))
    if services.is_running():
        _check_same(services)
        check_same_worker(services)
        _bring_up(services)
    else:
        _check_startable(services)
        try:
            _begin(services)
            _bring_up(services)
        except BaseException:  # broad: after Ctrl-C too nothing half-started stays; it goes on to the caller
            _end(services)
            raise
    return "\n".join([_describe(services), *error_warnings(services)])


def _check_startable(services: Services) -> None:
    """Checks what can be seen before anything is started or written."""
    if services.prefect_port == services.mlflow_port:
        raise ConfigError(
            f"PREFECT_PORT and MLFLOW_PORT, both {services.prefect_port}",
            "Each server has a port of its own",
            "Set one of them to another",
            code="CONFIG-036",
        )
    check_host(services.host)
    check_free(services.host, services.prefect_port, "PREFECT_PORT")
    check_free(services.host, services.mlflow_port, "MLFLOW_PORT")


def _begin(services: Services) -> None:
    """Starts supervisord, and with it both servers."""
    check_writable(services.output)
    set_quiet_defaults()
    for folder in (services.folder, services.output / "mlartifacts"):
        make_private(folder)
    install_empty_database(Path(services.environment()["PREFECT_HOME"]))
    if not is_loopback(services.host):
        make_password(services.folder)
    if "MLFLOW_BACKEND_STORE_URI" not in os.environ:
        make_database(services.output)
    write_record(services)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIGURATION)]
    rule, log = "It keeps the servers and the worker alive", services.folder / "supervisord.log"
    _run(command, services.environment(), "supervisord", rule, log)


def _bring_up(services: Services) -> None:
    """Waits for the servers, and starts the worker if it does not run."""
    wait_healthy(services)
    pool = ("--type", "process", "--base-job-template", str(POOL_TEMPLATE), "--overwrite")
    prefect(services, "work-pool", "create", POOL, *pool)
    if "RUNNING" not in services.supervisor("status", "worker", check=False).stdout:
        services.supervisor("start", "worker")


def _check_same(services: Services) -> None:
    """Checks that running services are where they are now asked to be."""
    requested = {name: os.environ[name] for name in services.place if os.environ.get(name)}
    differing = [name for name, value in requested.items() if value != str(services.place[name])]
    if differing:
        running = ", ".join(f"{name}={services.place[name]}" for name in differing)
        raise ConfigError(
            ", ".join(f"{name}={requested[name]}" for name in differing),
            f"The services of '{services.output}' are running already, with {running}",
            f"End them first ({services.make('stop')}), or unset {' and '.join(differing)}",
            code="CONFIG-037",
        )


def _describe(services: Services) -> str:
    """Returns where the pages are, for the user of this machine and of others."""
    pages = {name: address.removesuffix("/api") for name, address in services.addresses.items()}
    lines = [
        f"Prefect  {pages['PREFECT_API_URL']}",
        f"MLflow   {start_page(pages['MLFLOW_TRACKING_URI'], services.login)}",
        f"logs     {services.folder}",
        data_line(worker_data_path(services)),
        f'For a shell: eval "$({services.make("-s env")})"',
    ]
    if not is_loopback(services.host):
        there = " ".join(f"{name}={address}" for name, address in services.addresses_elsewhere.items())
        lines += [
            f"For other machines: export {there}",
            f"Both servers ask for user {USER} and the password in {services.folder / FILE}",
            "warning: anyone who has that password can make the worker run anything, and it is sent unencrypted",
        ]
    return "\n".join(lines)


def stop(services: Services) -> str:
    """Ends the services of one output folder and the runs of their worker; returns when they have ended.

    Returns:
        That they have, and which runs.

    Raises:
        StoreError: None is running.
    """
    _check_running(services)
    keep_off_proxy(here(services.host))
    runs = _end_runs(services)
    _end(services)
    return "\n".join([*runs, "The services have ended."])


def _end_runs(services: Services) -> list[str]:
    """Ends the runs of the worker, and returns what is to be said of each."""
    address = services.addresses["PREFECT_API_URL"]
    set_quiet_defaults()
    os.environ.setdefault("PREFECT_HOME", services.environment()["PREFECT_HOME"])
    try:
        requests.get(
            f"{address}/health", timeout=HEALTH_SECONDS
        ).raise_for_status()  # Prefect's client would ask for a minute
        from softgrpo.flows.services.runs import (
            end_runs,  # Prefect takes seconds, which the other orders need not wait for
        )

        return end_runs(address, lambda: services.supervisor("stop", "worker", check=False))
    except (requests.RequestException, httpx.HTTPError) as error:  # which must not keep the services from ending
        return [
            f"Prefect's server did not say which runs are at work ({type(error).__name__}); they end with the worker."
        ]


def _end(services: Services) -> None:
    services.supervisor("stop", "worker", check=False)  # first, while the server can still hear how its runs end
    services.supervisor("stop", "all", check=False)  # both at once; its own end would take one after the other
    services.supervisor("shutdown", check=services.is_running())
    end = time.monotonic() + ENDING_SECONDS
    while services.is_running() and time.monotonic() < end:
        time.sleep(0.1)


def export_lines(services: Services) -> str:
    """Returns what a shell needs to find the commands, and the servers if they are running, as export lines."""
    lines = [f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"']
    if services.is_running():
        variables = services.addresses | services.credentials
        lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    else:
        print(
            f"No services of '{services.output}' are running: {services.make('services')} starts them", file=sys.stderr
        )
    return "\n".join(lines)


def prefect(services: Services, *words: str) -> None:
    """Runs Prefect's own command against the server.

    Raises:
        StoreError: It fails.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    environment = services.environment() | services.addresses
    rule, log = "The server takes deployments from deployments/prefect.yaml", services.folder / "prefect.log"
    _run(command, environment, f"prefect {' '.join(words)}", rule, log, cwd=ROOT)


def _run(
    command: list[str], environment: dict[str, str], name: str, rule: str, log: Path, cwd: Path | None = None
) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        message = (done.stdout + done.stderr).strip().rpartition("\n")[2]
        raise StoreError(f"{name}: {message[:MESSAGE_CHARACTERS]}", rule, f"Look into {log}", code="STORE-013")


def deploy(services: Services) -> str:
    """Registers the deployments and the limits that their runs keep.

    Returns:
        How to start one.

    Raises:
        StoreError: The services are not running, or a server does not answer or refuses.
    """
    _check_running(services)
    keep_off_proxy(here(services.host))
    wait_healthy(services)  # supervisord answers before the servers do
    prefect(services, "deploy", "--prefect-file", str(DEPLOYMENTS_FILE), "--all")
    from softgrpo.tasks.running.gpu import make_limit  # Prefect takes seconds, which the other orders need not wait for

    api = services.addresses["PREFECT_API_URL"]
    login = services.credentials.get("PREFECT_API_AUTH_STRING")
    make_limit(api, login)
    complete(api, worker_datasets(worker_data_path(services)), login)
    registered = (
        f'Registered. In a shell, after eval "$({services.make("-s env")})": '
        "prefect deployment run softgrpo/full -p dataset=ml-1m\n"
        f"{api.removesuffix('/api')}/deployments"
    )
    return "\n".join([registered, *error_warnings(services)])


def _check_running(services: Services) -> None:
    """Checks that the services of an output folder are running.

    Raises:
        StoreError: They are not.
    """
    if not services.is_running():
        raise StoreError(
            f"the services of '{services.output}'",
            "They must be running, and they are not",
            f"Start them: {services.make('services')}",
            code="STORE-014",
        )


ORDERS = {"start": start, "stop": stop, "deploy": deploy, "env": export_lines}


def main(words: list[str] | None = None) -> int:
    """Runs `python -m softgrpo.flows.services.control ORDER`."""
    hide_passwords()
    parser = argparse.ArgumentParser(prog="softgrpo.flows.services.control", description=__doc__)
    parser.add_argument("order", choices=("start", "stop", "deploy", "env"))
    parser.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="the output folder")
    arguments = parser.parse_args(words)
    try:
        services = find_services(arguments.output)
        print(ORDERS[arguments.order](services))
    except SoftGRPOError as error:
        print(f"softgrpo: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        ended = (
            f" What this had started has ended; logs are in {services.folder}." if arguments.order == "start" else ""
        )
        print(f"\nsoftgrpo: interrupted.{ended}", file=sys.stderr)
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
