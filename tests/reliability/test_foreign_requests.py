"""A web page that a user visits attacks the servers: what it can send is sent to real servers, and nothing comes of it.

Browsers add a page's `Origin` and `Host`, and no content type where the page gives none: then they need not ask the server first.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from softgrpo.flows.runtime.hosts import elsewhere
from softgrpo.flows.services.control import Services, find_services
from softgrpo.tasks.servers.prefect_api import open_session
from tests.conftest import PrefectServer
from tests.reliability.conftest import order
from tests.reliability.runs import Api, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EVIL = "evil.example"
PREFECT = Subprotocol("prefect")
SOCKETS = (
    "events/in",
    "events/out",
    "logs/out",
    "task_runs/subscriptions/scheduled",
    "work_pools/local/workers/connect",
)


def foreign(address: str) -> dict[str, dict[str, str]]:
    """Returns the headers that foreign pages send, by how the page attacks.

    Args:
        address: Of the server's API.
    """
    port = address.split(":")[2].partition("/")[0]
    return {
        "page of another site": {"Origin": f"http://{EVIL}"},
        "page of another server of this machine": {"Origin": "http://127.0.0.1:8888"},
        "page in a sandbox": {"Origin": "null"},
        "DNS rebinding": {"Host": f"{EVIL}:{port}", "Origin": f"http://{EVIL}:{port}"},
        "DNS rebinding, old browser": {"Host": f"{EVIL}:{port}"},
        "form of an old browser": {},
    }


def post(address: str, body: dict[str, Any], headers: dict[str, str]) -> requests.Response:
    """Sends JSON without saying so, as a page can without being asked whether it may."""
    return requests.post(address, data=json.dumps(body).encode(), headers=headers, timeout=60)


def check_refused(api: str) -> None:
    """Sends every attack to a server of Prefect and checks that it answers 403."""
    for attack, headers in foreign(api).items():
        assert post(f"{api}/flows/", {"name": "evil"}, headers).status_code == 403, attack
        if headers:
            token = requests.get(f"{api}/csrf-token", params={"client": "evil"}, headers=headers, timeout=60)
            assert token.status_code == 403 and "token" not in token.text, attack
            asking = {**headers, "Access-Control-Request-Method": "POST"}
            assert requests.options(f"{api}/flows/", headers=asking, timeout=60).status_code == 403, attack
    allowed = requests.get(f"{api}/csrf-token", params={"client": "mine"}, timeout=60)
    assert allowed.ok and "Access-Control-Allow-Origin" not in allowed.headers
    expires = datetime.fromisoformat(allowed.json()["expiration"])
    assert expires - datetime.now(UTC) > timedelta(days=7)  # no run lasts so long: see flows.runtime.server_program
    with open_session(api) as session:  # even with a token, a page of another site is refused
        answer = session.post(f"{api}/flows/", json={"name": "evil"}, headers={"Origin": f"http://{EVIL}"}, timeout=60)
        assert answer.status_code == 403


def socket_status(address: str, **options: Any) -> int:
    """Opens a WebSocket as Prefect's clients do and returns what the server answers; 101 is a socket."""
    try:
        with connect(address, subprotocols=[PREFECT], proxy=None, open_timeout=60, **options) as opened:
            assert opened.response is not None
            return opened.response.status_code
    except InvalidStatus as refused:
        return refused.response.status_code


def test_no_foreign_page_creates_or_runs_anything(services: Services, tmp_path: Path) -> None:
    api = services.addresses["PREFECT_API_URL"]
    check_refused(api)
    for name in ("flows", "deployments"):
        with open_session(api) as session:
            names = [each["name"] for each in session.post(f"{api}/{name}/filter", json={}, timeout=60).json()]
        assert names and "evil" not in names


def test_no_foreign_page_opens_a_socket(services: Services) -> None:
    place = services.addresses["PREFECT_API_URL"].removeprefix("http://")
    port = services.prefect_port
    for path in SOCKETS:
        assert socket_status(f"ws://{place}/{path}") == 101, path
        assert socket_status(f"ws://{place}/{path}", origin=f"http://127.0.0.1:{port}") == 101, path
        for origin in (f"http://{EVIL}", "null"):
            assert socket_status(f"ws://{place}/{path}", origin=origin) == 403, path
        with socket.create_connection(("127.0.0.1", port)) as there:  # DNS rebinding: its own name leads here
            assert socket_status(f"ws://{EVIL}:{port}/api/{path}", sock=there) == 403, path


def test_the_server_of_a_run_refuses_them_too(prefect_server: PrefectServer) -> None:
    check_refused(prefect_server.address)
    place = prefect_server.address.removeprefix("http://")
    assert socket_status(f"ws://{place}/events/in", origin=f"http://{EVIL}") == 403
    assert socket_status(f"ws://{place}/events/in") == 101


