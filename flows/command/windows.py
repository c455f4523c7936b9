"""`softgrpo windows DATASET --to FOLDER`: what a recaller of the user's own has to score."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.destination import check_destination
from softgrpo.flows.command.flags import add_settings
from softgrpo.flows.command.parser import Commands, Parser, add_debug, add_json, add_overwrite, add_words
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.flows.runtime.failures import OK

DESCRIPTION = """\
Writes what a recaller of your own has to score, as three Parquet files: windows, history (what may be looked at, and what may be
trained on) and items. Its lists join a pool with --recall.files.NAME FILE, see docs/own-recaller.md."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo windows DATASET --to FOLDER [--overwrite] [--flag value ...]"
    parser = commands.add_parser("windows", prog="softgrpo windows", description=DESCRIPTION, usage=usage)
    add_words(parser, "DATASET")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the files go")
    add_debug(parser)
    add_json(parser)
    add_settings(parser, words)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, cuts the data and returns the export of what a recaller from elsewhere has to score.

    Raises:
        SoftGRPOError: The folder takes no files, or has such files already, or the data cannot be read or cut; nothing was written.
    """
    config = resolve_named(arguments, arguments.DATASET, "full", "tiny")
    from softgrpo.data.export import HISTORY, ITEMS, WINDOWS, export_windows

    check_takes_files("--to", arguments.to)
    check_destination([arguments.to / name for name in (WINDOWS, HISTORY, ITEMS)], overwrite=arguments.overwrite)
    from softgrpo.data.corpus import read_corpus
    from softgrpo.data.windows import check_no_leak, make_windows

    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    check_no_leak(corpus, windows)

    def job() -> int:
        rows = export_windows(arguments.to, corpus, windows)
        written = {str(arguments.to / name): number for name, number in rows.items()}
        if arguments.json:
            print_json(written)
        else:
            print(*(f"{path}  {number:,} rows" for path, number in written.items()), sep="\n")
        return OK

    return job
