"""`softgrpo stop`: ends the servers and the worker that `softgrpo services` started, as `make stop` does in a clone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.parser import Commands, Parser, add_output
from softgrpo.flows.command.services import order_job

DESCRIPTION = """\
Ends the servers and the worker of the output folder, and the runs of that worker. Finished stages stay."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    add_output(commands.add_parser("stop", prog="softgrpo stop", description=DESCRIPTION))


def prepare(arguments: argparse.Namespace) -> Job:
    """Returns the order to the services of the output folder.

    Raises:
        SoftGRPOError: The folder or its record of services cannot be used.
    """
    return order_job("stop", arguments.output)
