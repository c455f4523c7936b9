"""The values that settings have where a command line says nothing of them: those of its dataset, stage and size."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from softgrpo.common.text import visible
from softgrpo.config import DataConfig, ExperimentConfig
from softgrpo.data.kinds import named_data
from softgrpo.errors import DataError, SoftGRPOError, nearest
from softgrpo.flows.command.flags import overrides, setting_help
from softgrpo.flows.command.parser import sub_parsers
from softgrpo.presets import dataset_names, resolve, settings

HELP_FLAGS = frozenset({"-h", "--help"})
HELP_WIDTH = 120
DEFAULT_SIZES = {"pure": "small"}
"""Of commands that take no SIZE, where it is not tiny."""
DEFAULT_SETTINGS: dict[str, dict[str, Any]] = {
    "pure": {"grpo.noise": "independent", "grpo.noise_scale": 1.0, "grpo.top_p": 0.9}
}
"""Of commands that mean the published algorithm, where they say nothing else."""
DECISIVE = ("data", "split", "policy.size")
"""Settings that decide what others are: they choose the presets and say which data there are."""


def check_known(data: DataConfig) -> None:
    """Refuses a dataset of which nothing is known: neither a preset nor files.

    Args:
        data: Names the dataset and the data path.

    Raises:
        DataError: It has no preset, and its files are not on this machine, or not where it is said to be.
    """
    from softgrpo.data.locate import data_paths, download_address, known_datasets, locate

    if data.source is not None:
        locate(data)
        return
    known = {*dataset_names(), *known_datasets(data)}
    if data.dataset in known:
        return
    searched = ", ".join(str(path) for path in data_paths(data))
    fetched = "`softgrpo run` downloads it from RecBole's address. " if download_address(data.dataset) else ""
    raise DataError(
        f"dataset '{data.dataset}'",
        f"there is no preset of that name, and no {data.dataset}/{data.dataset}.inter in {searched}",
        f"{fetched}Name the folder that holds the dataset's own with --data-path. {nearest(data.dataset, known)}",
        code="DATA-001",
    )


def data_named(arguments: argparse.Namespace) -> DataConfig:
    """Returns where the dataset of a parsed command line is looked for; --dataset wins over the position."""
    named, words = overrides(arguments), vars(arguments)
    dataset = named.get("data.dataset", words.get("DATASET", "ml-100k"))
    stated = {path: named[path] for path in ("data.data_path", "data.source") if path in named} | named_data(dataset)
    return DataConfig.model_validate({path.partition(".")[2]: value for path, value in stated.items()})


def resolve_named(
    arguments: argparse.Namespace, dataset: str, stage: str, size: str, *, follow_data: bool = True
) -> ExperimentConfig:
    """Returns the configuration of a command line; --dataset and --size win over the positions, with their presets.

    Args:
        arguments: The parsed command line, whose settings are overrides.
        dataset: Named by position, or the command's own.
        stage: `debug` selects the preset of that name.
        size: Named by position, or the command's own.
        follow_data: See `softgrpo.presets.resolve`.

    Raises:
        SoftGRPOError: A name or a value is wrong, or the data cannot be read.
    """
    named = DEFAULT_SETTINGS.get(arguments.command, {}) | overrides(arguments)
    size = named.get("policy.size", size)
    return resolve(named.get("data.dataset", dataset), size, stage, named, follow_data=follow_data)


def usual_config(arguments: argparse.Namespace) -> ExperimentConfig:
    """Returns the configuration of a command line without the settings that it names.

    Args:
        arguments: The parsed command line.

    Raises:
        SoftGRPOError: Dataset or size are unknown, or the data cannot be read.
    """
    words = vars(arguments)
    named = {path: value for path, value in overrides(arguments).items() if path.startswith(DECISIVE)}
    data = data_named(arguments)
    size = named.get("policy.size", words.get("SIZE", DEFAULT_SIZES.get(arguments.command, "tiny")))
    check_known(data)
    own = DEFAULT_SETTINGS.get(arguments.command, {}) | ({"data.source": data.source} if data.source else {})
    return resolve(data.dataset, size, words.get("STAGE", "full"), own | named)


def explain_usual(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Lets the help of a command show the values of the dataset, stage and size on its command line.

    Where the words do not say which these are, the help shows the defaults of all settings. Where they are wrong, it says that too.

    Args:
        parser: Of the whole command line; the help of one command is changed.
        words: The command line.
    """
    plain = [word for word in words if word not in HELP_FLAGS]
    if len(plain) == len(words) or not plain:
        return
    try:
        arguments, _ = parser.parse_known_args(plain)
        command = sub_parsers(parser)[arguments.command]
        if not any(action.dest in settings() for action in command._actions):
            return
    except SoftGRPOError:  # words are missing, or more than these; who asks for help gets help
        return
    try:
        usual = usual_config(arguments)
    except SoftGRPOError as error:  # the command itself refuses it
        refusal = f"The command will refuse these words ({error.received}: {error.rule})"
        _add_to_settings(command, f"{refusal}, so the defaults below are those of no dataset in particular.")
        return
    for action in command._actions:
        if action.dest in settings() and action.help != argparse.SUPPRESS:
            action.help = setting_help(settings()[action.dest], usual)
    stage = f", stage {vars(arguments)['STAGE']}" if "STAGE" in vars(arguments) else ""
    _add_to_settings(
        command, f"The defaults below are those of {usual.data.dataset} with size {usual.policy.size}{stage}."
    )


def _add_to_settings(command: argparse.ArgumentParser, sentence: str) -> None:
    """Adds a sentence to what the help of a command says above its settings."""
    for group in command._action_groups:
        if group.title == "settings" and group.description is not None:
            group.description += "\n" + textwrap.fill(visible(sentence), HELP_WIDTH)
