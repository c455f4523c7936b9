"""Files of settings, such as `softgrpo config` prints: from YAML to overrides by dotted path, several files in layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from softgrpo.common.text import one_line
from softgrpo.data.kinds import named_data
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets.settings import settings, shown

DECIDED_BEFORE = ("data.dataset", "policy.size")
"""A run is started for a dataset and a size, which choose its presets; a file may repeat them, but not change them."""
RULE = "It must be a YAML file of settings, as `softgrpo config DATASET SIZE` prints them"


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns both, the upper one winning; mappings inside are merged too, unless the upper one is empty."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and value else value
    return merged


def read_settings(files: Path | Sequence[Path], dataset: str | None, size: str | None) -> dict[str, Any]:
    """Returns the settings of YAML files by dotted path. Whether their values are legal, `resolve` checks.

    Args:
        files: One or several, a later one wins. Sections with their settings, as `softgrpo config` prints them; dotted paths are
            understood too.
        dataset: The dataset of the run, a name or a path, which the files may repeat; None leaves it to them.
        size: The size of the run, likewise.

    Raises:
        ConfigError: A file cannot be read, is not YAML, holds no settings or unknown ones, or is for another dataset or size.
    """
    nothing: dict[str, Any] = {}
    return reduce(
        merge, (_read(file, dataset, size) for file in ([files] if isinstance(files, Path) else files)), nothing
    )


def _read(file: Path, dataset: str | None, size: str | None) -> dict[str, Any]:
    values = read_layer(file)
    name = None if dataset is None else named_data(dataset)["data.dataset"]
    for path, value in zip(DECIDED_BEFORE, (name, size), strict=True):
        if value is None:
            continue
        if (in_file := values.pop(path, value)) != value:
            word = path.partition(".")[2]
            raise ConfigError(
                f"config = {file}, with {path} = {shown(in_file)}",
                f"The run is one of {word} {value}, and that chooses its presets",
                f"Start the run with {word} {shown(in_file)}, or take {path} out of the file",
                code="CONFIG-066",
            )
    return values


def read_layer(file: Path) -> dict[str, Any]:
    """Returns the settings of one YAML file by dotted path.

    Raises:
        ConfigError: See `read_settings`; the message names the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        lines = dict(_lines(file, yaml.compose(text, Loader=yaml.SafeLoader)))
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(" ".join(str(error).split()))
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(
            f"config = {file}{where} ({reason})", RULE, "Name another file, or correct this one", code="CONFIG-064"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"config = {file}, which holds no settings",
            RULE,
            "Name another file, or correct this one",
            code="CONFIG-065",
        )
    values = _by_path({str(key): value for key, value in content.items()})
    for path in values:
        _check_known(file, path, lines)
    return values


def _by_path(content: dict[str, Any]) -> dict[str, Any]:
    """Returns {"sft": {"learning_rate": 1}} as {"sft.learning_rate": 1}; a setting that is itself a mapping stays one."""
    values: dict[str, Any] = {}
    sections = {name.partition(".")[0] for name in settings() if "." in name}
    for key, value in content.items():
        if value is None and key in sections:  # all that it holds are comments
            continue
        if key in settings() or not isinstance(value, dict):
            values[key] = value
        else:
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
    return values


def _lines(file: Path, node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Gives the dotted paths of a file's keys, and the line of each.

    Raises:
        ConfigError: A key is there twice.
    """
    if not isinstance(node, yaml.MappingNode) or prefix in settings():
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        path, line = f"{prefix}.{key.value}" if prefix else str(key.value), key.start_mark.line + 1
        if path in first:
            raise ConfigError(
                f"config = {file}, line {line}: '{path}' is in line {first[path]} already",
                "A setting is given once in a file",
                "Take one of them out",
                code="CONFIG-110",
            )
        first[path] = line
        yield path, line
        yield from _lines(file, value, path)


def _check_known(file: Path, path: str, lines: Mapping[str, int]) -> None:
    """Checks that there is a setting of this path, or that it lies in a mapping."""
    if path in settings() or any(dict in setting.kinds and path.startswith(f"{name}.") for name, setting in _all()):
        return
    sections = {name.partition(".")[0] for name, _ in _all() if "." in name}
    last = path.rpartition(".")[2]
    same = [name for name, _ in _all() if name.rpartition(".")[2] == last]
    raise ConfigError(
        f"config = {file}, line {lines.get(path, lines.get(path.partition('.')[0], 1))}: '{path}'",
        "There is no setting of that name" + (f"; '{path}' is a section" if path in sections else ""),
        f"Did you mean '{same[0]}'? `softgrpo config --settings` lists all" if same else nearest(path, settings()),
        code="CONFIG-111",
    )


def _all() -> Iterable[tuple[str, Any]]:
    return settings().items()
