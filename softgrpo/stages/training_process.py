"""One of several processes that train together, which `softgrpo.stages.together` starts: `python -m ... NUMBER_OF_PIPE`.

The pipe brings what there is to do and takes what is said. It stays open as long as the process at its other end lives. The system
closes it however that process ends, `kill -9` included, and then this one ends too.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from softgrpo.common.redaction import hide_passwords, traceback_text, without_password
from softgrpo.errors import SoftGRPOError, full_disk_is_readable, lack_of_memory_is_readable
from softgrpo.reporting import Speaker, watched
from softgrpo.stages.contract import StageContext


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
    speaker = Speaker(channel.send, speaks=rank == 0)
    hide_passwords()
    what = f"process {rank} of the training"
    with speaker.only():
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
