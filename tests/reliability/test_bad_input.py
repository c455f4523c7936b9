"""Orders that cannot be carried out: one clear error within ten seconds, and nothing written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import (
    RECALLERS,
    ROOT,
    Api,
    Problem,
    Tracked,
    flags,
    free_port,
    stages_run,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 10.0
"""Of computing: nothing is waited for here, and other tests run beside these. Silent addresses:
tests/tasks/tracking/test_connection.py."""


def computed() -> float:
    """Returns the seconds that processes which were started here and have ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all files below a folder but logs and locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts and path.suffix != ".log" and "prefect" not in path.parts
    }


def refused(problem: Problem, *words: str, **options: Any) -> str:
    """Gives an order that is refused in time, checks that nothing was written, and returns what was said."""
    before = contents(problem.output) if problem.output.exists() else {}
    began = computed()
    run = problem.start(*words, **options)
    code = run.process.wait(timeout=120)
    seconds = computed() - began
    said = run.said()
    assert code in (1, 2), said
    assert "Traceback" not in said and stages_run(said) == []
    assert (contents(problem.output) if problem.output.exists() else {}) == before
    assert seconds < SECONDS, f"{seconds:.1f} s: {said}"
    (line,) = [line for line in said.splitlines() if line.startswith("softgrpo: ")]
    return line


@pytest.fixture
def finished(make_problem: Callable[..., Problem], services: Services) -> tuple[Problem, str]:
    """A problem whose first stages are made, and the MLflow run of that pipeline."""
    problem = make_problem("finished", services)
    problem.run(stage="data")
    return problem, str(Tracked(problem).runs("tags.stage = 'pipeline'")[-1].info.run_id)


def pipelines(problem: Problem) -> int:
    """Returns how many runs of pipelines MLflow has."""
    return len(Tracked(problem).runs("tags.stage = 'pipeline'"))


def test_runs_to_start_from(
    finished: tuple[Problem, str], make_problem: Callable[..., Problem], services: Services
) -> None:
    problem, run_id = finished
    before = pipelines(problem)
    unknown = refused(problem, "--from-run", "0" * 32, stage="sft")
    assert "0" * 32 in unknown and unknown.endswith("[CONFIG-083]")
    another_pool = refused(problem, "--from-run", run_id, "--recbole_models", "BPR", "Pop", stage="sft")
    assert "recall.recallers" in another_pool and another_pool.endswith("[CONFIG-086]")
    another_dataset = refused(make_problem("another", services), "--from-run", run_id, stage="sft")
    assert "data.dataset = finished" in another_dataset and another_dataset.endswith("[CONFIG-086]")
    assert pipelines(problem) == before  # nor was anything written to MLflow


def test_a_newer_store(finished: tuple[Problem, str]) -> None:
    problem, _ = finished
    mark = next((problem.output / "stages").glob("split-*.json"))
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "format": 99}))
    said = refused(problem, stage="data")
    assert "store format 99" in said and said.endswith("[STORE-022]")


def test_an_address_that_does_not_answer(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("nobody", own_prefect=True)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        address = f"http://127.0.0.1:{free_port()}"
        said = refused(problem, stage="data", environment={name: address})
        assert f"{name}={address}" in said and said.endswith("[STORE-029]")
    assert contents(problem.output) == {}


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A folder that nobody can write to, not even root."""
    if os.geteuid() != 0:
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o500)
        return folder
    return Path("/proc/self")


def test_a_folder_without_the_right_to_write(make_problem: Callable[..., Problem], read_only: Path) -> None:
    problem = make_problem("unwritable")
    command = [
        sys.executable,
        "-m",
        "softgrpo.flows.cli",
        "run",
        "unwritable",
        "data",
        "tiny",
        "--recbole_models",
        *RECALLERS,
    ]
    words = flags(problem.settings())
    began = computed()
    done = subprocess.run(
        [*command, *words, "--output", str(read_only / "output")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert computed() - began < SECONDS
    assert done.returncode == 2 and f"--output {read_only / 'output'}" in done.stderr and "[STORE-006]" in done.stderr


def prefect(services: Services, *words: str) -> subprocess.CompletedProcess[str]:
    """Gives an order to Prefect's own command."""
    environment: Mapping[str, str] = {
        **os.environ,
        **services.addresses,
        "PREFECT_HOME": str(services.output / "prefect"),
    }
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def flow_runs(services: Services) -> set[str]:
    """Returns the ids of Prefect's flow runs."""
    listed = prefect(services, "flow-run", "ls", "--limit", "200", "--output", "json").stdout
    return {str(run["id"]) for run in json.loads(listed)}


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("datset=ml-1m", "datset"),
        ("size=enormous", "size"),
        ("until=nowhere", "until"),
        ('frequent={"k": 0}', "0 is less than the minimum of 1"),
    ],
)
def test_parameters_of_a_deployment(parameter: str, said: str, services: Services) -> None:
    before = flow_runs(services)
    began = computed()
    done = prefect(services, "deployment", "run", "softgrpo/full", "-p", parameter)
    assert computed() - began < SECONDS
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert flow_runs(services) == before


def test_a_deployment_refuses_in_its_flow_what_only_the_data_can_tell(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    """A dataset that is not there: the flow run fails at once, and nothing is written."""
    problem, api = make_problem("known", services), Api(services)
    flow_run = api.start(replace(problem, dataset="unknown"), "data")
    assert api.end(flow_run, seconds=60) == "FAILED"
    wait_until(
        lambda: "unknown" in api.lines(flow_run), "its log names the dataset", 60
    )  # the log comes behind the state
    assert not (problem.output / "stages").exists()


def test_memory_that_runs_out_in_a_stage(tmp_path: Path) -> None:
    """A limit of the shell: embeddings of 944 users by two million numbers take 7.5 GB."""
    settings = ["--recbole_models", "BPR", "Pop", "--recall.settings.BPR.embedding_size", "2000000"]
    command = [sys.executable, "-m", "softgrpo.flows.cli", "standalone", *settings, "--output", str(tmp_path)]
    most = 7 * 10**9
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("softgrpo: ")]
    assert line.startswith("softgrpo: recall-BPR: ") and line.endswith("[MEMORY-001]")
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "stages").glob("recall-BPR*")] == []


def test_a_socks_proxy_without_its_packages(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("proxied", own_prefect=True)
    said = refused(problem, stage="data", environment={"ALL_PROXY": "socks5://me:secret@127.0.0.1:9"})
    assert "socks5://127.0.0.1" in said and said.endswith("[CONFIG-079]") and "secret" not in said
