"""What `softgrpo multi-recaller`, `ablate` and `tune` share: several pipelines, checked before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from softgrpo.config import ExperimentConfig
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.flags import add_settings, overrides
from softgrpo.flows.command.parser import Parser, add_json, add_output, add_words, add_workers
from softgrpo.flows.runtime.environment import check_output, check_servers
from softgrpo.flows.runtime.failures import OK
from softgrpo.presets import DEBUG
from softgrpo.stages.contract import check_stage

if TYPE_CHECKING:
    from softgrpo.flows.pipeline import Size

Result = TypeVar("Result")
STAGES = ("full", DEBUG)
"""What STAGE may be."""


def add_group_flags(parser: Parser, words: Sequence[str]) -> None:
    """Adds the words and flags that all commands of several pipelines take.

    Args:
        parser: Of the command.
        words: The command line.
    """
    add_words(parser, "DATASET", "STAGE", "SIZE")
    add_output(parser)
    add_workers(parser)
    add_json(parser)
    add_settings(parser, words)


@dataclass(frozen=True)
class GroupOptions:
    """What a command line says that all commands of several pipelines take.

    Attributes:
        dataset: Name of the dataset.
        size: Size of the language model.
        stage: `full`, or `debug` for a small subset of the data.
        overrides: Settings by dotted path.
        output: Folder of all that is written.
        tracebacks: Show them.
        as_json: Print the outcome as JSON.
        parallel: Recallers trained at once; None leaves it to the flow.
        dask: Address of a Dask cluster's scheduler.
    """

    dataset: str
    size: Size
    stage: str
    overrides: dict[str, Any]
    output: Path
    tracebacks: bool
    as_json: bool
    parallel: int | None
    dask: str | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> GroupOptions:
        """Checks the common part of a command line; --dataset and --size win over the positions.

        Raises:
            SoftGRPOError: There is no such stage, or the folder, the workers or the servers cannot be used.
        """
        stage, named = check_stage(arguments.STAGE, known=STAGES), overrides(arguments)
        dataset, size = named.pop("data.dataset", arguments.DATASET), named.pop("policy.size", arguments.SIZE)
        check_output(arguments.output)
        from softgrpo.tasks.servers.addresses import check_workers

        check_workers(arguments.parallel, arguments.dask)
        check_servers()
        return cls(
            dataset,
            cast("Size", size),  # `resolve` checks it
            stage,
            named,
            arguments.output,
            arguments.debug,
            arguments.json,
            arguments.parallel,
            arguments.dask,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the flows have in common."""
        return {
            "dataset": self.dataset,
            "size": self.size,
            "debug": self.stage == DEBUG,
            "overrides": self.overrides,
            "output": self.output,
            "check": False,
            "parallel": self.parallel,
            "dask": self.dask,
        }


def group_job(
    options: GroupOptions,
    configs: Iterable[ExperimentConfig],
    import_flow: Callable[[], Callable[..., Result]],
    parameters: Mapping[str, Any],
    as_record: Callable[[Result], dict[str, Any]],
    show: Callable[[Result, Path], None],
) -> Job:
    """Looks for all that would fail later, and returns the run of a flow.

    Args:
        options: The common part of the command line.
        configs: Configurations that together have all that will run.
        import_flow: Imports the flow, which needs Prefect's environment.
        parameters: Those that the flow alone has.
        as_record: Returns what a machine reads of the result.
        show: Prints the result, given the output folder.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.pipeline.preflight import preflight

    print_notes(note for config in configs for note in preflight(config))

    def job() -> int:
        from softgrpo.flows.runtime.session import begin_prefect, open_prefect

        begin_prefect(options.output)
        flow = import_flow()  # while the server starts
        open_prefect(options.output, options.tracebacks)
        result = flow(**parameters, **options.parameters)
        if options.as_json:
            print_json(as_record(result))
        else:
            show(result, options.output)
        return OK

    return job
