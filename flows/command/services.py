"""`softgrpo services`: starts Prefect's server, MLflow's server and a worker, as `make services` does in a clone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.parser import Commands, Parser, add_output
from softgrpo.flows.runtime.failures import OK

DESCRIPTION = """\
Starts Prefect's server, MLflow's server and a worker on this machine, and prints their pages. Services that run already stay.
PREFECT_PORT, MLFLOW_PORT and SERVICES_HOST say where, SOFTGRPO_DATA where the worker finds data. `softgrpo stop` ends them."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    add_output(commands.add_parser("services", prog="softgrpo services", description=DESCRIPTION))


def prepare(arguments: argparse.Namespace) -> Job:
    """Returns the start.

    Raises:
        SoftGRPOError: The folder or its record of services cannot be used.
    """
    return order_job("start", arguments.output)


def order_job(order: str, output: Path) -> Job:
    """Returns the job that gives an order to the services of an output folder and prints the answer.

    Args:
        order: One of `softgrpo.flows.services.control.ORDERS`.
        output: The output folder.

    Raises:
        SoftGRPOError: The folder or its record of services cannot be used.
    """
    from softgrpo.flows.services.control import ORDERS, find_services

    services = find_services(output)

    def job() -> int:
        print(ORDERS[order](services))
        return OK

    return job
