"""`softgrpo deploy`: registers the deployments at the server that `make services` started."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.parser import Commands, Parser, add_json, add_output
from softgrpo.flows.runtime.failures import OK

DESCRIPTION = """\
Registers all flows as deployments at the running Prefect server of the output folder, as `make deploy` does. `make services`
starts that server; without it the command ends with 1."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    parser = commands.add_parser("deploy", prog="softgrpo deploy", description=DESCRIPTION)
    add_json(parser)
    add_output(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Finds the services of the output folder and returns the registration.

    Raises:
        SoftGRPOError: The folder or its record of services cannot be used.
    """
    from softgrpo.flows.services.control import deploy, find_services

    services = find_services(arguments.output)

    def job() -> int:
        report = deploy(services)
        if arguments.json:
            print_json(services.addresses)
        else:
            print(report)
        return OK

    return job
