"""Completion of the command line by the shell, with argcomplete: commands, stages, sizes, datasets, settings and their words.

`softgrpo completion bash` prints what a shell has to know; from then on the shell starts this program with `_ARGCOMPLETE` set.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import argcomplete
from argcomplete.shell_integration import shellcode

from softgrpo.config import DataConfig
from softgrpo.data.locate import known_datasets
from softgrpo.errors import ConfigError, nearest
from softgrpo.flows.command.common import Job
from softgrpo.flows.command.flags import ALIASES
from softgrpo.flows.command.groups import STAGES as GROUP_STAGES
from softgrpo.flows.command.parser import Commands, Parser, add_words, sub_parsers
from softgrpo.flows.command.run import KNOWN as RUN_STAGES
from softgrpo.flows.runtime.failures import OK
from softgrpo.presets import dataset_names, settings, size_names
from softgrpo.presets.ablations import ABLATIONS
from softgrpo.stages.contract import ALL_STAGES

SHELLS = ("bash", "zsh", "fish")
Words = Callable[..., Iterable[str]]


DESCRIPTION = """\
Prints the lines that let a shell complete commands, stages, datasets, flags and their values with the tab key.

  SHELL  bash, zsh or fish

In the file that your shell reads at its start:
  ~/.bashrc                   eval "$(softgrpo completion bash)"
  ~/.zshrc                    autoload -Uz compinit && compinit && eval "$(softgrpo completion zsh)"
  ~/.config/fish/config.fish  softgrpo completion fish | source"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo completion SHELL"
    parser = commands.add_parser("completion", prog="softgrpo completion", description=DESCRIPTION, usage=usage)
    add_words(parser, "SHELL")


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns what prints the lines for a shell.

    Raises:
        ConfigError: The completion of that shell is not known.
    """
    if arguments.SHELL not in SHELLS:
        raise ConfigError(
            f"Shell '{arguments.SHELL}'",
            "Its completion is not known",
            nearest(arguments.SHELL, SHELLS),
            code="CONFIG-003",
        )

    def job() -> int:
        print(shellcode(["softgrpo"], shell="bash" if arguments.SHELL == "zsh" else arguments.SHELL))
        return OK

    return job


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks for completions, and ends the process.

    Args:
        parser: Of the whole command line, with all commands.
    """
    for command, sub in sub_parsers(parser).items():
        stages = RUN_STAGES if command == "run" else GROUP_STAGES
        for action in sub._actions:
            words = _completer(action, stages)
            if words is not None:
                action.completer = words  # type: ignore[attr-defined]  # argcomplete's documented way
    argcomplete.autocomplete(parser, always_complete_options=False, exclude=_second_spellings(), print_suppressed=True)


def typed_words() -> list[str]:
    """Returns the words of the command line that the shell asks about, which is still being typed."""
    return _words(os.environ.get("COMP_LINE", ""))


def _words(line: str) -> list[str]:
    """Returns the words of a command line that is still being typed; an open quote ends with it."""
    for attempt in (line, f"{line}'", f'{line}"'):
        try:
            return shlex.split(attempt)
        except ValueError:
            continue
    return line.split()


def _completer(action: argparse.Action, stages: Iterable[str]) -> Words | None:
    """Returns what completes the value of an argument, None where files do."""
    by_name: dict[str, Words] = {
        "DATASET": _datasets,
        "data.dataset": _datasets,
        "STAGE": _always(stages),
        "force": _always(ALL_STAGES),
        "SIZE": _always(size_names()),
        "NAME": _always(ABLATIONS),
        "SHELL": _always(SHELLS),
        "recall.recallers": _recallers,
    }
    if action.dest in by_name:
        return by_name[action.dest]
    setting = settings().get(action.dest)
    if setting is None:
        return None
    if setting.choices:
        return _always(setting.choices)
    return _always(("true", "false")) if bool in setting.kinds else None


def _always(words: Iterable[str]) -> Words:
    kept = tuple(words)
    return lambda **_: kept


def _datasets(**_: Any) -> Iterable[str]:
    return {*dataset_names(), *known_datasets(DataConfig())}


def _recallers(**_: Any) -> Iterable[str]:
    from softgrpo.common.names import TEXT
    from softgrpo.recallers.plugins import plugin_names
    from softgrpo.recallers.registry import known_recallers

    return (*known_recallers(), TEXT, *plugin_names())


def _second_spellings() -> list[str]:
    """Returns the flags that are another spelling of one that is offered: hyphens in settings, underscores in short flags."""
    hyphens = [f"--{path.replace('_', '-')}" for path in settings() if "_" in path]
    return hyphens + [f"--{alias}" for alias in ALIASES if "_" in alias]
