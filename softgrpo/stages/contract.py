"""What a stage is: a pure function of (settings, upstream folders) that fills a folder.

The folder-level contract that `softgrpo.pipeline.run` (one process) and `tasks` (Prefect and MLflow) share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, nearest
from softgrpo.reporting import Reporter
from softgrpo.stages.pieces import InThisProcess, Pieces

COST = "cost/"
"""Beginning of the names of measured times."""
LIST_MILLISECONDS = f"{COST}list_ms"
"""What a recaller's list costs, milliseconds per window; it is reported and not stored: no two measurements are equal."""
MERGE_MILLISECONDS = f"{COST}merge_ms"
"""What merging the lists costs, likewise."""
POLICY_MILLISECONDS = f"{COST}policy_ms"
"""What the language model costs, likewise."""


@dataclass(frozen=True)
class StageContext:
    """What a stage gets.

    Attributes:
        config: The resolved configuration.
        variant: Which of several equal stages this is (the recaller's name in `recall`), "" elsewhere.
        inputs: Folder of each upstream node, by node name; read only.
        out: Empty folder to fill.
        work: Folder that survives a crash of this stage, for checkpoints; it belongs to this stage's key alone.
        reporter: Receives curves and log lines.
        pieces: Has work on windows done, a piece at a time.
    """

    config: ExperimentConfig
    variant: str
    inputs: Mapping[str, Path]
    out: Path
    work: Path
    reporter: Reporter
    pieces: Pieces = field(default_factory=InThisProcess)


@dataclass(frozen=True)
class Stage:
    """One kind of stage.

    Attributes:
        name: As in `softgrpo run DATASET STAGE SIZE`.
        run: Fills `context.out` and returns the stage's final metrics.
        parameters: The settings that can change the stage's output, as JSON-able data.
        module: Dotted name of the module whose reachable code is part of the stage's key.
        libraries: Distributions whose versions are part of the stage's key.
    """

    name: str
    run: Callable[[StageContext], dict[str, float]]
    parameters: Callable[[ExperimentConfig, str], dict[str, Any]]
    module: str
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One stage to run in a plan.

    Attributes:
        name: Unique in a plan: the stage's name, with `-<variant>` where there is one.
        stage: What to run.
        variant: See `StageContext.variant`.
        upstream: Names of the nodes whose folders it reads, in order.
    """

    name: str
    stage: Stage
    variant: str
    upstream: tuple[str, ...]


StageName = Literal["recall", "data", "check", "gates", "sft", "grpo", "test"]
"""A stage that a run can end with."""
AnyStage = Literal["split", "embed", StageName]
"""Every stage; `split` and `embed` are part of `recall` for those who ask for a stage, and can be repeated on their own."""
STAGES: tuple[StageName, ...] = get_args(StageName)
"""The stages that a run can end with, in their order."""
ALL_STAGES: tuple[AnyStage, ...] = get_args(AnyStage)
"""All stages, in their order."""
POLICY_STAGES: tuple[StageName, ...] = ("sft", "grpo")
"""Those that train and store a policy."""
LANGUAGE_MODEL_STAGES: tuple[StageName, ...] = (*POLICY_STAGES, "test")
"""Those that compute with the language model."""


def check_stage(name: str, *, known: tuple[str, ...] = STAGES) -> str:
    """Returns the name of a stage.

    Raises:
        ConfigError: There is no such stage.
    """
    if name not in known:
        raise ConfigError(f"stage '{name}'", "there is no such stage", nearest(name, known), code="CONFIG-071")
    return name


Watch = Callable[[Node, Reporter], Reporter]
"""Puts something between a stage and its reporter; it may end the stage with `Pruned`."""


def unwatched(node: Node, reporter: Reporter) -> Reporter:
    """Returns the reporter as it is."""
    return reporter
