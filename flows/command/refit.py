"""`softgrpo refit RUN`: the recallers of a finished run trained on everything up to now."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.text import counted
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.parser import Commands, Parser, add_parallel, add_run
from softgrpo.flows.runtime.environment import check_output, check_servers
from softgrpo.flows.runtime.failures import OK

if TYPE_CHECKING:
    from softgrpo.flows.results.refit import RefitPlan, Refitted

DESCRIPTION = """\
Trains the recallers of a finished run again, on all interactions of its data set as it is now: nothing is held out, and each is
trained for the epochs that were chosen. The run's methods, merge and static mixture stay as they are. The refit is a run of its
own, which score, export and Router take; its registered version has the alias fresh. It was not evaluated: the numbers of the
report are those of RUN. The same command on the same data finds all that was trained.

  RUN  id of the MLflow run of a pipeline, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo refit RUN [--data-path FOLDER] [--parallel N] [--json]"
    parser = commands.add_parser("refit", prog="softgrpo refit", description=DESCRIPTION, usage=usage)
    parser.add_argument(
        "--data-path",
        "--data_path",
        type=Path,
        metavar="FOLDER",
        help="folder of dataset folders, where the data set lies now (default: the run's)",
    )
    add_parallel(parser)
    add_run(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, finds the run and returns what refits it.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.tasks.servers.addresses import check_workers

    check_output(arguments.output)
    check_workers(arguments.parallel, None)
    check_servers()
    from softgrpo.flows.results.refit import open_to_refit

    plan = open_to_refit(arguments.RUN, arguments.output, arguments.data_path)
    print_notes(plan.notes())

    def job() -> int:
        from softgrpo.flows.start import start_refit

        refitted = start_refit(plan, arguments.output, arguments.parallel, debug=arguments.debug)
        if arguments.json:
            print_json(refitted.record())
        else:
            _announce(refitted, plan)
        return OK

    return job


def _announce(refitted: Refitted, plan: RefitPlan) -> None:
    """Prints what was trained on what, and where it is."""
    counts = refitted.counts
    parts = [f"{counted(counts[name], name[:-1])} ({counts[f'new_{name}']:,} new)" for name in ("users", "items")]
    print(f"{', '.join(parts)}, {counted(counts['interactions'], 'interaction')} ({counts['new_interactions']:,} new)")
    epochs = plan.epochs
    print(f"trained: {', '.join(_with_epochs(name, epochs) for name in refitted.recallers) or 'none'}")
    print(f"reused: {', '.join(refitted.reused) or 'none'}")
    if refitted.model:
        print(f"registered model {refitted.model}, alias {refitted.alias}")
    print(f"MLflow run {refitted.link}")
    print(f"Not evaluated: the report and its numbers are those of run {refitted.refit_of}.")


def _with_epochs(name: str, epochs: dict[str, int]) -> str:
    return f"{name} ({counted(epochs[name], 'epoch')})" if name in epochs else name
