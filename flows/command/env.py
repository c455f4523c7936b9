"""`softgrpo env`: lets a shell find the commands, and the servers if they run, as `make -s env` does in a clone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.parser import Commands, Parser, add_output
from softgrpo.flows.command.services import order_job

DESCRIPTION = """\
Prints lines for a shell: eval "$(softgrpo env)". It then finds the commands of this environment, and the servers of the output
folder if they are running."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    add_output(commands.add_parser("env", prog="softgrpo env", description=DESCRIPTION))


def prepare(arguments: argparse.Namespace) -> Job:
    """Returns the order to the services of the output folder.

    Raises:
        SoftGRPOError: The folder or its record of services cannot be used.
    """
    return order_job("env", arguments.output)
