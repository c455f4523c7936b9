"""Sentences on the settings in which runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping

from softgrpo.presets.changes import WITHOUT_EFFECT

POOL = "recall.recallers"


def differing_settings(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Returns the settings that are not equal everywhere and change a number: setting -> label of the run -> value.

    Args:
        settings: Label of a run -> its settings, by dotted path; "not set" stands where one has none.
    """
    names = dict.fromkeys(name for values in settings.values() for name in values if name not in WITHOUT_EFFECT)
    by_name = {name: {label: values.get(name, "not set") for label, values in settings.items()} for name in names}
    return {name: values for name, values in by_name.items() if len(set(values.values())) > 1}


def differing(settings: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Returns one sentence for each run after the first: in which settings it differs from the first.

    Args:
        settings: The settings of each run by dotted path, by what the run is called.
    """
    (first, base), *others = settings.items()
    return tuple(_sentence(name, values, first, base) for name, values in others)


def _sentence(name: str, values: Mapping[str, str], first: str, base: Mapping[str, str]) -> str:
    unequal = [path for path in dict.fromkeys([*base, *values]) if base.get(path) != values.get(path)]
    effective = [path for path in unequal if path not in WITHOUT_EFFECT and not _of_one_pool(path, values, base)]
    if not effective:
        return f"{name} has the settings of {first}."
    changes = [f"{path} ({_text(values.get(path))}, not {_text(base.get(path))})" for path in effective]
    return f"{name} differs from {first} in {', '.join(changes)}."


def _of_one_pool(path: str, values: Mapping[str, str], base: Mapping[str, str]) -> bool:
    """Tells whether a setting is one of a recaller that only one of two pools has: that the pools differ says it already."""
    alike = values.get(POOL) == base.get(POOL)
    return not alike and path.startswith("recall.settings.") and not (path in values and path in base)


def _text(value: str | None) -> str:
    """Returns a value in words; names in a list have a plus sign between them."""
    if value is None:
        return "unset"
    return " + ".join(json.loads(value)) if value.startswith('["') and value.endswith('"]') else value
