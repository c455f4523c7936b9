"""A training by several processes of this machine, which its stage starts, listens to and ends.

Each runs the stage's `train` (`softgrpo/stages/training_process.py`) as one rank of torch.distributed, as `accelerate launch` would
start it: by gloo on the CPU, by nccl on GPUs. The first writes the files and reports. None outlives the process that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from softgrpo.common.cores import THREADS, free_cores
from softgrpo.common.paths import path_of_this_code
from softgrpo.config import ExperimentConfig, TrainConfig
from softgrpo.errors import ConfigError, ProcessError, SoftGRPOError
from softgrpo.reporting import Relay, Reporter
from softgrpo.stages.contract import StageContext

GRACE_SECONDS = 10.0
"""How long the others are listened to after one has failed: they fail for want of it, and may be heard before the cause is."""
LOOPBACK = ("lo", "lo0")
"""Names of the interface that nobody else can reach."""


@dataclass(frozen=True)
class Member:
    """One of the processes.

    Attributes:
        rank: Its number, from 0.
        process: The process.
        channel: This end of the pipe to it.
    """

    rank: int
    process: subprocess.Popen[bytes]
    channel: Connection


def check_gpus(train: TrainConfig) -> None:
    """Checks that each process of a training gets a GPU of its own, where it runs on GPUs.

    Raises:
        ConfigError: There are fewer.
    """
    if train.processes == 1 or train.device == "cpu":
        return
    import torch  # seconds that other runs need not wait for

    if torch.cuda.is_available() and torch.cuda.device_count() < train.processes:
        raise ConfigError(
            f"train.processes = {train.processes} on {socket.gethostname()}, where torch sees {torch.cuda.device_count()} GPU",
            "Each process that trains has a GPU of its own",
            "Lower train.processes, show more GPUs (CUDA_VISIBLE_DEVICES), or train on the CPU (--train.device cpu)",
            code="CONFIG-118",
        )


def train_together(context: StageContext, module: str) -> dict[str, float]:
    """Runs a stage's `train` in `train.processes` processes; the first one fills the folder.

    Args:
        context: Of the stage.
        module: The stage's module.

    Returns:
        What the first one returns.

    Raises:
        SoftGRPOError: What one of them raised; or one of them was ended from outside.
    """
    train = context.config.train
    check_gpus(train)
    context.reporter.info(f"{train.processes} processes train together")
    members: list[Member] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            members += (_start(rank, train.processes) for rank in range(train.processes))
            for member in members:
                with suppress(BrokenPipeError):  # it has ended already, which is seen when it is listened to
                    member.channel.send(_order(context, module, member.rank, Path(folder)))
            return _Listener(context.reporter).listen(members)
        finally:
            for member in members:
                member.process.kill()  # nothing happens if it has ended by itself
            for member in members:
                member.process.wait()
                member.channel.close()


def _start(rank: int, count: int) -> Member:
    here, there = Pipe()
    threads = str(max(1, free_cores() // count))
    interface = next((name for _, name in socket.if_nameindex() if name in LOOPBACK), None)
    environment = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # parameters without a gradient are looked for on purpose
    environment |= {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    environment |= os.environ | path_of_this_code() | {THREADS: threads}
    environment |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    with there:
        process = subprocess.Popen(
            [sys.executable, "-m", "softgrpo.stages.training_process", str(there.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # libraries may print, which is nothing that this process says
            env=environment,
            pass_fds=[there.fileno()],
            process_group=0,  # Ctrl-C of a terminal is for the process that started it, which ends it
        )
    return Member(rank, process, here)


def _order(context: StageContext, module: str, rank: int, folder: Path) -> dict[str, Any]:
    """Returns what a process gets to know; all but the first have a folder to fill that nobody looks at."""
    out = context.out if rank == 0 else folder / f"out-{rank}"
    out.mkdir(exist_ok=True)
    return {
        "module": module,
        "rendezvous": f"file://{folder / 'rendezvous'}",
        "context": (_with_share_of_memory(context.config), context.variant, context.inputs, out, context.work),
    }


def _with_share_of_memory(config: ExperimentConfig) -> ExperimentConfig:
    from softgrpo.stages.shards import GB, memory_bytes

    share = memory_bytes(config.limits) / GB / config.train.processes
    return config.model_copy(update={"limits": config.limits.model_copy(update={"memory_gb": share})})


class _Listener:
    """Reads what the processes say, and passes it on.

    Args:
        reporter: Of the stage.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._relay = Relay(reporter)
        self._failed: list[tuple[float, Exception]] = []
        self._lost: list[Member] = []

    def listen(self, members: Sequence[Member]) -> dict[str, float]:
        """Returns the metrics of the first process once all are done."""
        open_channels = {member.channel: member for member in members}
        results: dict[int, dict[str, float]] = {}
        ends = float("inf")
        try:
            while open_channels and (left := min(ends - time.monotonic(), GRACE_SECONDS)) > 0:
                for channel in wait(list(open_channels), left):
                    assert isinstance(channel, Connection)
                    member = open_channels[channel]
                    try:
                        kind, *values = channel.recv()
                    except (EOFError, ConnectionResetError):
                        kind, values = "lost", [member]
                    if kind == "done":
                        results[member.rank] = values[0]
                    else:
                        self._take(kind, values, member)
                    if kind in ("done", "failed", "lost"):
                        del open_channels[channel]
                if self._failed or self._lost:
                    ends = min(ends, time.monotonic() + GRACE_SECONDS)
        finally:
            self._relay.close()
        self._raise_what_failed()
        return results[0]

    def _take(self, kind: str, values: list[Any], member: Member) -> None:
        if self._relay.take(kind, values):
            return
        if kind == "failed":
            when, error = values
            self._failed.append((when, error))
        else:
            self._lost.append(member)

    def _raise_what_failed(self) -> None:
        """Raises the cause: an error for people, else the loss of a process, else the error that came first."""
        errors = [error for _, error in sorted(self._failed, key=lambda entry: entry[0])]
        readable = next((error for error in errors if isinstance(error, SoftGRPOError)), None)
        if readable is not None:
            raise readable
        if self._lost:
            member = self._lost[0]
            raise ProcessError(
                f"Process {member.rank} of those that train together ended with code {member.process.wait()}",
                "All must come to their end; -9 means that it was killed, as the system does where memory is short",
                "Lower train.processes or see docs/troubleshooting.md on memory, and run the same command again, which goes on from"
                " the last checkpoint",
                code="PROCESS-003",
            )
        if errors:
            raise errors[0]
