"""What all tests share: nothing outside the tests' own folders is read or written, and nothing phones home."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


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


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server for commands that would each start one of their own, which costs more than what they do."""
    from flows.own_server import OwnServer

    folder = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder / "home"))
        server = OwnServer(folder)
    server.wait()
    yield PrefectServer(server.address, folder / "home" / "prefect.db")
    server.stop()


@pytest.fixture(scope="session")
def prefect_address(prefect_server: PrefectServer) -> str:
    """Address of that server."""
    return prefect_server.address
