"""What all tests share: nothing outside the tests' own folders is read or written, and nothing phones home."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
for variable in ("SOFTGRPO_DATA", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
    os.environ.pop(variable, None)


LONGEST_FIRST = (
    "test_main_job.py",
    "test_killed.py",
    "test_servers.py",
    "test_editor.py",
    "test_dask.py",
    "test_tutorial.py",
    "test_group_commands.py",
    "test_store.py",
    "test_gpu.py",
)
"""What takes long begins early; short files come last and fill the gaps."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, and tests of the same servers into the same process."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        if "services" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("cluster" if "cluster" in item.fixturenames else "services"))


@pytest.fixture(autouse=True, scope="module")
def no_address_is_left() -> Iterator[None]:
    """MLflow leaves the address of a store in the environment; the next file of tests must not find it there."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@dataclass(frozen=True)
class PrefectServer:
    """A running server.

    Attributes:
        address: Of its interface.
        database: Its SQLite file.
    """

    address: str
    database: Path

    def copy_database(self, home: Path) -> None:
        """Gives another server's home the tables of this one, which would take it ten seconds to make."""
        home.mkdir(parents=True)
        with (
            closing(sqlite3.connect(self.database)) as source,
            closing(sqlite3.connect(home / self.database.name)) as copy,
        ):
            source.backup(copy)


@contextmanager
def _prefect_server(folder: Path) -> Iterator[PrefectServer]:
    from softgrpo.flows.runtime.own_server import OwnServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder / "home"))
        server = OwnServer(folder)
    server.wait()
    yield PrefectServer(server.address, folder / "home" / "prefect.db")
    server.stop()


_SHARED = pytest.StashKey[PrefectServer]()


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_configure_node(node: Any) -> None:
    """Starts one server for all test processes, in the process that distributes the tests; only slow tests need it."""
    config = node.config
    if "not slow" in config.getoption("markexpr"):
        return
    if _SHARED not in config.stash:
        up = ExitStack()
        config.add_cleanup(up.close)
        folder = Path(up.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        config.stash[_SHARED] = up.enter_context(_prefect_server(folder))
    server = config.stash[_SHARED]
    node.workerinput["prefect_server"] = (server.address, str(server.database))


@pytest.fixture(scope="session")
def prefect_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server for commands that would each start one of their own, which costs more than what they do."""
    if given := getattr(request.config, "workerinput", {}).get("prefect_server"):
        yield PrefectServer(given[0], Path(given[1]))
    else:
        with _prefect_server(tmp_path_factory.mktemp("prefect")) as server:
            yield server


@pytest.fixture(scope="session")
def prefect_address(prefect_server: PrefectServer) -> str:
    """Address of that server."""
    return prefect_server.address
