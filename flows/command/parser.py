"""The parser that all sub-commands share, and the flags that several of them have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from softgrpo.errors import ConfigError

Commands = argparse._SubParsersAction
"""What a sub-command adds its parser to; its parameter is `Parser`."""
FORM = "softgrpo COMMAND [WORD ...] [--flag value ...]"


def _folder(text: str) -> Path:
    """Returns a folder; Path("") would be the working directory, which an unset shell variable does not mean."""
    if not text.strip():
        raise argparse.ArgumentTypeError("'' is no folder; . is the working directory")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"'{text}' is no path: it holds a zero byte")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong command line as a ConfigError and completes no flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

        self.register("type", Path, _folder)  # every flag that takes a folder

    def error(self, message: str) -> NoReturn:
        """Raises what argparse has to say as a ConfigError."""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        remedy = f"`{self.prog} --help` explains it"
        if "arguments are required" in message:
            remedy = f"Flags go behind the words in capitals. {remedy}"
        elif "expected one argument" in message:
            remedy = f"A value that begins with - is written --flag=VALUE. {remedy}"
        raise ConfigError(f"Command line: {message}", f"The form is: {usage}", remedy, code="CONFIG-007")


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command that was added to the parser of the whole command line."""
    by_command: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            by_command |= action.choices
    return by_command


def add_words(parser: Parser, *names: str) -> None:
    """Adds words in capitals, which the description of the command explains."""
    for name in names:
        parser.add_argument(name, help=argparse.SUPPRESS)


def add_output(parser: Parser) -> None:
    """Adds --output and --debug."""
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="where results go (default outputs)"
    )
    add_debug(parser)


def add_debug(parser: Parser) -> None:
    """Adds --debug, which `softgrpo.flows.cli.main` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_json(parser: Parser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def add_run(parser: Parser) -> None:
    """Adds RUN, --json, --output and --debug, for commands about one stored run."""
    add_words(parser, "RUN")
    add_json(parser)
    add_output(parser)


def add_overwrite(parser: Parser) -> None:
    """Adds --overwrite, for commands with --to."""
    parser.add_argument("--overwrite", action="store_true", help="write over what is there at --to")


def add_parallel(parser: Parser) -> None:
    """Adds --parallel."""
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="recallers trained at once, each in a process with its share of the cores (default: one for every two cores)",
    )


def add_workers(parser: Parser) -> None:
    """Adds --parallel and --dask."""
    add_parallel(parser)
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run the stages on the Dask cluster whose scheduler is there, tcp://HOST:8786"
    )
