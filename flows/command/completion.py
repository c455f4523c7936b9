"""Completion of the command line by the shell, with argcomplete: commands, stages, sizes, datasets, settings and their words.

`softgrpo completion bash` prints what a shell has to know; from then on the shell starts this program with `_ARGCOMPLETE` set.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import argcomplete
from argcomplete.shell_integration import shellcode

from flows.command.flags import ALIASES
from flows.command.parser import REPEATABLE, build_parser, sub_parsers
from softgrpo.config import DataConfig
from softgrpo.data.locate import known_datasets
from softgrpo.presets import dataset_names, settings, size_names
from softgrpo.presets.ablations import ABLATIONS

VARIABLE = "_ARGCOMPLETE"
SHELLS = ("bash", "zsh", "fish")
Words = Callable[..., Iterable[str]]


def script(shell: str) -> str:
    """Returns what a shell evaluates to complete `softgrpo`."""
    return str(shellcode(["softgrpo"], shell="bash" if shell == "zsh" else shell))


def complete(stages: Iterable[str], group_stages: Iterable[str]) -> None:
    """Answers a shell that asks for completions, and ends the process; returns at once where no shell asks.

    Args:
        stages: What STAGE may be in `run`.
        group_stages: What it may be in the commands of several pipelines.
    """
    if VARIABLE not in os.environ:
        return
    parser = build_parser(_words(os.environ.get("COMP_LINE", "")))
    for command, sub in sub_parsers(parser).items():
        known = group_stages if command in ("tune", "multi-recaller", "ablate") else stages
        for action in sub._actions:
            words = _completer(action, known)
            if words is not None:
                action.completer = words  # type: ignore[attr-defined]  # argcomplete's documented way
    argcomplete.autocomplete(parser, always_complete_options=False, exclude=_second_spellings(), print_suppressed=True)


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
    given: dict[str, Words] = {
        "DATASET": _datasets,
        "data.dataset": _datasets,
        "STAGE": _always(stages),
        "force": _always(REPEATABLE),
        "SIZE": _always(size_names()),
        "NAME": _always(ABLATIONS),
        "SHELL": _always(SHELLS),
        "recall.recallers": _recallers,
    }
    if action.dest in given:
        return given[action.dest]
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
    from softgrpo.recallers.registry import known_recallers

    return known_recallers()


def _second_spellings() -> list[str]:
    """Returns the flags that are another spelling of one that is offered: hyphens in settings, underscores in short flags."""
    hyphens = [f"--{path.replace('_', '-')}" for path in settings() if "_" in path]
    return hyphens + [f"--{alias}" for alias in ALIASES if "_" in alias]
