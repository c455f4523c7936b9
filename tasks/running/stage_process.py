"""One stage in a process of its own, which `softgrpo.tasks.running.isolation` starts.

The first line of standard input says what to do, in JSON; messages are lines of JSON on standard output. Further lines of input are
the places of pieces that others have made for the stage. Standard input stays open as long as the process at its other end lives.
The system closes it however that process ends, `kill -9` included, and then this one ends too.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from softgrpo.common.redaction import hide_passwords, traceback_text, without_password
from softgrpo.config import ExperimentConfig
from softgrpo.errors import SoftGRPOError, full_disk_is_readable, lack_of_memory_is_readable
from softgrpo.pipeline.time_limit import time_limit
from softgrpo.reporting import Speaker, watched
from softgrpo.stages.contract import StageContext
from softgrpo.stages.pieces import InThisProcess, Pieces
from softgrpo.tasks.running.piece_files import PiecesElsewhere


def _write(channel: TextIO, message: list[Any]) -> None:
    """Writes one message, as a line of JSON."""
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def _end_with_parent(heard: SimpleQueue[int]) -> None:
    """Hears until the end of standard input, then ends this process; what it has not committed does not count."""
    for line in sys.stdin:
        heard.put(int(line))
    os.kill(os.getpid(), signal.SIGKILL)


def _run(order: Mapping[str, Any], speaker: Speaker, heard: SimpleQueue[int]) -> dict[str, float]:
    config = ExperimentConfig.model_validate(order["config"])
    inputs = {name: Path(folder) for name, folder in order["inputs"].items()}
    out, work = Path(order["out"]), Path(order["work"])
    pieces: Pieces = InThisProcess()
    if order["elsewhere"]:
        pieces = PiecesElsewhere(work, lambda asked: speaker.say("pieces", *asked), heard.get)
    context = StageContext(config, order["variant"], inputs, out, work, speaker, pieces)
    limit, memory = (
        time_limit(config.limits.stage_hours * 3600, order["node"]),
        lack_of_memory_is_readable(order["node"]),
    )
    with limit, full_disk_is_readable(), memory, watched(speaker.bar):
        metrics: dict[str, float] = importlib.import_module(order["module"]).run(context)
        return metrics


def main() -> None:
    """Runs the stage that standard input names."""
    order = json.loads(sys.stdin.readline())
    heard: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=_end_with_parent, args=[heard], daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)  # libraries may print, which is not a message
        speaker = Speaker(lambda message: _write(channel, message))
        hide_passwords()
        with speaker.only():
            try:
                speaker.say("done", _run(order, speaker, heard))
            except SoftGRPOError as error:
                speaker.say("refused", type(error).__name__, error.code, *error.args)
            except Exception as error:  # broad: the parent process raises it again
                speaker.say("failed", without_password(f"{type(error).__name__}: {error}"), traceback_text(error))


if __name__ == "__main__":
    main()
