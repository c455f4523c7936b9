"""Commands in processes that have the large libraries imported already, which takes longer than what the small problems compute.

A fork server (one for each test process) imports them once; each command is a fork of it, in a session, folder, environment and
with a log of its own, as `subprocess.Popen` would start it. It can be killed, frozen and interrupted like any other process.
Nothing of this project is imported beforehand, nor Prefect, which reads the environment when it is imported.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "trl.trainer.base_trainer",
    "peft",
    "accelerate",
    "mlflow.store.tracking.sqlalchemy_store",
    "recbole.data.dataset",
    "recbole.trainer",
    "sklearn.ensemble",
    "matplotlib.pyplot",
    "optuna",
    "pandas",
    "pyarrow.parquet",
)

COMMAND = "import runpy; runpy.run_module('flows.cli', run_name='__main__', alter_sys=True)"
"""What `python -m softgrpo.flows.cli` does, and the command `softgrpo`."""
_servers = multiprocessing.get_context("forkserver")


class WarmProcess:
    """One command; the methods are those of `subprocess.Popen` that the tests need.

    Args:
        code: What `python -c` would run.
        words: Its arguments.
        folder: Working directory.
        environment: All its environment variables.
        log: Takes its standard output and standard error.
        errors: Takes its standard error instead, if given.
    """

    def __init__(
        self,
        code: str,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        errors: Path | None = None,
    ) -> None:
        for path in (log, errors or log):
            path.touch()  # whoever watches finds it at once
        _servers.set_forkserver_preload(list(LIBRARIES))
        self._process = _servers.Process(
            target=_command, args=(code, list(words), folder, dict(environment), log, errors or log)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"it still runs after {timeout} s"
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal to this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends this process alone as `kill -9` does."""
        self.send_signal(signal.SIGKILL)


def run_warm(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], code: str = COMMAND, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Makes a whole run, as `subprocess.run` would with captured text; arguments as of `WarmProcess`."""
    with tempfile.TemporaryDirectory() as place:
        printed, logged = Path(place) / "printed", Path(place) / "logged"
        status = WarmProcess(code, words, folder, environment, printed, logged).wait(timeout)
        return subprocess.CompletedProcess(list(words), status, printed.read_text(), logged.read_text())


def _command(code: str, words: list[str], folder: Path, environment: dict[str, str], log: Path, errors: Path) -> None:
    """Becomes `python -c code words`, and ends as that would."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((log, 1), (errors, 2)):
        with path.open("ab") as said:
            os.dup2(said.fileno(), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *words]
    sys.path.insert(0, str(folder))
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end, and a fork does not
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
