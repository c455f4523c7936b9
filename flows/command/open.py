"""`softgrpo open RUN`: the pages of a run, in the browser."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict

from softgrpo.common.text import visible
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.parser import Commands, Parser, add_run
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.flows.runtime.failures import OK

DESCRIPTION = """\
Prints where a run can be seen, its report, its page in MLflow and its page in Prefect, and opens these in the browser, if there
is one. Pages of MLflow and Prefect need their servers: `softgrpo services`.

  RUN  id of the MLflow run of a pipeline or a refit, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo open RUN [--print] [--json]"
    parser = commands.add_parser("open", prog="softgrpo open", description=DESCRIPTION, usage=usage)
    parser.add_argument("--print", action="store_true", help="print the addresses, and open nothing")
    add_run(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Finds the run and returns what prints and opens its pages.

    Raises:
        SoftGRPOError: There is no such run; nothing was written.
    """
    from softgrpo.flows.results.places import open_to_show, places_of
    from softgrpo.flows.results.report_page import FOLDER

    check_takes_files("--output", arguments.output / FOLDER)
    run = open_to_show(arguments.RUN, arguments.output)

    def job() -> int:
        places = places_of(run, arguments.output)
        if arguments.json:
            print_json([asdict(place) for place in places])
        else:
            width = max(len(place.label) for place in places)
            print(*(f"{place.label:<{width}}  {visible(place.text)}" for place in places), sep="\n")
        if not arguments.print:
            _open([place.address for place in places if place.address])
        return OK

    return job


def _open(addresses: Sequence[str]) -> None:
    """Opens pages in the browser of this machine; says so where it has none."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        print_notes(["no browser was found on this machine; --print only prints"])
        return
    for address in addresses:
        browser.open(address)
