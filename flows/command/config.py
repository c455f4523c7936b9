"""`softgrpo config`: the settings of a run, or all settings, as YAML or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from softgrpo.config import ExperimentConfig
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.defaults import check_known, data_named, resolve_named
from softgrpo.flows.command.flags import add_settings
from softgrpo.flows.command.parser import Commands, Parser, add_debug, add_json
from softgrpo.flows.runtime.failures import OK
from softgrpo.presets import settings
from softgrpo.presets.settings import shown

DESCRIPTION = "Prints the settings of a run as YAML, explained."


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo config [DATASET] [SIZE] [--settings] [--flag value ...]"
    parser = commands.add_parser("config", prog="softgrpo config", description=DESCRIPTION, usage=usage)
    parser.add_argument("DATASET", nargs="?", default="ml-100k", help="default ml-100k")
    parser.add_argument("SIZE", nargs="?", default="tiny", help="default tiny")
    parser.add_argument("--settings", action="store_true", help="print all flags with their defaults instead")
    add_debug(parser)
    add_json(parser)
    add_settings(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns what prints the settings.

    Raises:
        SoftGRPOError: Dataset, size or a setting is wrong.
    """
    if not arguments.settings:
        check_known(data_named(arguments))
    config = resolve_named(arguments, arguments.DATASET, "full", arguments.SIZE)
    flat = as_flat(config)

    def job() -> int:
        if arguments.settings:
            _list_settings(as_json=arguments.json)
        elif arguments.json:
            print_json(flat)
        else:
            print(listing(flat))
        return OK

    return job


def as_flat(config: ExperimentConfig) -> dict[str, Any]:
    """Returns every setting of a configuration by dotted path, JSON-able."""
    values = config.model_dump(mode="json")
    return {
        path: values[path] if "." not in path else values[path.split(".")[0]][path.split(".")[1]] for path in settings()
    }


def _list_settings(*, as_json: bool) -> None:
    """Prints every setting with its default and what it does."""
    if as_json:
        names = ("path", "choices", "default", "description")
        print_json([{name: vars(setting)[name] for name in names} for setting in settings().values()])
        return
    for setting in settings().values():
        choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
        print(f"--{setting.path} (default {shown(setting.default) or '-'}){choices}\n    {setting.description}")


def listing(values: Mapping[str, Any]) -> str:
    """Returns settings as YAML with their descriptions as comments.

    Args:
        values: Value by dotted path, JSON-able.
    """
    lines: list[str] = []
    section = ""
    for path, value in values.items():
        *parents, key = path.split(".")
        if parents and parents[0] != section:
            section = parents[0]
            lines.append(f"{section}:")
        setting, indent = settings()[path], "  " * len(parents)
        choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
        lines.append(f"{indent}# {setting.description}{choices}")
        if isinstance(value, dict) and value:
            written = f"{key}:\n" + _yaml(value, block=True)
        else:
            written = f"{key}: {_yaml(value, block=False)}"
        lines.append("\n".join(indent + line for line in written.splitlines()))
    return "\n".join(lines)


def _yaml(value: Any, *, block: bool) -> str:
    """Returns a value in YAML on one line, or a mapping with one line for each key."""
    if block:
        return "\n".join(f"  {key}: {_yaml(inner, block=False)}" for key, inner in value.items())
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
