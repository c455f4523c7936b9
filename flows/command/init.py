"""`softgrpo init DATASET`: a commented file of settings, filled from the data."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softgrpo.common.files import written_whole
from softgrpo.flows.command.check_data import run_command
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.config import as_flat, listing
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.destination import check_destination
from softgrpo.flows.command.flags import add_settings, overrides
from softgrpo.flows.command.parser import Commands, Parser, add_debug, add_json, add_overwrite
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.flows.runtime.failures import OK

PLACES = ("data.dataset", "data.source", "data.data_path", "policy.size")
DESCRIPTION = """\
Reads a dataset and writes a file of settings for it: what the data need and what the command line says is set, every other
setting is a comment with its value. `softgrpo run DATASET full tiny --config FILE` reads it.

  DATASET  a file or folder, such as ratings.csv or data/ml-25m, or the name of a dataset"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo init DATASET [--to FILE [--overwrite]] [--json] [--flag value ...]"
    parser = commands.add_parser("init", prog="softgrpo init", description=DESCRIPTION, usage=usage)
    parser.add_argument("DATASET", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: DATASET.yaml in the working directory")
    add_debug(parser)
    add_json(parser)
    add_overwrite(parser)
    add_settings(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Reads the data and returns what writes the file.

    Raises:
        SoftGRPOError: The data cannot be read, or the file cannot be written.
    """
    config = resolve_named(arguments, arguments.DATASET, "full", "tiny", follow_data=False)
    to = arguments.to or Path(f"{config.data.dataset}.yaml")
    check_takes_files("--to", to.parent)
    check_destination([to], overwrite=arguments.overwrite)
    from softgrpo.data.examine import examine

    examined = examine(config.data, config.split, config.seed)
    flat = as_flat(config)
    named = {
        ".".join(path.split(".")[:2]) for path in overrides(arguments)
    }  # of recall.settings.BPR.epochs the mapping
    stated = {path: flat[path] for path in flat if path in named}
    found = {
        f"data.{role}_field": examined.columns[role].name
        for role in ("user", "item", "time")
        if role in examined.columns
    }
    chosen = {path: value for path, value in (found | examined.suggested | stated).items() if path not in PLACES}
    text = commented(flat, chosen, arguments.DATASET, to)

    def job() -> int:
        to.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(to) as aside:
            aside.write_text(text, encoding="utf-8")
        command = f"{run_command(arguments.DATASET, {}, {})} --config {shlex.quote(str(to))}"
        if arguments.json:
            print_json({"file": str(to), "settings": chosen, "command": command})
        else:
            print(f"{to}: {len(chosen)} settings are set, all others are comments\n{command}")
        return OK

    return job


def commented(flat: Mapping[str, Any], chosen: Mapping[str, Any], dataset: str, to: Path) -> str:
    """Returns a file of settings in which only the chosen ones are set.

    Args:
        flat: Every setting by dotted path, JSON-able.
        chosen: The settings that are set.
        dataset: As the user names it.
        to: Where the file goes.
    """
    head = [
        f"# Settings for {dataset}: softgrpo run {dataset} full tiny --config {to}",
        "# A '#' right before a setting leaves it as it is without this file; take the '#' away to set it.",
    ]
    lines: list[str] = []
    section = ""
    for path in flat:
        name, dot, _ = path.partition(".")
        if path in PLACES:
            continue
        block = listing({path: chosen.get(path, flat[path])}).splitlines()
        if dot:
            heading, *block = block
            if name != section:
                lines.append(heading)
                section = name
        lines += block if path in chosen else map(_without_effect, block)
    return "\n".join([*head, "", *lines]) + "\n"


def _without_effect(line: str) -> str:
    """Returns a line of YAML as a comment that keeps its place; a comment stays one."""
    plain = line.lstrip()
    return line if plain.startswith("#") else f"{line[: len(line) - len(plain)]}#{plain}"
