"""How far a run is, in one small file that any process may read: `<output>/progress/<run>.json`.

The process of the run writes it when a stage begins or ends, and about once a second while a bar moves. Nothing depends on it: it
is a view for people (`softgrpo watch`). Whether the process still lives, its liveness lock says. Stages on other machines begin
unseen, since only this process writes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from softgrpo.common.files import make_private, written_whole
from softgrpo.errors import StoreError
from softgrpo.reporting import ProgressBar, Watch
from softgrpo.tasks.running.bar_words import in_words, seconds_left
from softgrpo.tasks.tracking.liveness import LivenessLocks

FOLDER = "progress"
SECONDS_BETWEEN_WRITES = 1.0
NodeState = Literal["waiting", "running", "done", "reused", "failed"]
RunState = Literal["running", "finished", "failed", "stopped", "killed"]
"""Of these a file never says killed: a reader says it of a run whose process is gone."""


@dataclass(frozen=True)
class NodeProgress:
    """How far a node is.

    Attributes:
        state: waiting, running, done (run now), reused (stored before) or failed.
        estimate: Seconds that it was expected to take, None where nothing was.
        began: When it began, in seconds since 1970; None before.
        ended: Likewise.
        bar: What its progress bar says, "" without one.
        left: Seconds until the bar ends, None where it does not tell.
        seen: When the bar said so.
    """

    state: NodeState = "waiting"
    estimate: float | None = None
    began: float | None = None
    ended: float | None = None
    bar: str = ""
    left: float | None = None
    seen: float | None = None


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes:
        run_id: MLflow run.
        name: Its name on pages.
        state: running, finished, failed or stopped (by a signal or Ctrl-C).
        began: In seconds since 1970.
        ended: Likewise, None before.
        lock: Name of the liveness lock of its process.
        nodes: By name, in the order of the plan.
    """

    run_id: str
    name: str
    state: RunState
    began: float
    ended: float | None
    lock: str
    nodes: Mapping[str, NodeProgress] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunProgress:
        """Reads a file.

        Raises:
            StoreError: It was not written by this version of softgrpo, or is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            nodes = {name: NodeProgress(**node) for name, node in values.pop("nodes").items()}
            read = cls(**values, nodes=nodes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path) from error
        states = {node.state for node in read.nodes.values()}
        if read.state not in get_args(RunState) or not states <= set(get_args(NodeState)):
            raise _damaged(path)
        return read


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"'{path}' does not tell how far a run is",
        "The process of a run writes it",
        "Remove it; the run itself does not need it",
        code="STORE-047",
    )


class ProgressFile:
    """Writes how far a run is; methods may be called from several threads.

    Args:
        path: The file.
        run: What is known when the run begins.
    """

    def __init__(self, path: Path, run: RunProgress) -> None:
        self._path, self._run, self._lock, self._due = path, run, threading.Lock(), 0.0
        self._write()

    def begin(self, node: str) -> None:
        """Notes that a stage begins to run."""
        self._change(node, state="running", began=time.time())

    def look(self, node: str, bar: ProgressBar) -> None:
        """Notes what a bar says, at most once a second; the bar of an evaluation, which vanishes at its end, is left out."""
        now = time.monotonic()
        if now >= self._due and bar.total and bar.leave:
            self._due = now + SECONDS_BETWEEN_WRITES
            words = bar.format_dict
            self._change(node, bar=in_words(words), left=seconds_left(words), seen=time.time())

    def end(self, node: str, state: NodeState) -> None:
        """Notes how a stage ended."""
        self._change(node, state=state, ended=time.time())

    def close(self, state: RunState) -> None:
        """Notes how the run ended; what was at work ended with it."""
        now = time.time()
        with self._lock:
            nodes = {
                name: replace(node, state="failed", ended=now) if node.state == "running" else node
                for name, node in self._run.nodes.items()
            }
            self._run = replace(self._run, state=state, ended=now, nodes=nodes)
            self._write()

    def _change(self, node: str, **values: object) -> None:
        with self._lock:
            changed = replace(self._run.nodes.get(node, NodeProgress()), **values)  # type: ignore[arg-type]
            self._run = replace(self._run, nodes={**self._run.nodes, node: changed})
            self._write()

    def _write(self) -> None:
        with written_whole(self._path) as aside:
            aside.write_text(json.dumps(asdict(self._run)), encoding="utf-8")


_open: dict[str, ProgressFile] = {}
"""Of the runs of this process, by id. A stage that another machine runs finds none there, and writes nothing."""


def note_begin(run_id: str, node: str) -> None:
    """Notes that a stage of a run of this process begins to run; nothing happens where the run has no file."""
    if file := _open.get(run_id):
        file.begin(node)


def note_end(run_id: str, node: str, state: NodeState) -> None:
    """Notes how a stage ended, as `note_begin`."""
    if file := _open.get(run_id):
        file.end(node, state)


def bar_watches(run_id: str, node: str) -> tuple[Watch, ...]:
    """Returns what looks at the bars of a stage: nothing where the run has no file."""
    file = _open.get(run_id)
    return () if file is None else (partial(file.look, node),)


@contextmanager
def progress_file(
    output: Path, locks: LivenessLocks, run_id: str, name: str, estimates: Mapping[str, float | None]
) -> Iterator[None]:
    """Writes how far a run is, until the block ends.

    Args:
        output: Folder of all that is written.
        locks: Of the same folder.
        run_id: MLflow run.
        name: Its name on pages.
        estimates: Seconds that each node of the plan will take, None where nothing is known.
    """
    path = make_private(output.resolve() / FOLDER) / f"{run_id}.json"
    nodes = {node: NodeProgress(estimate=seconds) for node, seconds in estimates.items()}
    state: RunState = "stopped"
    with locks.hold() as lock:
        file = ProgressFile(path, RunProgress(run_id, name, "running", time.time(), None, lock, nodes))
        _open[run_id] = file
        try:
            yield
            state = "finished"
        except Exception:  # broad: the run failed, and the error goes on to the caller
            state = "failed"
            raise
        finally:
            del _open[run_id]
            file.close(state)
            locks.remove(lock)
