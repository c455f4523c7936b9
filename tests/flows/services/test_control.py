"""What the orders of `make` say, that a shell does what it is told, and starts that fail: no server has to answer for that."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from softgrpo.errors import ConfigError, StoreError
from softgrpo.flows.runtime.hosts import check_free, check_host
from softgrpo.flows.services.control import ROOT, Services, _describe, deploy, find_services, main
from softgrpo.flows.services.password import make_password
from tests.reliability.runs import free_port

TOOLS = Path(sys.executable).parent


def test_a_clean_shell_finds_both_commands_where_no_server_runs(tmp_path: Path) -> None:
    there, installed = shlex.quote(sys.prefix), shlex.quote(f"{sys.prefix}/.installed")
    order = f"make -s env VENV={there} -o {installed} OUTPUT={shlex.quote(str(tmp_path))}"
    line = f'eval "$({order})"; command -v softgrpo prefect; env'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[:2] == [str(TOOLS / "softgrpo"), str(TOOLS / "prefect")]
    assert not [word for word in said if word.startswith(("PREFECT_API_URL=", "MLFLOW_TRACKING_URI="))]
    assert done.stderr == f"No services of '{tmp_path}' are running: make services OUTPUT={tmp_path} starts them\n"


def test_a_shell_is_told_where_running_servers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Services(tmp_path, 4201, 5001)
    monkeypatch.setattr("softgrpo.flows.services.control.find_services", lambda output: running)
    monkeypatch.setattr(Services, "is_running", lambda self: True)
    assert main(["env"]) == 0
    exported = dict(line.removeprefix("export ").split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert exported.keys() == {"PATH", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"}
    assert exported["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"


def test_hints_name_the_output_folder_where_it_is_another(tmp_path: Path) -> None:
    assert Services(ROOT / "outputs", 4200, 5000).make("-s env") == "make -s env"
    elsewhere = Services(tmp_path / "my results", 4200, 5000)
    assert shlex.split(elsewhere.make("-s env"))[2:] == ["env", f"OUTPUT={tmp_path}/my results"]
    with pytest.raises(StoreError, match=r"make services OUTPUT='.*my results'.*\[STORE-014\]"):
        deploy(elsewhere)


def test_every_deployment_writes_into_the_output_folder_that_it_was_registered_for(tmp_path: Path) -> None:
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert {each["parameters"]["output"] for each in deployments} == {"{{ $SOFTGRPO_OUTPUT }}"}
    assert Services(tmp_path, 4200, 5000).environment()["SOFTGRPO_OUTPUT"] == str(tmp_path)
    assert "SOFTGRPO_OUTPUT=outputs " in (ROOT / "docker/setup.sh").read_text(encoding="utf-8")


def test_both_ports_the_same_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PREFECT_PORT", "MLFLOW_PORT"):
        monkeypatch.setenv(name, "4311")
    assert main(["start", "--output", str(tmp_path / "new")]) == 1
    assert "PREFECT_PORT and MLFLOW_PORT, both 4311. Each server has a port of its own" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreError, match=rf"port {port} of 127\.0\.0\.1.*MLFLOW_PORT.*\[STORE-011\]"):
            check_free("127.0.0.1", port, "MLFLOW_PORT")
        with pytest.raises(StoreError, match=rf"port {port} of 0\.0\.0\.0"):
            check_free("0.0.0.0", port, "MLFLOW_PORT")
    check_free("127.0.0.1", port, "MLFLOW_PORT")


@pytest.mark.parametrize("host", ["no-such-name.invalid", "127.0.0.1:4200", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_refused(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICES_HOST", host)
    assert main(["start", "--output", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert f"SERVICES_HOST={host}" in said and "0.0.0.0 is every address of this machine" in said
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_loopback_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian gives a machine's own name an address that no other machine reaches."""
    names = {"mine": "127.0.1.1", "localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "127.0.1.1": "127.0.1.1"}
    monkeypatch.setattr("socket.gethostbyname", names.__getitem__)
    with pytest.raises(ConfigError, match=r"SERVICES_HOST=mine, which is 127\.0\.1\.1 here.*\[CONFIG-033\]"):
        check_host("mine")
    for host in ("localhost", "127.0.0.1", "127.0.1.1"):
        check_host(host)


def test_loopback_is_where_services_are_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SERVICES_HOST", "MLFLOW_SERVER_ALLOWED_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    services = find_services(tmp_path)
    assert services.host == services.environment()["SOFTGRPO_HOST"] == "127.0.0.1"
    assert services.addresses == services.addresses_elsewhere
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in services.environment()  # its own default is loopback
    assert "warning" not in _describe(services)


def test_services_for_other_machines_are_told_to_them_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_UI_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("softgrpo.flows.runtime.hosts.elsewhere", lambda host: "10.1.2.3")
    monkeypatch.setattr("softgrpo.flows.services.places.elsewhere", lambda host: "10.1.2.3")
    monkeypatch.setenv("SERVICES_HOST", "0.0.0.0")
    services = find_services(tmp_path)
    assert services.addresses["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"  # asked here, health checks too
    assert services.addresses_elsewhere["MLFLOW_TRACKING_URI"] == "http://10.1.2.3:5000"
    environment = services.environment()
    assert environment["SOFTGRPO_HOST"] == "0.0.0.0"
    assert environment["PREFECT_SERVER_UI_API_URL"] == "http://10.1.2.3:4200/api"
    hosts = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"10.1.2.3:*", f"{socket.gethostname()}:*", "localhost:*", "127.0.0.1:*"} <= set(hosts)
    assert "http://10.1.2.3:5000" in environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert environment["SOFTGRPO_ALLOWED_HOSTS"] == ",".join(host.removesuffix(":*") for host in hosts[1::2])
    told = _describe(services)
    assert "Prefect  http://127.0.0.1:4200\n" in told
    assert "export PREFECT_API_URL=http://10.1.2.3:4200/api MLFLOW_TRACKING_URI=http://10.1.2.3:5000\n" in told
    assert f"Both servers ask for user softgrpo and the password in {tmp_path}/services/password" in told
    assert "warning: anyone who has that password can make the worker run anything" in told
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mine:*")
    assert services.environment()["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mine:*"


def test_services_for_other_machines_ask_for_the_password_that_only_the_owner_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softgrpo.flows.runtime.hosts.elsewhere", lambda host: "10.1.2.3")
    monkeypatch.setattr("softgrpo.flows.services.places.elsewhere", lambda host: "10.1.2.3")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:of-another-server")
    services = Services(tmp_path, 4200, 5000, "0.0.0.0")
    assert services.credentials == {} and services.environment()["SOFTGRPO_MLFLOW_APP"] == ""
    services.folder.mkdir()
    file = make_password(services.folder)
    password = file.read_text().strip()
    assert len(password) >= 32 and file.stat().st_mode & 0o777 == 0o600
    assert make_password(services.folder).read_text().strip() == password  # the next start has the same
    clients = {
        "PREFECT_API_AUTH_STRING": f"softgrpo:{password}",
        "MLFLOW_TRACKING_USERNAME": "softgrpo",
        "MLFLOW_TRACKING_PASSWORD": password,
    }
    servers = {"PREFECT_SERVER_API_AUTH_STRING": f"softgrpo:{password}", "SOFTGRPO_CREDENTIALS": f"softgrpo:{password}"}
    assert services.credentials == clients
    assert (clients | servers).items() <= services.environment().items()
    assert services.environment()["SOFTGRPO_MLFLOW_APP"] == "--app-name softgrpo"
    assert Services(tmp_path, 4200, 5000).credentials == {}  # on loopback nobody is asked
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"services/password' is empty.*\[CONFIG-038\]"):
        services.environment()


def test_further_names_are_those_of_both_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SERVICES_ALLOWED_HOSTS", "proxy.example, other.example")
    environment = Services(tmp_path, 4200, 5000).environment()
    assert environment["SOFTGRPO_ALLOWED_HOSTS"] == "127.0.0.1,proxy.example,other.example,localhost"
    assert {"proxy.example", "proxy.example:*"} <= set(environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    assert "http://other.example:5000" in environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")


def test_the_servers_bind_to_the_host() -> None:
    written = (ROOT / "deployments/supervisord.conf").read_text(encoding="utf-8")
    assert written.count(" --host %(ENV_SOFTGRPO_HOST)s ") == 2 and "--host 127" not in written


def test_services_that_run_are_not_said_to_be_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Services, "is_running", lambda self: True)
    monkeypatch.setattr("softgrpo.flows.services.control._bring_up", lambda services: None)
    (tmp_path / "services").mkdir()
    (tmp_path / "services/ports.json").write_text('{"PREFECT_PORT": 4311, "MLFLOW_PORT": 5311}')
    monkeypatch.setenv("PREFECT_PORT", "4311")
    assert main(["start", "--output", str(tmp_path)]) == 0
    assert "http://127.0.0.1:4311\n" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_PORT", "5312")
    assert main(["start", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "MLFLOW_PORT=5312. The services of" in said and "with MLFLOW_PORT=5311. End them first (make stop" in said
    assert main(["env", "--output", str(tmp_path)]) == 0  # what runs can be asked after and ended all the same


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_start_that_fails_ends_what_it_started(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(services: Services) -> None:
        assert services.is_running()
        raise KeyboardInterrupt

    monkeypatch.setenv("PREFECT_PORT", str(free_port()))
    monkeypatch.setenv("MLFLOW_PORT", str(free_port()))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{tmp_path}/mlflow.db")  # nobody has to make it first
    monkeypatch.setattr("softgrpo.flows.services.health.PATIENCE_SECONDS", 0.1)
    if interrupted:
        monkeypatch.setattr("softgrpo.flows.services.control._bring_up", interrupt)
    assert main(["start", "--output", str(tmp_path)]) == (130 if interrupted else 1)
    said = capsys.readouterr().err
    assert str(tmp_path / "services") in said  # where the logs are
    assert ("interrupted. What this had started has ended" if interrupted else "Both servers must answer") in said
    assert not find_services(tmp_path).is_running()


def test_setting_up_is_no_shell_code(tmp_path: Path) -> None:
    """What the installer prints goes to a log: the standard output of `make env` is run by a shell."""
    python = tmp_path / "python3.11"
    script = """#!/bin/sh
    case "$*" in
      *flows.services.control*) echo 'export FOUND=yes' ;;
      "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo 'touch made-by-the-output' ;;
      "-c "*) ;;
      *) echo 'touch made-by-the-output' ;;
    esac
    """
    python.write_text(script)
    python.chmod(0o755)
    order = ["make", "-s", "env", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}"]
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(order, cwd=ROOT, capture_output=True, text=True, check=True, env=own)
    assert done.stdout == "export FOUND=yes\n"
    first, *steps = done.stderr.splitlines()
    assert first.startswith("Setting up") and len(steps) == 4
    assert all(re.fullmatch(r"  [^.]+ \.\.\. \d+ s", step) for step in steps), steps
    assert "touch made-by-the-output" in (tmp_path / "venv" / "setup.log").read_text()
