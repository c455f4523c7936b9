"""Prefect's server of one process, where the environment names none.

Prefect would start such a server itself, but only when the flow begins, and after an import of all the server's code into this
process. Here the server starts while this process imports.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import requests

from softgrpo.common.paths import stages_folder
from softgrpo.errors import StoreError
from softgrpo.flows.runtime.empty_database import install_empty_database
from softgrpo.pipeline.store import LocalStore

PATIENCE_SECONDS = 120.0  # the first server of an output folder may have a database to make, on a busy machine
GRACE_SECONDS = 5.0
HERE = Path(__file__).parent
SLIM = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",  # no run loads any
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
"""What Prefect sets for its own temporary server, and one step less at its start."""


class OwnServer:
    """Starts the server; it ends with this process, however that ends.

    The server has a process group of its own: a terminal sends Ctrl-C to the whole foreground group, and a flow still has to
    report its end. After `kill -9` of this process the server ends itself, see `softgrpo.flows.runtime.tether`.

    Args:
        output: Folder of its log. Its database lies in PREFECT_HOME, which has to be set.
    """

    def __init__(self, output: Path) -> None:
        self._log = output / "prefect-server.log"
        self._starting = ExitStack()  # two first runs at once must not both make the database
        self._starting.enter_context(LocalStore(stages_folder(output)).lock("prefect"))
        install_empty_database(Path(os.environ["PREFECT_HOME"]))
        # -P: the folder of the two programs does not become a place of modules
        command = [sys.executable, "-P", str(HERE / "tether.py"), str(HERE / "server_program.py")]
        with socket.create_server(("127.0.0.1", 0)) as listening, self._log.open("ab") as log:
            self.address = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [*command, "--descriptor", str(listening.fileno())],
                env={**os.environ, **SLIM},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=[listening.fileno()],
            )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Waits until it answers. It listens from the beginning, so that a request waits for it, and no longer than it lives.

        Raises:
            StoreError: It does not start.
        """
        with self._starting:
            try:
                answer = requests.get(f"{self.address}/health", timeout=PATIENCE_SECONDS)
                answer.raise_for_status()
            except requests.RequestException as error:
                raise StoreError(
                    f"Prefect's server did not start ({type(error).__name__})",
                    f"Unless PREFECT_API_URL names one, a run has a server of its own, which answers within {PATIENCE_SECONDS:g} s",
                    f"Look into {self._log}, or name a server",
                    code="STORE-012",
                ) from error

    def stop(self) -> None:
        """Ends it."""
        self._starting.close()
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
