"""Passwords are planted in the addresses of databases and servers, and looked for afterwards in every file and every table."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.reliability.runs import ROOT, Problem, free_port
from tests.support.warm import COMMAND, run_warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PASSWORD, OF_KEY = "pl4nted@p/ss w0rd", "pl4nted-too"
ENCODED = quote(PASSWORD, safe="")
NEEDLES = tuple(
    form.encode()
    for form in (
        PASSWORD,
        ENCODED,
        PASSWORD.split()[0],
        OF_KEY,
        base64.b64encode(f"softgrpo:{PASSWORD}".encode()).decode(),
    )
)
FAULT = f"""
import logging, os
from softgrpo.pipeline.store import LocalStore
_commit = LocalStore.commit
def commit(self, key, folder, digest=None):
    if key.startswith("sft-"):
        address = os.environ["MLFLOW_TRACKING_URI"]
        logging.getLogger("softgrpo.planted").warning("asking %s", address)
        try:
            raise OSError(f"no route to {{address}}")
        except OSError as error:
            raise RuntimeError(f"cannot reach {{address}} as softgrpo with {PASSWORD}") from error
    return _commit(self, key, folder, digest)
LocalStore.commit = commit
{COMMAND}
"""
"""A library that quotes the address that it was given, and the password as it has read it, in a warning and in an error."""


def dump(postgres: str, database: str) -> bytes:
    """Returns all that a database holds, as text."""
    place = urlsplit(f"//{postgres}")
    words = ["-h", "127.0.0.1", "-p", str(place.port), "-U", "softgrpo", database]
    pg_dump = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))[-1]
    return subprocess.run([str(pg_dump), *words], capture_output=True, check=True).stdout


def holding(folder: Path) -> list[Path]:
    """Returns the files of a folder that hold a password."""
    return [path for path in folder.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in NEEDLES)]


def test_planted_passwords_are_nowhere(make_problem: Callable[..., Problem], postgres: str, tmp_path: Path) -> None:
    at = postgres.replace("softgrpo@", f"softgrpo:{ENCODED}@")
    databases = {
        "MLFLOW_TRACKING_URI": f"postgresql+psycopg2://{at}/mlflow?sslpassword={OF_KEY}",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{at}/prefect",
    }
    problem = make_problem("planted", own_prefect=True)
    said = problem.start("--debug", stage="sft", environment=databases, program=FAULT).end(1)
    assert "asking postgresql+psycopg2://softgrpo:***@" in said
    assert "OSError: no route to postgresql+psycopg2://softgrpo:***@" in said  # the traceback is there
    assert "RuntimeError: cannot reach postgresql+psycopg2://softgrpo:***@" in said
    again = problem.start("--json", stage="sft", environment=databases).end()
    assert '"tracking": "postgresql+psycopg2://softgrpo:***@' in again

    tables = {name: dump(postgres, name) for name in ("mlflow", "prefect")}
    assert (
        b"cannot reach postgresql+psycopg2://softgrpo:***@" in tables["prefect"]
    )  # state, events and log of the flow run
    assert b"planted" in tables["mlflow"] and b"sft.learning_rate" in tables["mlflow"]
    for name, content in tables.items():
        assert not [word for word in NEEDLES if word in content], name
    assert holding(tmp_path) == []
    assert not list(problem.output.rglob("*.db"))  # all of it was in these databases


def test_commands_that_only_ask_show_none(tmp_path: Path) -> None:
    port = free_port()
    there = f"http://me:{ENCODED}@127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"{there}?token={OF_KEY}", "PREFECT_API_URL": f"{there}/api"}
    for words in (
        ["doctor"],
        ["doctor", "--json"],
        ["runs", "--debug"],
        ["run", "ml-100k", "debug", "tiny", "--debug"],
    ):
        done = run_warm([*words, "--output", str(tmp_path / "output")], ROOT, environment)
        said = done.stdout + done.stderr
        assert f"me:***@127.0.0.1:{port}" in said, words
        assert not [word for word in NEEDLES if word in said.encode()], words


def test_what_a_run_makes_is_its_owners_alone(make_problem: Callable[..., Problem]) -> None:
    """The output folder was there before, for all users to read, and keeps its mode; a second one is made by the run."""
    problem = make_problem("private", own_prefect=True)
    (old := problem.output).mkdir(mode=0o755)
    for output in (old, new := old.with_name("new")):
        replace(problem, output=output).run(stage="recall", program=f"import os; os.umask(0o022)\n{COMMAND}")
        folders = [path for path in output.iterdir() if path.is_dir()]
        assert {"mlartifacts", "prefect", "records", "stages"} <= {folder.name for folder in folders}
        assert [folder for folder in folders if folder.stat().st_mode & 0o777 != 0o700] == []
        for database in ("mlflow.db", "prefect/prefect.db"):
            assert (output / database).stat().st_mode & 0o777 == 0o600, database
    assert [folder.stat().st_mode & 0o777 for folder in (old, new)] == [0o755, 0o700]
