"""`softgrpo watch [RUN]`: how far a run is, from another terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.parser import Commands, Parser, add_json, add_output
from softgrpo.flows.runtime.failures import OK

LOOKS_SECONDS = 1.0
LINE_SECONDS = 15.0

DESCRIPTION = """\
Shows how far a run is: its stages with state and time, the bar of the one at work, and about how long the rest takes. It looks
at the output folder once a second, until the run ends, and changes nothing; Ctrl-C ends the view and not the run. In a file or
a pipe it prints a line every 15 seconds and where a stage changes.

  RUN  id of an MLflow run, or its beginning (default: the newest one, a running one first)"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo watch [RUN] [--once] [--json]"
    parser = commands.add_parser("watch", prog="softgrpo watch", description=DESCRIPTION, usage=usage)
    parser.add_argument("RUN", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help="print how far it is now, and end")
    add_json(parser)
    add_output(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Finds the run and returns what shows it.

    Raises:
        SoftGRPOError: There is no such run.
    """
    from softgrpo.flows.results.live import as_record, find_run, plain_lines, read_progress

    path = find_run(arguments.RUN, arguments.output)
    read_progress(path, arguments.output)

    def job() -> int:
        if arguments.json:
            print_json(as_record(read_progress(path, arguments.output), time.time()))
        elif arguments.once:
            print(*plain_lines(read_progress(path, arguments.output), time.time()), sep="\n")
        else:
            with contextlib.suppress(KeyboardInterrupt):  # it ends the view and not the run
                (_draw if sys.stdout.isatty() else _tell)(path, arguments.output)
        return OK

    return job


def _draw(path: Path, output: Path) -> None:
    """Draws the run on a terminal until it ends."""
    from rich.live import Live

    from softgrpo.flows.results.live import AT_WORK, live_view, read_progress

    run = read_progress(path, output)
    with Live(live_view(run, time.time()), refresh_per_second=4, transient=False) as live:
        while run.state == AT_WORK:
            time.sleep(LOOKS_SECONDS)
            run = read_progress(path, output)
            live.update(live_view(run, time.time()))


def _tell(path: Path, output: Path) -> None:
    """Prints a line where a stage changes, and now and then, until the run ends."""
    from softgrpo.flows.results.live import AT_WORK, headline, plain_lines, read_progress

    states: Mapping[str, str] = {}
    due = 0.0
    while True:
        run, now = read_progress(path, output), time.time()
        present = {name: node.state for name, node in run.nodes.items()}
        if run.state != AT_WORK:
            print(*plain_lines(run, now), sep="\n", flush=True)
            return
        if present != states or now >= due:
            bars = [f"{name}: {node.bar or 'running'}" for name, node in run.nodes.items() if node.state == "running"]
            print("; ".join([headline(run, now), *bars]), flush=True)
            states, due = present, now + LINE_SECONDS
        time.sleep(LOOKS_SECONDS)
