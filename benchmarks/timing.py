"""Measuring two or more sides in turns (A B A B ...), so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Seconds = list[float]


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done its work; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Returns the median of the ratios of measurements that were made next to each other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


LEAST_SECONDS = 0.05
"""A side that takes less is called several times in its turn: one short call would measure how cold the caches are."""


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Seconds]:
    """Calls every side for at least `LEAST_SECONDS` per round, and returns the seconds of one call in each round.

    Args:
        sides: What to measure.
        rounds: Turns of each side that count.
        warm_up: Rounds before them that do not.
        device: Where they compute.
        clock: Seconds so far; `time.process_time` leaves out what else the machine does.
    """
    seconds: dict[str, Seconds] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, call in sides.items():
            synchronise(device)
            start = clock()
            calls = 0
            while calls == 0 or clock() - start < LEAST_SECONDS:
                call()
                synchronise(device)
                calls += 1
            if turn >= warm_up:
                seconds[name].append((clock() - start) / calls)
    return seconds


class _StoppedError(Exception):
    """Another training has failed, or the user has interrupted."""


class _Turns:
    """Lets one of several threads work at a time, in a fixed order."""

    def __init__(self, threads: int) -> None:
        self._threads, self._turn, self._stopped = threads, 0, False
        self._changed = threading.Condition()

    def wait(self, place: int) -> None:
        """Returns when it is the turn of the thread of this place.

        Raises:
            _StoppedError: It never will be.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._turn == place or self._stopped)
            if self._stopped:
                raise _StoppedError

    def pass_on(self) -> None:
        """Gives the turn to the next thread."""
        with self._changed:
            self._turn = (self._turn + 1) % self._threads
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends all that wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _StepClock(TrainerCallback):
    """Measures from the end of one optimiser step to the end of the next, and lets the other trainings work in between."""

    def __init__(self, turns: _Turns, place: int) -> None:
        self._turns, self._place = turns, place
        self._start = 0.0
        self.seconds: Seconds = []

    def begin(self) -> None:
        """Waits for the turn and starts the clock."""
        self._turns.wait(self._place)
        self._start = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Notes the time of one step, and waits until it is this training's turn again."""
        synchronise(args.device)
        self.seconds.append(time.perf_counter() - self._start)
        self._turns.pass_on()
        self.begin()


def _train(trainer: Trainer, clock: _StepClock, turns: _Turns) -> None:
    clock.begin()
    trainer.train()
    turns.pass_on()


def train_in_turns(trainers: Mapping[str, Trainer], warm_up: int) -> dict[str, Seconds]:
    """Runs whole trainings side by side, one optimiser step of each in turn, and returns the seconds of the steps.

    Each training runs in a thread of its own, and all but one of them wait. The first step includes what a training does
    before it, so at least one step is warm-up.

    Args:
        trainers: With equal numbers of steps.
        warm_up: Steps at the start that do not count, at least 1.
    """
    turns = _Turns(len(trainers))
    clocks = {name: _StepClock(turns, place) for place, name in enumerate(trainers)}
    with ThreadPoolExecutor(len(trainers)) as pool:
        try:
            jobs = []
            for name, trainer in trainers.items():
                trainer.remove_callback(PrinterCallback)
                trainer.add_callback(clocks[name])
                jobs.append(pool.submit(_train, trainer, clocks[name], turns))
            for job in as_completed(jobs):
                job.result()
        finally:
            turns.stop()
    return {name: clock.seconds[warm_up:] for name, clock in clocks.items()}
