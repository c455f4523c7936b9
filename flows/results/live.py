"""How far runs are, read from their progress files: which run is meant, how long it still takes, and what people see of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softgrpo.common.paths import stages_folder
from softgrpo.common.text import counted, visible
from softgrpo.errors import ConfigError, StoreError
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.running.bar_words import duration
from softgrpo.tasks.running.progress_file import FOLDER, NodeProgress, RunProgress
from softgrpo.tasks.tracking.liveness import LivenessLocks

if TYPE_CHECKING:
    from rich.console import Group

LEAST_CHARACTERS = 6
"""Of the beginning of an id."""
AT_WORK, KILLED = "running", "killed"


def find_run(run_id: str | None, output: Path) -> Path:
    """Returns the progress file of a run.

    Args:
        run_id: Its id, or six or more characters from its beginning; None takes the newest, one that is running first.
        output: Folder of all that runs write.

    Raises:
        ConfigError: There is none, or several ids begin so.
    """
    folder = output.resolve() / FOLDER
    paths = list(folder.glob("[!.]*.json"))
    if run_id is None:
        runs = {path: run for path in paths if (run := _read_if_whole(path, output)) is not None}
        if not runs:
            raise ConfigError(
                f"--output {output}",
                "No run has left word there of how far it is; `standalone` runs and earlier versions leave none",
                "Start one: softgrpo run, and give it some seconds; or name the folder that it writes to",
                code="CONFIG-116",
            )
        return max(runs, key=lambda path: (runs[path].state == AT_WORK, runs[path].began))
    exact = [path for path in paths if path.stem == run_id]
    found = exact or [path for path in paths if len(run_id) >= LEAST_CHARACTERS and path.stem.startswith(run_id)]
    if len(found) != 1:
        several = f"Several runs begin so: {', '.join(path.stem for path in found)}"
        raise ConfigError(
            f"run '{run_id}'",
            several if found else f"No run of that id has left word in {folder} of how far it is",
            "`softgrpo runs` lists the ids; six characters from the beginning of one are enough",
            code="CONFIG-117",
        )
    return found[0]


def _read_if_whole(path: Path, output: Path) -> RunProgress | None:
    """Returns what a file says, None where it cannot be read."""
    try:
        return read_progress(path, output)
    except StoreError:
        return None


def read_progress(path: Path, output: Path) -> RunProgress:
    """Returns how far a run is; killed where it says that it runs and its process is gone.

    Args:
        path: From `find_run`.
        output: Folder of all that runs write.

    Raises:
        StoreError: The file is damaged.
    """
    run = RunProgress.read(path)
    if run.state == AT_WORK and LivenessLocks.of(LocalStore(stages_folder(output))).is_dead(run.lock):
        return replace(run, state="killed")
    return run


def seconds_left(run: RunProgress, now: float) -> float | None:
    """Returns about how many seconds a run still takes, None where nothing is known of a node that is not finished.

    A node at work takes what its bar says, else what is left of its estimate; one that waits takes its estimate.
    """
    total = 0.0
    for node in run.nodes.values():
        if node.state == "running":
            left = _left_of(node, now)
        elif node.state == "waiting":
            left = node.estimate
        else:
            continue
        if left is None:
            return None
        total += left
    return total


def _left_of(node: NodeProgress, now: float) -> float | None:
    if node.left is not None and node.seen is not None:
        return max(0.0, node.left - (now - node.seen))
    if node.estimate is None or node.began is None:
        return None
    return max(0.0, node.estimate - (now - node.began))


def headline(run: RunProgress, now: float) -> str:
    """Returns how far a run is in one line."""
    done = sum(node.state in ("done", "reused") for node in run.nodes.values())
    words = [f"run {run.run_id}", visible(run.name), f"{done} of {counted(len(run.nodes), 'stage')}"]
    if run.state == AT_WORK:
        left = seconds_left(run, now)
        words.append(f"running for {duration(now - run.began)}")
        words += [f"about {duration(left)} left"] if left is not None else []
    elif run.ended is not None:
        words.append(f"{run.state} after {duration(run.ended - run.began)}")
    else:
        words.append(f"{run.state}: its process is gone; the same command goes on from the finished stages")
    return ", ".join(words)


def stage_lines(run: RunProgress, now: float) -> Iterator[tuple[str, str, str, str]]:
    """Gives name, state, time and bar of each node."""
    for name, node in run.nodes.items():
        killed = node.state == "running" and run.state == KILLED
        time = ""
        if node.began is not None and not killed:
            time = duration((now if node.ended is None else node.ended) - node.began)
        elif node.state == "waiting" and node.estimate is not None and run.state == AT_WORK:
            time = f"about {duration(node.estimate)}"
        bar = node.bar if node.state == "running" and not killed else ""
        yield name, KILLED if killed else node.state, time, visible(bar)


def plain_lines(run: RunProgress, now: float) -> list[str]:
    """Returns what a file or a pipe gets."""
    rows = [f"  {name:<18} {state:<8} {time:<12} {bar}".rstrip() for name, state, time, bar in stage_lines(run, now)]
    return [headline(run, now), *rows]


def live_view(run: RunProgress, now: float) -> Group:
    """Returns what a terminal shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "state", "time", ""):
        table.add_column(heading)
    colours = {"done": "green", "reused": "dim", AT_WORK: "bold", "failed": "red", KILLED: "red", "waiting": "dim"}
    for name, state, time, bar in stage_lines(run, now):
        table.add_row(Text(name), Text(state, style=colours[state]), Text(time), Text(bar))
    return Group(Text(headline(run, now)), table)


def as_record(run: RunProgress, now: float) -> dict[str, Any]:
    """Returns what a machine reads: the file, with the seconds that are left."""
    return {**asdict(run), "seconds_left": seconds_left(run, now) if run.state == AT_WORK else None}
