"""One stage in a process of its own, which `softgrpo.tasks.running.isolation` starts.

The first line of standard input says what to do, in JSON; messages are lines of JSON on standard output. Further lines of input are
the places of pieces that others have made for the stage. Standard input stays open as long as the process at its other end lives.
The system closes it however that process ends, `kill -9` included, and then this one ends too.
"""

from __future__ import annotations

import importlib
import json
import logging
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
from softgrpo.reporting import ProgressBar, watched
from softgrpo.stages.contract import StageContext
from softgrpo.stages.pieces import InThisProcess, Pieces
from softgrpo.tasks.running.piece_files import PiecesElsewhere


class MessageWriter(logging.Handler):
    """Writes messages for the parent process: what a stage reports and logs, and how far it is.

    Args:
        channel: Standard output of this process.
    """

    def __init__(self, channel: TextIO) -> None:
        super().__init__()
        self._channel = channel

    def write(self, kind: str, *values: Any) -> None:
        """Writes one message, as a line of JSON."""
        self.acquire()  # threads of a library log too
        try:
            self._channel.write(json.dumps([kind, *values]) + "\n")
            self._channel.flush()
        finally:
            self.release()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""
        self.write("metrics", {name: float(value) for name, value in values.items()}, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self.write("info", message)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes what was logged."""
        self.write("log", record.name, record.levelno, self.format(record))

    def bar(self, bar: ProgressBar) -> None:
        """Takes a progress bar; that of an evaluation, which vanishes at its end, would hide the training's and is left out."""
        if bar.leave:
            self.write("bar", [id(bar), bar.desc, bar.total, bar.unit], bar.n, bar.postfix)


def _end_with_parent(heard: SimpleQueue[int]) -> None:
    """Hears until the end of standard input, then ends this process; what it has not committed does not count."""
    for line in sys.stdin:
        heard.put(int(line))
    os.kill(os.getpid(), signal.SIGKILL)


def _run(order: Mapping[str, Any], writer: MessageWriter, heard: SimpleQueue[int]) -> dict[str, float]:
    config = ExperimentConfig.model_validate(order["config"])
    inputs = {name: Path(folder) for name, folder in order["inputs"].items()}
    out, work = Path(order["out"]), Path(order["work"])
    pieces: Pieces = InThisProcess()
    if order["elsewhere"]:
        pieces = PiecesElsewhere(work, lambda asked: writer.write("pieces", *asked), heard.get)
    context = StageContext(config, order["variant"], inputs, out, work, writer, pieces)
    limit, memory = (
        time_limit(config.limits.stage_hours * 3600, order["node"]),
        lack_of_memory_is_readable(order["node"]),
    )
    with limit, full_disk_is_readable(), memory, watched(writer.bar):
        metrics: dict[str, float] = importlib.import_module(order["module"]).run(context)
        return metrics


def main() -> None:
    """Runs the stage that standard input names."""
    order = json.loads(sys.stdin.readline())
    heard: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=_end_with_parent, args=[heard], daemon=True).start()
    with (
        os.fdopen(os.dup(1), "w", encoding="utf-8") as channel,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
    ):
        os.dup2(2, 1)  # libraries may print, which is not a message
        sys.stderr = nowhere  # bars are drawn by the process that started this one, see `MessageWriter.bar`
        writer = MessageWriter(channel)
        hide_passwords()
        logging.captureWarnings(True)
        logging.getLogger().addHandler(writer)
        logging.getLogger("softgrpo").setLevel(logging.INFO)
        try:
            writer.write("done", _run(order, writer, heard))
        except SoftGRPOError as error:
            writer.write("refused", type(error).__name__, error.code, *error.args)
        except Exception as error:  # broad: the parent process raises it again
            writer.write("failed", without_password(f"{type(error).__name__}: {error}"), traceback_text(error))


if __name__ == "__main__":
    main()
