"""The estimate of a run's memory and disk, told before anything is trained; a run that cannot end is refused.

It holds for processes of this machine. What a stage takes is in `memory_costs` and `disk_costs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.memory import free_bytes
from softgrpo.config import ExperimentConfig, LimitsConfig
from softgrpo.data.size import DataSize, data_size
from softgrpo.errors import MemoryLimitError, SoftGRPOError, StoreError
from softgrpo.pipeline.costs import cost_line
from softgrpo.pipeline.disk_costs import disk_bytes
from softgrpo.pipeline.memory_costs import memory_bytes
from softgrpo.stages.contract import Node

GB = 1e9


@dataclass(frozen=True)
class Needs:
    """What stages take, by the name of their node.

    Attributes:
        memory: Peak bytes of the process that a stage runs in.
        disk: Bytes of the files that a stage stores.
    """

    memory: Mapping[str, float]
    disk: Mapping[str, float]

    def peak(self, recallers_at_once: int = 1) -> tuple[str, float]:
        """Returns what takes most memory, and how much; recallers that are trained at once count together."""
        recall = sorted((value for name, value in self.memory.items() if name.startswith("recall-")), reverse=True)
        count = min(recallers_at_once, len(recall))
        together = {f"{count} recallers at once": sum(recall[:count])} if count > 1 else {}
        return max((dict(self.memory) | together).items(), key=lambda entry: entry[1])

    def line(self, recallers_at_once: int = 1) -> str:
        """Returns what people read before anything is trained."""
        name, peak = self.peak(recallers_at_once)
        return f"estimate: up to {amount(peak)} of memory ({name}) and {amount(sum(self.disk.values()))} of disk"


@dataclass(frozen=True)
class Room:
    """What a run may take.

    Attributes:
        memory: Bytes.
        disk: Bytes.
        output: Folder of all that is written.
    """

    memory: float
    disk: float
    output: Path

    @classmethod
    def of(cls, limits: LimitsConfig, output: Path) -> Room:
        """Returns what is free on this machine; `limits.memory_gb` takes the place of the free memory."""
        memory = free_bytes() if limits.memory_gb is None else limits.memory_gb * GB
        there = next(folder for folder in (output.resolve(), *output.resolve().parents) if folder.exists())
        return cls(memory, shutil.disk_usage(there).free, output)


def amount(size: float) -> str:
    """Returns a rough size as people say it: MB to the next 10, GB from 1 GB."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(10, 10 * round(size / 1e7))} MB"


def needs(nodes: Sequence[Node], config: ExperimentConfig, size: DataSize) -> Needs:
    """Returns what stages will take.

    Args:
        nodes: The stages that will run.
        config: The resolved configuration.
        size: Of the data.

    Raises:
        PolicyError: The files of a language model are not there, or are broken.
    """
    memory = {node.name: memory_bytes(node, config, size) for node in nodes}
    return Needs(memory, {node.name: disk_bytes(node, config, size) for node in nodes})


def check_room(expected: Needs, room: Room, limits: LimitsConfig, recallers_at_once: int = 1) -> None:
    """Refuses a run that cannot end.

    Args:
        expected: What its stages will take.
        room: What it may take.
        limits: Of the run.
        recallers_at_once: Recallers that are trained at once.

    Raises:
        MemoryLimitError: A stage will take more memory than the run may.
        StoreError: The files will take more than is free.
    """
    name, peak = expected.peak(recallers_at_once)
    if peak > room.memory:
        given = limits.memory_gb is not None
        whose = f"limits.memory_gb = {limits.memory_gb:g}" if given else f"{amount(room.memory)} of free memory"
        raise MemoryLimitError(
            f"{whose} for {name}, which will take about {amount(peak)}",
            "A run starts only where the estimate of its memory is within what it may take",
            ("Raise it" if given else "End other programs, or set limits.memory_gb if you know better") + _saver(name),
            code="MEMORY-003",
        )
    stored = sum(expected.disk.values())
    if stored > room.disk:
        raise StoreError(
            f"--output {room.output} with {amount(room.disk)} free, for files of about {amount(stored)}",
            "A run starts only where the estimate of its files is within what is free",
            "Make room, or choose another --output",
            code="STORE-046",
        )


def _saver(name: str) -> str:
    """Returns what else saves memory in a stage."""
    if name in ("sft", "grpo"):
        return ", choose a smaller model, policy.adapter lora, more policy.frozen_layers or smaller batches"
    if name.endswith("at once"):
        return ", or lower --parallel"
    return (
        ", take fewer or smaller windows (split.window, split.windows_per_user), lower recall.depth,"
        " or leave out a recaller"
    )


def estimate_lines(
    left: Sequence[Node],
    config: ExperimentConfig,
    output: Path | None,
    recallers_at_once: int = 1,
    copies: int = 1,
) -> list[str]:
    """Returns the lines on time, memory and disk that are told before anything is trained; none where nothing will be.

    Args:
        left: The stages that will run.
        config: The resolved configuration.
        output: Folder of all that is written; None where the stages run on other machines, whose room is not known here.
        recallers_at_once: Recallers that are trained at once.
        copies: How often the files are stored in that folder.

    Raises:
        MemoryLimitError: See `check_room`; also where nothing will be trained.
        StoreError: See `check_room`.
    """
    time = cost_line(left, config, recallers_at_once)
    if not left or output is None:
        return [time] if time else []
    try:
        once = needs(left, config, data_size(config))
    except SoftGRPOError:  # what is wrong is for the stages to say, as `cost_line` does
        return [time] if time else []
    expected = Needs(once.memory, {name: copies * size for name, size in once.disk.items()})
    check_room(expected, Room.of(config.limits, output), config.limits, recallers_at_once)
    return [time, expected.line(recallers_at_once)] if time else []
