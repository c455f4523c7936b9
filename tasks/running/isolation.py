"""Stages in processes of their own, so that several can run at once.

RecBole keeps global state (seeds, loggers, the command line), and each stage would take all cores. So stages that run at the same
time share no process, and each gets its share of the cores. The child (`tasks/running/stage_process.py`) only runs the stage, which
fills a folder. The parent keeps the lock, the commit, MLflow and Prefect, and shows log, curves and progress bars.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from softgrpo.common.cores import THREADS
from softgrpo.common.interruption import end_at_once_next_time
from softgrpo.common.paths import path_of_this_code
from softgrpo.errors import ProcessError, SoftGRPOError
from softgrpo.reporting import Relay
from softgrpo.stages.contract import Node, StageContext
from softgrpo.tasks.running.piece_files import AskedPieces, MakeElsewhere

ERRORS = {kind.__name__: kind for kind in SoftGRPOError.__subclasses__()}


class Isolation:
    """Runs stages in processes of their own. A copy that is sent to another process has the same settings, and no stage at work.

    Args:
        threads: Threads of each process; None leaves that to the environment.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._ended = False

    def __reduce__(self) -> tuple[type[Isolation], tuple[int | None]]:
        return Isolation, (self.threads,)

    def node(self, node: Node, elsewhere: MakeElsewhere | None = None) -> Node:
        """Returns a node whose stage runs in a process of its own.

        Args:
            node: The stage.
            elsewhere: Has its pieces made; None leaves them to that process.
        """
        return replace(node, stage=replace(node.stage, run=partial(self._run, node, elsewhere)))

    @contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Ends all stages that are at work if the block ends by Ctrl-C or a signal, and lets no other begin."""
        try:
            yield
        except Exception:  # broad: an error of one stage is no reason to end another; it goes on to the caller
            raise
        except BaseException:  # broad: whatever else ends a run comes from outside; it goes on to the caller
            end_at_once_next_time()
            with self._lock:
                self._ended = True
                for child in self._children:
                    child.kill()
            raise

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, **path_of_this_code()}
        if self.threads is not None:
            environment[THREADS] = str(self.threads)
        with self._lock:
            if self._ended:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                [sys.executable, "-m", "softgrpo.tasks.running.stage_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                process_group=0,  # Ctrl-C of a terminal is for the process that started it, which ends it
            )
            self._children.add(child)
        return child

    def _run(self, node: Node, elsewhere: MakeElsewhere | None, context: StageContext) -> dict[str, float]:
        child = self._start()
        order = {
            "node": node.name,
            "module": node.stage.module,
            "config": context.config.model_dump(mode="json"),
            "variant": context.variant,
            "inputs": {name: str(folder) for name, folder in context.inputs.items()},
            "out": str(context.out),
            "work": str(context.work),
            "elsewhere": elsewhere is not None,
        }
        try:
            return _Listener(node.name, context, child, elsewhere).listen(json.dumps(order))
        finally:
            child.kill()  # nothing happens if it has ended by itself
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
            with self._lock:
                self._children.discard(child)
                if self._ended:
                    raise KeyboardInterrupt


class _Listener:
    """Reads the messages of a stage's process, and answers those that ask for pieces."""

    def __init__(
        self, node: str, context: StageContext, child: subprocess.Popen[str], elsewhere: MakeElsewhere | None
    ) -> None:
        self._node = node
        self._child = child
        self._elsewhere = elsewhere
        self._relay = Relay(context.reporter)

    def listen(self, order: str) -> dict[str, float]:
        child = self._child
        assert child.stdout is not None
        self._tell(order)
        try:
            for line in child.stdout:
                kind, *values = json.loads(line)
                if kind == "done":
                    return dict(values[0])
                self._take(kind, values)
        finally:
            self._relay.close()
        raise ProcessError(
            f"{self._node}: its process ended with code {child.wait()}",
            "It must come to its end; -9 means that it was killed, as the system does where memory is short, and -6 or -11 that a"
            " library gave up, as some do where they get no memory",
            "Let fewer stages run at once (--parallel 1), see docs/troubleshooting.md on memory, and run the same command again",
            code="PROCESS-002",
        )

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already; its last messages can still be read
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()

    def _take(self, kind: str, values: list[Any]) -> None:
        if self._relay.take(kind, values):
            return
        if kind == "pieces":
            assert self._elsewhere is not None, "it was told to make them itself"
            self._elsewhere(AskedPieces.of_message(*values), lambda place: self._tell(str(place)))
        elif kind == "refused":
            name, code, *words = values
            raise ERRORS[name](*words, code=code)
        else:
            message, place = values
            error = RuntimeError(message)
            error.add_note(place)
            raise error
