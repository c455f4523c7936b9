"""One of several processes that train together, which `softgrpo.stages.together` starts: `python -m ... NUMBER_OF_PIPE`.

The pipe brings what there is to do and takes what is said. It stays open as long as the process at its other end lives. The system
closes it however that process ends, `kill -9` included, and then this one ends too.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from softgrpo.common.redaction import hide_passwords, traceback_text, without_password
from softgrpo.errors import SoftGRPOError, full_disk_is_readable, lack_of_memory_is_readable
from softgrpo.reporting import ProgressBar, watched
from softgrpo.stages.contract import StageContext


class Speaker(logging.Handler):
    """Says what the first process reports and logs, and how far it is; the others say only how they end.

    Args:
        channel: The pipe.
        speaks: Whether this is the first one.
    """

    def __init__(self, channel: Connection, speaks: bool) -> None:
        super().__init__()
        self._channel, self._speaks = channel, speaks

    def say(self, *message: Any) -> None:
        """Says something, whichever process this is: how it ends."""
        self.acquire()  # threads of a library log too
        try:
            self._channel.send(message)
        finally:
            self.release()

    def _report(self, *message: Any) -> None:
        if self._speaks:
            self.say(*message)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""
        self._report("metrics", {name: float(value) for name, value in values.items()}, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self._report("info", message)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes what was logged."""
        self._report("log", record.name, record.levelno, self.format(record))

    def bar(self, bar: ProgressBar) -> None:
        """Takes a progress bar; that of an evaluation, which vanishes at its end, would hide the training's and is left out."""
        if bar.leave:
            self._report("bar", [id(bar), bar.desc, bar.total, bar.unit], bar.n, bar.postfix)


def _end_with(channel: Connection) -> None:
    """Waits for the end of the pipe, then ends this process."""
    try:
        channel.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)


def _train(order: Mapping[str, Any], rank: int, speaker: Speaker) -> dict[str, float]:
    import torch

    config, variant, inputs, out, work = order["context"]
    on_gpus = config.train.device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        init_method=order["rendezvous"],
        rank=rank,
        world_size=config.train.processes,
    )
    context = StageContext(config, variant, inputs, out, work, speaker)
    metrics: dict[str, float] = importlib.import_module(order["module"]).train(context)
    torch.distributed.destroy_process_group()
    return metrics


def main() -> None:
    """Trains as the pipe says."""
    channel, rank = Connection(int(sys.argv[1])), int(os.environ["RANK"])
    order = channel.recv()
    threading.Thread(target=_end_with, args=[channel], daemon=True).start()
    speaker = Speaker(channel, speaks=rank == 0)
    hide_passwords()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stderr = nowhere  # bars are drawn by the process that started this one, see `Speaker.bar`
        logging.captureWarnings(True)
        logging.getLogger().addHandler(speaker)
        logging.getLogger("softgrpo").setLevel(logging.INFO)
        what = f"process {rank} of the training"
        try:
            with full_disk_is_readable(), lack_of_memory_is_readable(what), watched(speaker.bar):
                metrics = _train(order, rank, speaker)
            speaker.say("done", metrics)
        except SoftGRPOError as error:
            speaker.say("failed", time.monotonic(), error)
        except Exception as error:  # broad: the process that started this one raises it again
            failure = RuntimeError(without_password(f"{type(error).__name__}: {error}"))
            failure.add_note(traceback_text(error))
            speaker.say("failed", time.monotonic(), failure)


if __name__ == "__main__":
    main()
