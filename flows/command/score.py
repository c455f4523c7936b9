"""`softgrpo score RUN`: recommendations from the histories of now."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.text import counted
from softgrpo.errors import ConfigError
from softgrpo.flows.command.common import Job, print_notes
from softgrpo.flows.command.destination import check_destination, check_overwrite
from softgrpo.flows.command.parser import Commands, Parser, add_output, add_overwrite, add_words
from softgrpo.flows.command.recommend import add_users, check_length, read_users
from softgrpo.flows.runtime.environment import check_takes_files, prepare_to_read
from softgrpo.flows.runtime.failures import OK
from softgrpo.tasks.servers.addresses import MLFLOW, check_servers_of_cluster

if TYPE_CHECKING:
    from softgrpo.data.streams import Shard

FORMATS = ("parquet", "json")
FOLDER = "scores"

DESCRIPTION = """\
Asks the recallers of a trained run about the histories of now, weighs their lists as one of its methods does, and writes what
each user gets, with each recaller's part in every score. New users and unknown items are answered as far as the recallers know
something of them, and the output says so. Users are read and written in batches; --shard lets several processes share the work.

  RUN  id of the MLflow run of a pipeline, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = (
        "softgrpo score RUN (--history FILE | --latest) [--lists NAME=FILE ...] [--user-fields FILE]\n"
        "                      [--item-fields FILE] [--users USER ...] [--k N] [--method NAME] [--shard I/N]\n"
        "                      [--dask ADDRESS] [--out FILE [--overwrite]] [--format parquet|json]"
    )
    parser = commands.add_parser("score", prog="softgrpo score", description=DESCRIPTION, usage=usage)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="interactions: .csv, .tsv, .parquet or atomic (.inter) with the columns user, item and, if known, time",
    )
    source.add_argument("--latest", action="store_true", help="all interactions of the run's data set as it is now")
    parser.add_argument(
        "--lists",
        nargs="+",
        metavar="NAME=FILE",
        help="lists of a recaller from elsewhere, with the columns user, item and score; they take the place of its own",
    )
    parser.add_argument(
        "--user-fields",
        "--user_fields",
        type=Path,
        metavar="FILE",
        help="what is known of users now: user, and fields that the run knows, such as age (default: with --latest the data set's)",
    )
    parser.add_argument(
        "--item-fields",
        "--item_fields",
        type=Path,
        metavar="FILE",
        help="items with their texts, as in the data set's file of items: Text can recommend those that the run does not know",
    )
    add_users(parser, "of the file")
    parser.add_argument("--k", type=int, metavar="N", help="length of the lists (default: fusion.k of the run)")
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="row of the run's table, such as static or grpo_multi (default: best, the one that validation windows chose)",
    )
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N equal shares of the users, by a hash of the name")
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="share the users out over the workers of the Dask cluster with this scheduler; the file is the same",
    )
    parser.add_argument(
        "--out", "--to", dest="to", type=Path, metavar="FILE", help="default: scores/RUN.parquet in the output folder"
    )
    parser.add_argument("--format", choices=FORMATS, help="of the default file (default: parquet)")
    add_words(parser, "RUN")
    add_output(parser)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, finds the run and returns what scores.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    shard = read_shard(arguments.shard)
    lists = _read_lists(arguments.lists)
    users = read_users(arguments.users, arguments.users_from)
    _check_files(arguments)
    from softgrpo.evaluation.chosen import BEST
    from softgrpo.flows.results.scoring import ScoreOptions, open_to_score, score_run
    from softgrpo.flows.results.shared_scoring import score_on_cluster

    method = arguments.method or BEST
    options = ScoreOptions(
        arguments.history,
        lists,
        users,
        arguments.k,
        method,
        shard,
        arguments.user_fields,
        arguments.item_fields,
    )
    run = open_to_score(arguments.RUN, arguments.output, options)
    part = "" if shard.count == 1 else f"-{shard.index + 1}-of-{shard.count}"
    to = arguments.to or arguments.output / FOLDER / f"{run.run_id}{part}.{arguments.format or FORMATS[0]}"

    def job() -> int:
        if arguments.dask is None:
            scored = score_run(run, options, to)
        else:
            scored = score_on_cluster(run, arguments.output, options, to, arguments.dask)
        rate = scored.users / max(scored.seconds, 1e-9)
        print(f"method: {scored.method}")
        print(f"{counted(scored.users, 'user')}, {counted(scored.items, 'item')}, {rate:,.0f} users/s")
        print(f"{scored.path}")
        print_notes(scored.notes)
        return OK

    return job


def read_shard(text: str | None) -> Shard:
    """Returns the shard that a text such as 2/4 names; all users where there is none.

    Raises:
        ConfigError: It is no such text.
    """
    from softgrpo.data.streams import Shard

    if text is None:
        return Shard()
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(
            f"--shard {text}",
            "It is I/N, the I-th of N shares, I from 1 to N",
            "Write such as --shard 2/4",
            code="CONFIG-090",
        )
    return Shard(int(found[1]) - 1, int(found[2]))


def _read_lists(words: Sequence[str] | None) -> dict[str, Path]:
    """Returns the files of lists by recaller.

    Raises:
        ConfigError: A word is not of the form NAME=FILE, or a recaller is named twice.
    """
    lists: dict[str, Path] = {}
    for word in words or ():
        name, equals, file = word.partition("=")
        if not (name and equals and file) or name in lists:
            raise ConfigError(
                f"--lists {word}",
                "It is NAME=FILE, each recaller once",
                "Write such as --lists BPR=bpr.parquet",
                code="CONFIG-091",
            )
        lists[name] = Path(file)
    return lists


def _check_files(arguments: argparse.Namespace) -> None:
    """Checks --k, --out and --format, and that the output folder can be read."""
    check_length(arguments.k)
    if arguments.dask is not None:
        check_servers_of_cluster((MLFLOW,))
    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is None:
        check_takes_files("--output", arguments.output / FOLDER)
    else:
        from softgrpo.serving.recommended import check_format

        check_format(arguments.to)
        if arguments.format is not None and arguments.to.suffix != f".{arguments.format}":
            raise ConfigError(
                f"--out {arguments.to} --format {arguments.format}",
                "The ending of the file says its format",
                "Leave --format out",
                code="CONFIG-093",
            )
        check_takes_files("--out", arguments.to.parent)
        check_destination([arguments.to], overwrite=arguments.overwrite)
    prepare_to_read(arguments.output)
