"""`softgrpo recommend RUN`: the lists that a trained run recommends, written or shown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.text import counted
from softgrpo.errors import ConfigError
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.destination import check_destination, check_overwrite
from softgrpo.flows.command.parser import Commands, Parser, add_overwrite, add_run
from softgrpo.flows.runtime.environment import check_takes_files, prepare_to_read
from softgrpo.flows.runtime.failures import OK

if TYPE_CHECKING:
    from softgrpo.flows.results.recommendation import Recommendation

MOST_USERS_SHOWN = 10
"""Users whose lists are shown on the screen."""

DESCRIPTION = """\
Merges the candidate lists that a run stored with the weights that one of its methods gave to each user: the next items at the
time of the user's test window, and how much of each item's score came from which recaller. The method is the one that validation
windows chose, unless --method names another. A user without a test window gets the best static mixture, and the output says so.
The lists of chosen users, up to ten, are shown and written only where --to says.

  RUN  id of the MLflow run of a pipeline that got as far as grpo or gates, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo recommend RUN [--method ROW] [--users USER ...] [--k N] [--to FILE [--overwrite]] [--json]"
    parser = commands.add_parser("recommend", prog="softgrpo recommend", description=DESCRIPTION, usage=usage)
    add_users(parser, "of the run")
    parser.add_argument(
        "--method",
        default="best",
        metavar="ROW",
        help="key of a row of the table, such as static, gate_boosting, ranker or grpo_multi (default: best, the one that "
        "validation windows chose)",
    )
    parser.add_argument("--k", type=int, metavar="N", help="length of the lists (default: fusion.k of the run)")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="a .parquet or .json file (default: for all users recommendations/RUN.parquet in the output folder, else none)",
    )
    add_run(parser)
    add_overwrite(parser)


def add_users(parser: Parser, among: str) -> None:
    """Adds --users and --users-from, which `read_users` reads.

    Args:
        parser: Of the command.
        among: Whose users are all, such as `of the run`.
    """
    parser.add_argument(
        "--users",
        nargs="+",
        metavar="USER",
        help=f"for these users, with spaces between them; all {among} without it",
    )
    parser.add_argument(
        "--users-from", "--users_from", type=Path, metavar="FILE", help="for the users in a text file, one per line"
    )


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, makes the recommendations and returns what prints or writes them.

    Raises:
        SoftGRPOError: The run cannot give them; nothing was written.
    """
    _check_flags(arguments)
    users = read_users(arguments.users, arguments.users_from)
    to: Path | None = arguments.to
    default = arguments.output / "recommendations" if to is None and users is None and not arguments.json else None
    if default is not None:
        check_takes_files("--output", default)
    elif to is None and not arguments.json:
        check_shown(users)
    from softgrpo.flows.results.recommendation import notes, recommend_from_run  # imports torch, which takes seconds

    recommendation = recommend_from_run(arguments.RUN, arguments.output, users, arguments.k, arguments.method)
    if default is not None:
        to = default / f"{recommendation.run.run_id}.parquet"

    def job() -> int:
        from softgrpo.serving.recommended import as_records, write_recommended

        if to is not None:
            write_recommended(to, recommendation.recommended)
        if arguments.json:
            print_json(list(as_records(recommendation.recommended)))
        else:
            _print_recommendation(recommendation, to, chosen=users is not None)
        print_notes(notes(recommendation))
        return OK

    return job


def _check_flags(arguments: argparse.Namespace) -> None:
    """Checks --k and --to, and that the output folder can be read."""
    check_length(arguments.k)
    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        from softgrpo.serving.recommended import check_format

        check_format(arguments.to)
        if arguments.to.is_dir():
            raise ConfigError(
                f"--to {arguments.to}", "It is a folder, and must be a file", "Name a file in it", code="CONFIG-020"
            )
        check_takes_files("--to", arguments.to.parent)
        check_destination([arguments.to], overwrite=arguments.overwrite)
    prepare_to_read(arguments.output)


def check_length(k: int | None) -> None:
    """Checks --k, the length of lists.

    Raises:
        ConfigError: It is below 1.
    """
    if k is not None and k < 1:
        raise ConfigError(f"--k {k}", "A list has at least one item", "Give a larger number", code="CONFIG-019")


def read_users(words: Sequence[str] | None, file: Path | None) -> list[str] | None:
    """Returns the users asked for: words of the command line, or lines of a file; None where neither is given.

    Raises:
        ConfigError: Both are given, a word is empty, or the file is no text or names nobody.
    """
    if file is None:
        if words is not None and not all(word.strip() for word in words):
            raise ConfigError(
                "--users ''", "'' is no user", "Name users, or leave --users out for all of the run", code="CONFIG-013"
            )
        return None if words is None else list(words)
    if words is not None:
        raise ConfigError(
            "--users and --users-from", "Users are named in one place", "Leave one of them out", code="CONFIG-014"
        )
    if not file.exists() or file.is_dir():
        raise ConfigError(
            f"--users-from {file}",
            "There is no such file",
            "Name a text file with one user per line",
            code="CONFIG-015",
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--users-from {file}: byte {error.start} is not UTF-8",
            "It must be a text file with one user per line",
            "Save it as UTF-8, or name another",
            code="CONFIG-016",
        ) from error
    users = [line.strip() for line in text.splitlines() if line.strip()]
    if not users:
        raise ConfigError(f"--users-from {file}", "It names nobody", "Write one user per line", code="CONFIG-017")
    return users


def check_shown(users: Sequence[str] | None) -> None:
    """Checks that users that somebody chose are few enough to be shown, where no file takes their lists.

    Raises:
        ConfigError: They are more.
    """
    if users is not None and len(users) > MOST_USERS_SHOWN:
        raise ConfigError(
            f"{len(users):,} users",
            f"Lists of chosen users are shown, up to {MOST_USERS_SHOWN} of them, and written where --to says",
            "Add --to FILE.parquet, --to FILE.json or --json",
            code="CONFIG-018",
        )


def _print_recommendation(recommendation: Recommendation, to: Path | None, *, chosen: bool) -> None:
    """Prints the lists of chosen users as far as they are few, how many lists there are, and where they were written."""
    count = len(recommendation.recommended.users)
    print(recommendation.said)
    if chosen and count <= MOST_USERS_SHOWN:
        _show_lists(recommendation, "--json" if to is None else str(to))
    # of a few users the rate would say how long reading the files takes
    rate = "" if chosen else f", {count / recommendation.seconds:,.0f} users/s"
    print(f"{counted(count, 'user')}, {counted(len(recommendation.recommended.items), 'item')}{rate}")
    if to is not None:
        print(f"{to}")


def _show_lists(recommendation: Recommendation, everything: str) -> None:
    """Prints a table with one row for each item; `everything` says what has all columns."""
    from rich.table import Column, Table

    from softgrpo.flows.command.output import foreign, print_table

    parts = [f"from {name}" for name in recommendation.recommended.recallers]
    numbers = [Column(foreign(name), justify="right", no_wrap=True) for name in ("score", *parts)]
    table = Table("user", Column("rank", justify="right", no_wrap=True), "item", "title", *numbers)
    for user, rank, item, title, *values in recommendation.recommended.items.itertuples(index=False):
        texts = (foreign(str(text)) for text in (user, rank, item, title))
        table.add_row(*texts, *("" if isnan(value) else f"{value:.4f}" for value in values))
    print_table(table, parts[::-1], everything)
