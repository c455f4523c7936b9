"""All settings of the configuration as a flat list, read from the model: the source of flags, listings and messages."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from softgrpo.config import ExperimentConfig, Section


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        path: Dotted name, such as `grpo.top_p`.
        kinds: The plain types that a value may have; `NoneType` where null is allowed.
        choices: The words that are allowed, empty where any value of the right type may be.
        default: Value where no preset and no user says otherwise.
        description: What it does.
    """

    path: str
    kinds: frozenset[type]
    choices: tuple[str, ...]
    default: Any
    description: str

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return types.NoneType in self.kinds

    @property
    def many(self) -> bool:
        """Whether it holds a list."""
        return tuple in self.kinds


def _members(annotation: Any) -> tuple[set[type], tuple[str, ...]]:
    """Returns the plain types and the allowed words of an annotation."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin is Literal:
        return {str}, tuple(get_args(annotation))
    if origin in (Union, types.UnionType):
        parts = [_members(part) for part in get_args(annotation)]
        return set().union(*(kinds for kinds, _ in parts)), tuple(word for _, words in parts for word in words)
    return {origin or annotation}, ()


def _setting(path: str, field: FieldInfo) -> Setting:
    kinds, choices = _members(field.annotation)
    default = field.get_default(call_default_factory=True)
    return Setting(path, frozenset(kinds), choices, default, " ".join((field.description or "").split()))


@cache
def settings() -> dict[str, Setting]:
    """Returns all settings by dotted path, in the order of the configuration."""
    found: dict[str, Setting] = {}
    for name, field in ExperimentConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            found |= {f"{name}.{key}": _setting(f"{name}.{key}", inner) for key, inner in section.model_fields.items()}
        else:
            found[name] = _setting(name, field)
    return found


def value_of(config: ExperimentConfig, path: str) -> Any:
    """Returns the value of a setting, one of `settings()`, in a configuration."""
    return reduce(getattr, path.split("."), config)


def shown(value: Any) -> str:
    """Returns a value as people write it on the command line and in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(shown(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


SWITCHED = ("true", "false")
"""What may stand behind a switch as a word of its own."""


def as_flags(overrides: Mapping[str, Any]) -> list[str]:
    """Returns the words of a command line that names these settings; the opposite of `overrides`.

    Args:
        overrides: Values by dotted path.
    """
    words: list[str] = []
    for path, value in overrides.items():
        if isinstance(value, list | tuple) and path in settings():
            items = list(map(str, value))
            alone = len(items) == 1 and items[0].startswith("-")  # a word of its own would be read as a flag
            words += [f"--{path}={items[0]}"] if alone else [f"--{path}", *items]
            continue
        text = value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)
        whole = text.startswith("-") or (
            path in settings() and bool in settings()[path].kinds and text.lower() not in SWITCHED
        )
        words += [f"--{path}={text}"] if whole else [f"--{path}", text]
    return words
