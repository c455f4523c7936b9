"""`softgrpo check-data PATH`: what is understood of one's own data, and the command that runs them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softgrpo.common.text import counted, visible
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.flags import add_settings, overrides
from softgrpo.flows.command.parser import Commands, Parser, add_debug, add_json
from softgrpo.flows.runtime.failures import OK
from softgrpo.presets.settings import as_flags

if TYPE_CHECKING:
    from softgrpo.data.examine import Examined

DESCRIPTION = """\
Reads a dataset and shows what was understood: files, columns and why, times, users, items, repeats, ties and texts, the
split that fits, and the command that runs it. It writes nothing.

  DATASET  a file or folder, such as ratings.csv or data/ml-25m, or the name of a dataset"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo check-data DATASET [--json] [--flag value ...]"
    parser = commands.add_parser("check-data", prog="softgrpo check-data", description=DESCRIPTION, usage=usage)
    parser.add_argument("DATASET", help=argparse.SUPPRESS)
    add_debug(parser)
    add_json(parser)
    add_settings(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Reads the data and returns what prints what was understood.

    Raises:
        SoftGRPOError: The data cannot be read, or a setting is wrong.
    """
    config = resolve_named(arguments, arguments.DATASET, "full", "tiny", follow_data=False)
    from softgrpo.data.examine import examine

    examined = examine(config.data, config.split, config.seed)
    command = run_command(arguments.DATASET, examined.suggested, overrides(arguments))

    def job() -> int:
        if arguments.json:
            print_json(examined.as_record() | {"command": command})
        else:
            print(*(f"{label:<10} {visible(text)}" for label, text in as_lines(examined, command)), sep="\n")
        return OK

    return job


def run_command(dataset: str, suggested: dict[str, Any], stated: dict[str, Any]) -> str:
    """Returns the command that runs a dataset.

    Args:
        dataset: As the user names it.
        suggested: Settings that the data need.
        stated: Settings that the user gave.
    """
    flags = as_flags({path: value for path, value in (suggested | stated).items() if path != "data.dataset"})
    return shlex.join(["softgrpo", "run", stated.get("data.dataset", dataset), "full", "tiny", *flags])


def as_lines(examined: Examined, command: str) -> list[tuple[str, str]]:
    """Returns what was understood as lines for people: a label and a text."""
    files = examined.files.by_role()
    fewest, median, most = examined.per_user
    kept = examined.kept
    lines = [("files", ", ".join(f"{role} {path}" for role, path in files.items()))]
    lines += [("column", f"{role} = {column.name} ({column.why})") for role, column in examined.columns.items()]
    if examined.unread:
        lines.append(("unread", ", ".join(examined.unread)))
    if examined.span is None:
        lines.append(("times", "none; the order of the file is the order in time"))
    else:
        lines.append(("times", f"{examined.unit}, from {examined.span[0]} to {examined.span[1]}"))
    lines += [
        (
            "size",
            f"{counted(examined.users, 'user')}, {counted(examined.items, 'item')}, {counted(examined.rows, 'interaction')}",
        ),
        ("per user", f"{fewest:,} to {most:,} different items, median {median:g}"),
        ("repeats", f"{counted(examined.repeated, 'repeated pair')} of user and item; the first counts"),
        ("ties", f"{examined.tied:.1%} of the interactions have the time of another one of the same user"),
    ]
    texts = "no file of items" if examined.titled is None else f"{examined.titled:.1%} of the items have a title"
    lines.append(("texts", texts))
    chosen = ", ".join(f"{path} {value}" for path, value in examined.suggested.items()) or "the usual one"
    lines += [
        ("split", chosen),
        (
            "keeps",
            f"{counted(kept.users, 'user')}, {counted(kept.items, 'item')}, {counted(kept.interactions, 'interaction')}; "
            f"windows: {kept.policy:,} policy, {kept.valid:,} validation, {kept.test:,} test",
        ),
        ("run", command),
    ]
    return lines
