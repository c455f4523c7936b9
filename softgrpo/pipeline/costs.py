"""The estimate of a run's time, told before anything is trained: by stage, from sizes, settings and the speed of this machine.

The constants were measured on the two CPU cores that docs/performance.md names, which also says how good the estimate is. It is
rough: a recaller may stop early, and other programs may share the cores. It decides nothing.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from softgrpo.common.cores import usable_cores
from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize, data_size
from softgrpo.errors import SoftGRPOError
from softgrpo.pipeline import text_costs
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.model_costs import operations
from softgrpo.recallers.kinds import Kind, kind_of
from softgrpo.recallers.plugins import plugin_names
from softgrpo.recallers.registry import TRAINING_SETTINGS
from softgrpo.stages.contract import ALL_STAGES, LANGUAGE_MODEL_STAGES, POLICY_STAGES, Node

TRAINING_STAGES = frozenset({"embed", "recall", *POLICY_STAGES})
REFERENCE_SPEED = 1.0e11
"""What `core_speed` is on the machine of the constants, in floating point operations per second."""
PROBE_ROWS, PRODUCTS, PROBES = 64, 200, 10
"""So small that they are worked out on one core."""
THREADS_GAIN = 0.9
"""What a further core adds to the speed of a language model."""
SEQUENCE_SHARE = 0.29
"""The same of sequential recallers, whose matrices are small."""
GPU_SPEED = 6.0e12
"""Operations per second of a language model on a GPU: SmolLM2-135M with small batches in bfloat16 on an H200."""
EXAMPLE_SECONDS: dict[Kind, float] = {"computed": 0.0, "users": 2e-4, "graph": 1e-5, "pairs": 2e-6, "sequences": 0.0}
"""Of a core, for one example of training."""
BATCH_SECONDS = 0.004
SCORE_SECONDS = 6e-9
"""Of early stopping, which ranks every item for every user after each epoch: for one user and one item."""
COMPUTED_SECONDS = 1e-7
"""Of recallers that are worked out at once, for each pair of items."""
LAYERS, WIDTH, INNER, LENGTH = 2, 64, 256, 50
"""Of sequential recallers, RecBole's defaults."""
START_SECONDS = {
    "split": 1.0,
    "embed": 4.0,
    "recall": 4.0,
    "data": 4.0,
    "check": 2.0,
    "gates": 6.0,
    "sft": 8.0,
    "grpo": 8.0,
    "test": 14.0,
}
"""Of a stage however small: imports, reading and writing, figures."""
OTHER_START_SECONDS = 4.0
"""The same of a stage that nothing is known of."""
WINDOW_SECONDS = {
    "split": 1e-4,
    "embed": 0.0,
    "recall": 2e-4,
    "data": 5e-4,
    "check": 2e-4,
    "gates": 1e-3,
    "test": 1e-3,
    "sft": 0.0,
    "grpo": 0.0,
}
"""Of lists, features, prompts, searches and rows of the table: for each window of the data."""
GPU_DEVICES = Path("/proc/driver/nvidia/gpus")
HIDING = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that leave no GPU."""


@dataclass(frozen=True)
class Machine:
    """What stages run on.

    Attributes:
        cores: CPU cores that this process may use.
        speed: Of one core, in floating point operations per second.
        gpu: There is a GPU, and torch can use it.
    """

    cores: int
    speed: float
    gpu: bool


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        seconds: By stage, in the order of the stages.
    """

    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def line(self) -> str:
        """Returns what people read before anything is trained."""
        stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())
        return f"estimate: about {duration(self.total)} on this machine, if nothing else runs on it ({stages})"


def duration(seconds: float) -> str:
    """Returns a rough time as people say it: seconds to the next 5, minutes from 90 s, hours from 90 min."""
    if seconds < 90:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@cache
def core_speed() -> float:
    """Returns the floating point operations per second of one core: the best of some rounds of matrix products, some hundredths
    of a second in all. The time of this thread counts, so that programs beside it on the cores hardly do.
    """
    square = np.random.default_rng(0).random((PROBE_ROWS, PROBE_ROWS), dtype=np.float32)
    rounds = []
    for _ in range(PROBES):
        start = time.thread_time()
        for _ in range(PRODUCTS):
            square @ square
        rounds.append(time.thread_time() - start)
    return 2 * PROBE_ROWS**3 * PRODUCTS / min(rounds)


def this_machine() -> Machine:
    """Returns the machine of this process; torch is not imported for it."""
    return Machine(usable_cores(), core_speed(), has_gpu())


def has_gpu(devices: Path = GPU_DEVICES, variables: Mapping[str, str] = os.environ) -> bool:
    """Tells whether torch will find a GPU, from the driver's list, the environment and how torch was built.

    Args:
        devices: Folder in which the driver lists the GPUs of this machine.
        variables: Environment variables; CUDA_VISIBLE_DEVICES can hide GPUs.
    """
    hidden = variables.get("CUDA_VISIBLE_DEVICES", "0").strip() in HIDING
    return not hidden and any(devices.glob("*")) and torch_has_cuda()


