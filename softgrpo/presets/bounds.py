"""How large and how deep a value of a setting may be, so that one from elsewhere cannot take all time or memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from softgrpo.common.text import one_line
from softgrpo.errors import ConfigError

MOST_CHARACTERS = 20_000
MOST_DEPTH = 20
MOST_PARTS = 10_000
LARGEST = 2**63
PLAIN = (str, int, float, list, tuple, Mapping, Path)
RULE = f"A value has at most {MOST_CHARACTERS:,} characters, {MOST_PARTS:,} parts and {MOST_DEPTH} levels"


def read_yaml(text: str) -> Any:
    """Returns what YAML from elsewhere means: plain values only, within the bounds, without anchors, aliases and tags.

    Raises:
        ValueError: It is no such YAML, or beyond the bounds; the message says which.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; {RULE.lower()}")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # it does not call itself, as what builds values does
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested deeper than that: {RULE.lower()}")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise ValueError(f"it has an anchor or an alias ({one_line(event.anchor)}), and parts are written out here")
        if getattr(event, "tag", None) is not None:
            raise ValueError("it has a tag, such as !!float, and here the form of a value says what it is")
    return yaml.safe_load(text)


def check_bounds(values: Mapping[str, Any]) -> None:
    """Checks values that may come from anywhere, such as a request to Prefect's server.

    Args:
        values: By dotted path.

    Raises:
        ConfigError: One is too large, too deep or holds itself, or a part of it is neither text nor number nor one of these.
    """
    for path, value in values.items():
        parts, level = 0, [value]
        for _ in range(MOST_DEPTH + 1):
            parts += len(level)
            if parts > MOST_PARTS:
                raise ConfigError(f"{path} has more than {MOST_PARTS:,} parts", RULE, "Shorten it", code="CONFIG-051")
            for each in level:
                _check_part(path, each)
            level = list(islice(chain.from_iterable(map(_parts, level)), MOST_PARTS + 1))
        if level:
            raise ConfigError(
                f"{path} is nested deeper than {MOST_DEPTH} levels, or holds itself",
                RULE,
                "Shorten it",
                code="CONFIG-052",
            )


def _parts(value: Any) -> Iterable[Any]:
    """Returns the keys and values of a mapping, the members of a list, nothing of what is no container."""
    if isinstance(value, Mapping):
        return chain(value.keys(), value.values())
    return value if isinstance(value, list | tuple) else ()


def _check_part(path: str, part: Any) -> None:
    if isinstance(part, int) and abs(part) > LARGEST:
        raise ConfigError(
            f"{path} holds a whole number of {part.bit_length()} bits",
            "A whole number must fit into 64 bits",
            "Correct it",
            code="CONFIG-053",
        )
    if isinstance(part, str) and any("\ud800" <= character <= "\udfff" for character in part):
        raise ConfigError(
            f"{path} holds text that is not Unicode: {one_line(part)}",
            "Text has no lone surrogates, which are no characters and cannot be written to a file",
            "Correct it",
            code="CONFIG-087",
        )
    if not (part is None or isinstance(part, PLAIN)):
        raise ConfigError(
            f"{path} holds a {type(part).__name__}: {one_line(str(part))}",
            "The parts of a value are text, numbers, true, false, null, lists and mappings",
            "Put it into quotes if it is a text",
            code="CONFIG-054",
        )
