"""The wheel, built and installed beside other packages and files called `tasks` and `flows`: it has one name, and all it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.reliability.runs import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("wheel")]
ROOT = Path(__file__).parents[2]
FOREIGN = "raise ImportError('a module of somebody else was imported')\n"


def run(*words: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that has to succeed, in an environment that names no Python and no server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT_", "MLFLOW_"))}
    environment = kept | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, from a copy of what it is made of."""
    source = tmp_path_factory.mktemp("source")
    for name in ("softgrpo", "tasks", "flows", "deployments"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", ".", folder=source)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def tools(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel and packages called `tasks` and `flows`; libraries are those of this one."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=wheel.parent)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    run(*pip, wheel, folder=wheel.parent)
    asked = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=wheel.parent)
    packages = Path(asked.stdout.strip())
    for name in ("tasks", "flows"):
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(FOREIGN, encoding="utf-8")
    # only names the folder: the link to the clone in it, which site reads in a folder of its own, stays out
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return environment / "bin"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules of somebody else that have the names of our folders."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("tasks", "flows", "deployments"):
        (folder / f"{name}.py").write_text(FOREIGN, encoding="utf-8")
    return folder


def test_a_wheel_has_one_name_and_the_files_that_are_no_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"softgrpo"}
    inside = {name.removeprefix("softgrpo/") for name in names if name.startswith("softgrpo/")}
    folders = {"softgrpo": "", "flows": "flows/", "tasks": "tasks/", "deployments": "deployments/"}
    kinds = {".py", ".yaml", ".j2", ".conf", ".json", ".typed"}
    wanted = {
        place + path.relative_to(ROOT / folder).as_posix()
        for folder, place in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == wanted | {"py.typed"}


def test_the_debug_job_runs_where_others_have_the_same_names(tools: Path, workplace: Path) -> None:
    where = run(tools / "python", "-c", "import softgrpo; print(softgrpo.__file__)", folder=workplace)
    assert Path(where.stdout.strip()).is_relative_to(tools.parent)
    done = run(tools / "softgrpo", "run", "ml-100k", "debug", "tiny", "--parallel", "2", folder=workplace)
    assert "SofT-GRPO multi" in done.stdout and "softgrpo services" in done.stdout
    again = run(tools / "softgrpo", "runs", "--json", folder=workplace)
    assert [each["status"] for each in json.loads(again.stdout)] == ["FINISHED"]


def test_other_programs_keep_the_artifacts_of_mlflow(tools: Path, workplace: Path) -> None:
    code = (
        "from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories as kinds\n"
        "print(kinds()['mlflow-artifacts'].__module__)"
    )
    assert "softgrpo" not in run(tools / "python", "-c", code, folder=workplace).stdout


def test_services_run_deployments_where_others_have_the_same_names(tools: Path, workplace: Path) -> None:
    """After the debug job, whose stages this run takes."""
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    started = run(tools / "softgrpo", "services", folder=workplace, **ports)
    try:
        assert 'For a shell: eval "$(softgrpo env)"' in started.stdout
        assert f"{workplace}/data" in started.stdout
        run(tools / "softgrpo", "deploy", folder=workplace, **ports)
        shell = 'eval "$(' + str(tools / "softgrpo") + ' env)"; python -m prefect deployment run softgrpo/debug --watch'
        watched = run("bash", "-ec", shell, folder=workplace, **ports)
        assert "Flow run finished successfully in 'Completed'" in watched.stdout
    finally:
        run(tools / "softgrpo", "stop", folder=workplace, **ports)