@cache
def torch_has_cuda() -> bool:
    """Tells whether torch was built for NVIDIA's GPUs, from its file torch/version.py; torch itself takes seconds to import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b[^=\n]*= *['\"]", text, re.MULTILINE) is not None


def missing(
    nodes: Sequence[Node],
    config: ExperimentConfig,
    force: Collection[str],
    digest_of: Callable[[str], str | None],
    given: Mapping[str, str] | None = None,
) -> list[Node]:
    """Returns the nodes of a plan that are not stored, or that come after one that is not.

    Args:
        nodes: The plan, every node after its upstream nodes.
        config: The resolved configuration.
        force: Stages that will be repeated.
        digest_of: Gives the digest of a stored stage by its key, None where it is not stored.
        given: Digests of nodes that are taken from elsewhere, by name.
    """
    digests = dict(given or {})
    for node in nodes:
        if node.name in digests or node.stage.name in force or not all(name in digests for name in node.upstream):
            continue
        digest = digest_of(stage_key(node, config, digests))
        if digest is not None:
            digests[node.name] = digest
    return [node for node in nodes if node.name not in digests]


def estimate(nodes: Sequence[Node], config: ExperimentConfig, machine: Machine, workers: int = 1) -> Estimate:
    """Returns what stages will take.

    Args:
        nodes: The stages that will run.
        config: The resolved configuration.
        machine: What they run on.
        workers: Recallers trained at once.

    Raises:
        SoftGRPOError: Data or model cannot be read, which the stages would say too.
    """
    size, slower = data_size(config), REFERENCE_SPEED / machine.speed
    given = {*config.recall.files, *plugin_names()}  # of plug-ins it is not known what their training costs
    named = [(node.stage.name, node) for node in nodes]
    longest, seconds = 0.0, dict.fromkeys((str(stage) for stage in ALL_STAGES if stage in dict(named)), 0.0)
    for name, node in named:
        start, window = START_SECONDS.get(name, OTHER_START_SECONDS), WINDOW_SECONDS.get(name, 0.0)
        own = slower * (start + window * size.windows)
        if name == "recall" and node.variant not in given:
            own += slower * recaller_seconds(recaller_and_fold(node.variant)[0], config, size)
            longest = max(longest, own)
        elif name in ("embed", *LANGUAGE_MODEL_STAGES):
            own += operations(name, config, size) / _model_speed(machine, config.train.device)
        seconds[name] += own
    if "recall" in seconds:
        seconds["recall"] = max(longest, seconds["recall"] / workers)
    return Estimate(seconds)


def cost_line(left: Sequence[Node], config: ExperimentConfig, workers: int = 1) -> str | None:
    """Returns the line that is told before anything is trained, None where nothing will be.

    Args:
        left: The stages that will run.
        config: The resolved configuration.
        workers: Recallers trained at once.
    """
    if not any(node.stage.name in TRAINING_STAGES for node in left):
        return None
    try:
        return estimate(left, config, this_machine(), workers).line()
    except SoftGRPOError as error:  # what is wrong is for the stages to say: an estimate ends no run
        return f"estimate: none ({error.received})"


def seconds_by_node(left: Sequence[Node], config: ExperimentConfig) -> dict[str, float]:
    """Returns what each node will take on this machine, as `estimate` says; nothing where it cannot say.

    Args:
        left: The stages that will run.
        config: The resolved configuration.
    """
    try:
        return {node.name: estimate([node], config, this_machine()).total for node in left}
    except SoftGRPOError:  # as in `cost_line`
        return {}


def recaller_seconds(name: str, config: ExperimentConfig, size: DataSize) -> float:
    """Returns the seconds of the reference machine that training a recaller takes if it does not stop early."""
    if name == TEXT:
        return text_costs.text_seconds(config, size)
    kind = kind_of(name)
    if kind == "computed":
        return COMPUTED_SECONDS * size.items**2
    settings = {**TRAINING_SETTINGS, **config.recall.settings_of(name)}
    targets = config.recall.targets_per_user
    sequences = size.training if targets is None else min(size.training, targets * size.users)
    examples = {"users": size.users, "sequences": sequences}.get(kind, size.training)
    example = EXAMPLE_SECONDS[kind]
    if kind == "sequences":
        length, inner = int(settings["MAX_ITEM_LIST_LENGTH"]), int(settings.get("inner_size", INNER))
        layers = LAYERS * length * (8 * WIDTH**2 + 4 * WIDTH * inner)
        example = 3 * (layers + 2 * WIDTH * size.items) / (SEQUENCE_SHARE * REFERENCE_SPEED)
    batches = math.ceil(examples / int(settings["train_batch_size"]))
    epoch = examples * example + batches * BATCH_SECONDS + SCORE_SECONDS * size.users * size.items
    return float(settings["epochs"]) * epoch


def _model_speed(machine: Machine, device: str) -> float:
    """Returns the operations per second of a language model on the device of the settings, before its share is taken."""
    if machine.gpu and device != "cpu":
        return GPU_SPEED
    return machine.speed * (1 + THREADS_GAIN * (machine.cores - 1))