def test_mlflow_refuses_them_too(services: Services) -> None:
    address = services.addresses["MLFLOW_TRACKING_URI"]
    for headers in ({"Origin": f"http://{EVIL}"}, {"Host": f"{EVIL}:{services.mlflow_port}"}):
        body = {"name": "evil"}
        answer = requests.post(f"{address}/api/2.0/mlflow/experiments/create", json=body, headers=headers, timeout=60)
        assert answer.status_code == 403, headers


def test_the_pool_takes_no_command(services: Services, tmp_path: Path) -> None:
    """Who is let in cannot have the worker start another program by a deployment's or a run's variables."""
    api, mark = services.addresses["PREFECT_API_URL"], tmp_path / "mark"
    deployment = Api(services).deployment("debug")
    with open_session(api) as session:
        for name, value in {
            "command": f"touch {mark}",
            "env": {"PATH": str(tmp_path)},
            "working_dir": str(tmp_path),
        }.items():
            run: dict[str, Any] = {"job_variables": {name: value}}
            answer = session.post(f"{api}/deployments/{deployment}/create_flow_run", json=run, timeout=60)
            assert answer.status_code == 422 and name in answer.text
            flow = session.get(f"{api}/deployments/{deployment}", timeout=60).json()["flow_id"]
            other = {"name": "other", "flow_id": flow, "work_pool_name": "local", **run}
            assert session.post(f"{api}/deployments/", json=other, timeout=60).status_code == 422
    time.sleep(5)  # the worker asks every two seconds
    assert not mark.exists()


@pytest.fixture
def open_services(
    tmp_path: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Services, str]]:
    """Services that other machines reach, and what starting them has said."""
    output = tmp_path / "open"
    prefect_server.copy_database(output / "prefect")
    for name in ("PREFECT_PORT", "MLFLOW_PORT"):
        monkeypatch.setenv(name, str(free_port()))
    monkeypatch.setenv("SERVICES_HOST", "0.0.0.0")
    monkeypatch.setenv("SERVICES_ALLOWED_HOSTS", "proxy.example")
    told = order("start", output)
    yield find_services(output), told
    order("stop", output)


def test_other_machines_are_asked_for_a_password(open_services: tuple[Services, str]) -> None:
    services, told = open_services
    password = (services.folder / "password").read_text().strip()
    assert (services.folder / "password").stat().st_mode & 0o777 == 0o600
    assert password not in told and f"Both servers ask for user softgrpo and the password in {services.folder}" in told
    here = elsewhere("0.0.0.0")
    prefect = f"http://{here}:{services.prefect_port}/api/csrf-token?client=other"
    mlflow = f"http://{here}:{services.mlflow_port}/api/2.0/mlflow/experiments/search?max_results=1"
    for address in (prefect, mlflow):
        for auth, status in ((None, 401), (("softgrpo", "wrong"), 401), (("softgrpo", password), 200)):
            assert requests.get(address, auth=auth, timeout=60).status_code == status, address
        for host, status in (("proxy.example", 200), (EVIL, 403)):
            answer = requests.get(address, auth=("softgrpo", password), headers={"Host": host}, timeout=60)
            assert answer.status_code == status, (address, host)
    place = f"ws://{here}:{services.prefect_port}/api"
    with connect(f"{place}/events/out", subprotocols=[PREFECT], proxy=None, open_timeout=60) as opened:
        opened.send(json.dumps({"type": "auth", "token": None}))
        with pytest.raises(ConnectionClosed):  # a password is missing
            opened.recv(timeout=60)
    _check_clients(services)
    files = [path for path in services.output.rglob("*") if path.is_file() and path.name != "password"]
    assert len(files) > 5 and not [path for path in files if password.encode() in path.read_bytes()]


def _check_clients(services: Services) -> None:
    """Checks that the worker, `make deploy`, and a shell that `make env` has told get in."""
    assert "Registered" in order("deploy", services.output)
    variables = dict(os.environ)
    for line in order("env", services.output).splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        variables[name] = value
    command = [sys.executable, "-m", "prefect", "work-pool", "inspect", "local", "--output", "json"]

    def ready() -> bool:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        return bool(json.loads(done.stdout)["status"] == "READY")  # a worker has said that it is there

    wait_until(ready, "the worker is there", 120)


def test_a_server_for_other_machines_does_not_start_without_a_password() -> None:
    command = [
        sys.executable,
        "-m",
        "softgrpo.flows.runtime.server_program",
        "--host",
        "0.0.0.0",
        "--port",
        str(free_port()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "PREFECT_SERVER_API_AUTH_STRING" in done.stderr and "user:password" in done.stderr
