"""What the orders of `make` say, and that a shell does what it is told: no server is needed for that."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.services import ROOT, Services, deploy, main
from softgrpo.errors import StoreError

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
    monkeypatch.setattr("flows.services.find_services", lambda output: running)
    monkeypatch.setattr(Services, "is_running", lambda self: True)
    assert main(["env"]) == 0
    exported = dict(line.removeprefix("export ").split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert exported.keys() == {"PATH", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"}
    assert exported["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"


def test_hints_name_the_output_folder_where_it_is_another(tmp_path: Path) -> None:
    assert Services(ROOT / "outputs", 4200, 5000).make("-s env") == "make -s env"
    elsewhere = Services(tmp_path / "my results", 4200, 5000)
    assert shlex.split(elsewhere.make("-s env"))[2:] == ["env", f"OUTPUT={tmp_path}/my results"]
    with pytest.raises(StoreError, match=r"make services OUTPUT='.*my results'"):
        deploy(elsewhere)


def test_every_deployment_writes_into_the_output_folder_that_it_was_registered_for(tmp_path: Path) -> None:
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert {each["parameters"]["output"] for each in deployments} == {"{{ $SOFTGRPO_OUTPUT }}"}
    assert Services(tmp_path, 4200, 5000).environment()["SOFTGRPO_OUTPUT"] == str(tmp_path)
    assert "SOFTGRPO_OUTPUT=outputs " in (ROOT / "docker/setup.sh").read_text(encoding="utf-8")
