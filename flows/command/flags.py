"""Command-line flags, generated from the configuration model; only the short names of the original flags are listed here."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from softgrpo.common.text import one_line
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets import Setting, settings
from softgrpo.presets.bounds import read_yaml
from softgrpo.presets.settings import SWITCHED, shown, value_of
from softgrpo.presets.settings_file import read_settings

ALIASES = {
    "dataset": "data.dataset",
    "data_path": "data.data_path",
    "recbole_models": "recall.recallers",
    "seed": "seed",
    "size": "policy.size",
    "model_name": "policy.model_name",
    "bf16": "train.bf16",
    "per_device_train_batch_size": "train.per_device_train_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "warmup_steps": "train.warmup_steps",
    "learning_rate": "sft.learning_rate",
    "num_train_epochs": "sft.num_train_epochs",
    "grpo_lr": "grpo.learning_rate",
    "grpo_epochs": "grpo.num_train_epochs",
    "tau_gumbel": "grpo.tau_gumbel",
    "top_p": "grpo.top_p",
    "epsilon": "grpo.epsilon",
    "beta": "grpo.beta",
    "num_generations": "grpo.num_generations",
}
"""The flags of the original command line, and the settings they stand for."""


SETTINGS_HELP = """\
The common ones, given as --flag VALUE with hyphens or underscores; every other one is --section.setting VALUE
(`softgrpo config --settings` lists all). A default holds where no preset says otherwise; `softgrpo config DATASET SIZE`
shows the values of a run."""


def _numbers(value: Any) -> Any:
    """Returns what YAML read with the numbers that YAML 1.1 takes for texts, such as 1e-3."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _yaml_value(text: str) -> Any:
    """Returns what a flag's YAML means.

    Raises:
        argparse.ArgumentTypeError: It is no YAML, a date that does not exist, or beyond the bounds.
    """
    try:
        return _numbers(read_yaml(text))
    except (yaml.YAMLError, ValueError) as error:
        why = "" if isinstance(error, yaml.YAMLError) else f" ({one_line(str(error))})"
        raise argparse.ArgumentTypeError(
            f"{text} is not readable{why}: the value must be YAML, such as 5, 0.1, CE or [64, 32]"
        ) from error


