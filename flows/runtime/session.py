"""Prefect in this process: its environment and server first, then the console and the keys of the stages."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import softgrpo
from softgrpo.common.paths import stages_folder
from softgrpo.flows.runtime.environment import check_writable, mark_as_answering, prepare
from softgrpo.flows.runtime.own_server import OwnServer
from softgrpo.pipeline.store import LocalStore

_own_servers: list[OwnServer] = []
"""The server that this process has started, if it has; then PREFECT_API_URL names it."""


def begin_prefect(output: Path) -> None:
    """Sets the environment, and starts a Prefect server where that names none; call it before anything imports Prefect.

    Args:
        output: Folder of all that is written.

    Raises:
        StoreError: The folder cannot be written, or a server that the environment names does not answer.
    """
    if has_own_server():
        check_writable(output)  # the server may still be starting, see `open_prefect`
        return
    prepare(output)
    if "PREFECT_API_URL" in os.environ:
        return
    if "prefect" in sys.modules:
        raise RuntimeError("Prefect has read its settings already: call begin_prefect before Prefect is imported")
    server = OwnServer(output)
    os.environ["PREFECT_API_URL"] = server.address
    mark_as_answering(server.address)
    _own_servers.append(server)


def has_own_server() -> bool:
    """Whether Prefect's server is one that this process has started, which ends with it."""
    return os.environ.get("PREFECT_API_URL") in [server.address for server in _own_servers]


def open_prefect(output: Path, debug: bool = False) -> None:
    """Readies Prefect and the console for a flow in this process; call it after `begin_prefect` and the import of the flow.

    Args:
        output: Folder of all that is written.
        debug: Show on the console all that libraries log, tracebacks included.

    Raises:
        StoreError: The server that `begin_prefect` started does not answer, or MLflow.
    """
    from softgrpo.flows.runtime.console import make_readable
    from softgrpo.pipeline.keys import code_fingerprint, library_versions
    from softgrpo.stages.catalogue import EVERY
    from softgrpo.tasks.tracking.connection import open_early
    from softgrpo.tasks.tracking.runs import git_commit

    make_readable(debug)
    open_early(output, LocalStore(stages_folder(output)))
    for stage in EVERY:  # the keys of all stages need it, and the server takes longer to start than the imports
        code_fingerprint(stage.module)
        with suppress(PackageNotFoundError):  # a plan without such a stage does not need it
            library_versions(stage.libraries)
    git_commit(Path(softgrpo.__file__).parent)
    gc.freeze()  # what the imports made stays: looking through all of it takes a third of a second, in the middle of the flow
    for server in _own_servers:
        server.wait()
