"""`softgrpo report RUN`: the report of a finished run, wherever it was made."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.destination import check_copy, check_destination, check_overwrite
from softgrpo.flows.command.parser import Commands, Parser, add_overwrite, add_run
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.flows.runtime.failures import OK

DESCRIPTION = """\
Shows the comparison table of a run and says where its report is: an HTML page with figures, and the same in Markdown.

  RUN  id of the MLflow run of a whole pipeline, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo report RUN [--to FOLDER [--overwrite]] [--open] [--json]"
    parser = commands.add_parser("report", prog="softgrpo report", description=DESCRIPTION, usage=usage)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="copy the report with its figures and tables there")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_run(parser)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, finds the report and returns what shows, copies or opens it.

    Raises:
        SoftGRPOError: There is none; nothing was written.
    """
    from softgrpo.flows.results.report_page import FOLDER
    from softgrpo.flows.results.stored_report import FILES, files_of, open_report

    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        check_copy(arguments.to, FILES, "report", overwrite=arguments.overwrite)
    else:
        check_takes_files("--output", arguments.output / FOLDER)
    run = open_report(arguments.RUN, arguments.output)
    if arguments.to is not None:
        check_destination([arguments.to / name for name in files_of(run)], overwrite=arguments.overwrite)

    def job() -> int:
        from softgrpo.flows.results.stored_report import as_record, copy_report, publish_report

        page, text = copy_report(run, arguments.to) if arguments.to else publish_report(run, arguments.output)
        record = as_record(run, page, text)
        if arguments.open:
            webbrowser.open(page.resolve().as_uri())
        if arguments.json:
            print_json(record)
            return OK
        from softgrpo.flows.command.output import print_comparison, print_sentences
        from softgrpo.flows.results.stored_report import summary_of, table_of

        print_comparison(table_of(run), run.config.fusion.k)
        print(f"report      {record['html']}\nMarkdown    {record['markdown']}\nMLflow run  {run.link}")
        print_sentences(summary_of(run))
        return OK

    return job