def add_settings(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Gives a parser one flag for each setting; the original flags are shown in its help, the others work unseen.

    Args:
        parser: The parser to extend.
        arguments: The command line; flags below a mapping (`--recall.settings.SASRec.epochs`) are taken from it.
    """
    common = parser.add_argument_group("settings", SETTINGS_HELP)
    common.add_argument(
        "--config",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="YAML files of settings, as `softgrpo config` prints and `softgrpo init` writes them; a later one wins, and flags "
        "win over all",
    )
    seen = set()
    for alias, path in ALIASES.items():
        _add(common, settings()[path], f"--{alias.replace('_', '-')}", hidden=False)
        seen.add(f"--{alias.replace('_', '-')}")
    for path, setting in settings().items():
        names = [f"--{path}", *(f"--{alias}" for alias, target in ALIASES.items() if target == path)]
        spellings = (spelling for name in names for spelling in (name, name.replace("_", "-")))
        for spelling in dict.fromkeys(spellings):
            if spelling not in seen:
                _add(parser, setting, spelling, hidden=True)
    for path in _below_mappings(arguments):
        parser.add_argument(f"--{path}", dest=path, type=_yaml_value, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def complete_switches(words: Sequence[str]) -> list[str]:
    """Returns a command line on which a switch has its own value, so that it takes no other word for it.

    Args:
        words: The command line; `--bf16 ml-100k` becomes `--bf16=true ml-100k`, `--bf16 false` stays.
    """
    return [
        f"{word}=true" if word in _switches() and follower.lower() not in SWITCHED else word
        for word, follower in zip(words, [*words[1:], ""], strict=False)
    ]


@cache
def _switches() -> frozenset[str]:
    """Returns all spellings of the flags that take true, false or nothing."""
    paths = [path for path, setting in settings().items() if bool in setting.kinds]
    names = paths + [alias for alias, path in ALIASES.items() if path in paths]
    return frozenset(f"--{spelling}" for name in names for spelling in (name, name.replace("_", "-")))


def _below_mappings(arguments: Iterable[str]) -> set[str]:
    mappings = [path for path, setting in settings().items() if dict in setting.kinds]
    flags = {argument.removeprefix("--").split("=")[0] for argument in arguments if argument.startswith("--")}
    return {flag for flag in flags if any(flag.startswith(f"{path}.") for path in mappings)}


def setting_help(setting: Setting, usual: ExperimentConfig | None = None) -> str:
    """Returns what the help of a command says of a setting.

    Args:
        setting: The setting.
        usual: The configuration whose value is the default; None takes the default where no preset says otherwise.
    """
    value = setting.default if usual is None else value_of(usual, setting.path)
    return f"{setting.path} (default {shown(value)}): {setting.description}".replace("%", "%%")


def _add(group: argparse._ActionsContainer, setting: Setting, name: str, *, hidden: bool) -> None:
    options: dict[str, Any] = {
        "dest": setting.path,
        "default": argparse.SUPPRESS,
        "help": argparse.SUPPRESS if hidden else setting_help(setting),
        "metavar": "{" + ",".join(setting.choices) + "}" if setting.choices else "VALUE",
    }
    if setting.many:
        options["nargs"] = "*"
    elif bool in setting.kinds:
        options |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    group.add_argument(name, **options)


def _value(setting: Setting, typed: str | list[str]) -> Any:
    """Returns what a flag's words mean; whether it is legal is for the configuration to say, which reads numbers from text."""
    words = typed if isinstance(typed, list) else [typed]
    if setting.nullable and words == ["null"]:
        return None
    return _yaml_value(words[0]) if dict in setting.kinds else typed


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that a parsed command line names, by dotted path: of its files, and above them of its flags.

    Raises:
        ConfigError: The value of a mapping is no YAML, or see `softgrpo.presets.settings_file.read_settings`.
    """
    by_path = _of_files(arguments)
    for path, typed in sorted(vars(arguments).items()):  # `recall.settings` before what lies below it
        if path in settings():
            try:
                by_path[path] = _value(settings()[path], typed)
            except argparse.ArgumentTypeError as error:
                raise ConfigError(
                    f"--{path}: {error}",
                    "The value must be YAML, such as {SASRec: {epochs: 5}}",
                    "Correct it",
                    code="CONFIG-008",
                ) from error
        elif "." in path:
            by_path[path] = typed
    return by_path


def _of_files(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of the files of a command line, for the dataset and the size that it names."""
    words = vars(arguments)
    files = words.get("config")
    if not files:
        return {}
    dataset, size = (
        words.get(path, words.get(word)) for path, word in (("data.dataset", "DATASET"), ("policy.size", "SIZE"))
    )
    return read_settings(files, dataset, size)


def refuse_unknown(
    arguments: Sequence[str], words: Sequence[str], command: str, parsers: Mapping[str, argparse.ArgumentParser]
) -> None:
    """Says which flag was meant.

    Args:
        arguments: What the parser did not understand.
        words: The command line as it was given.
        command: The command they were given to.
        parsers: Of all commands.

    Raises:
        ConfigError: There is something that was not understood.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:
        name = flags[0].split("=")[0]
        known = {other: _flags(parser) for other, parser in parsers.items()}
        owners = [f"`softgrpo {other}`" for other, names in known.items() if _spelt(name) in names]
        remedy = f"It is a flag of {', '.join(owners)}" if owners else nearest(_spelt(name), known[command])
        raise ConfigError(f"Flag '{name}'", f"`softgrpo {command}` has no such flag", remedy, code="CONFIG-009")
    before = dict(zip(words[1:], words, strict=False)).get(arguments[0], "") if arguments else ""
    if before in _switches():
        raise ConfigError(
            f"{before} {arguments[0]}",
            "It is a switch: true, false or nothing follows",
            "Correct it",
            code="CONFIG-010",
        )
    if arguments:
        raise ConfigError(
            f"'{' '.join(arguments)}' at the end of the command line",
            "Nothing is expected there",
            "Values with spaces need quotes",
            code="CONFIG-011",
        )


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    options = [option for action in parser._actions for option in action.option_strings]
    return {_spelt(option) for option in options if option.startswith("--")}


def _spelt(flag: str) -> str:
    """Returns a flag as documents write it, whatever its dashes."""
    return f"--{flag.lstrip('-').replace('-', '_')}"
