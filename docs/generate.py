"""The reference pages, made from the code: settings from the configuration, functions and classes from their docstrings."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import NoneType
from typing import Any

import softgrpo
from softgrpo.config import ExperimentConfig
from softgrpo.presets import settings
from softgrpo.presets.settings import shown

ROOT = Path(__file__).parents[1]
LAYERS = ("softgrpo", "tasks", "flows")
"""The layers that have pages."""
KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    tuple: "list",
    dict: "mapping",
    NoneType: "null",
}
"""What people call the types of values."""


def packages() -> list[str]:
    """Returns the dotted names of all packages; each has a page."""
    return sorted(_dotted(path.parent) for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py"))


def _dotted(folder: Path) -> str:
    """Returns the name that a package is imported under; the shells are packages inside of `softgrpo`."""
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "softgrpo" else ("softgrpo", *parts))


def modules(package: str) -> list[str]:
    """Returns the dotted names of the modules directly in a package, itself first."""
    folder = ROOT / package.replace(".", "/")
    inside = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    documented = (folder / "__init__.py").read_text(encoding="utf-8").strip()
    return ([package] if documented else []) + [f"{package}.{name}" for name in inside]


def package_page(package: str) -> str:
    """Returns the page of a package: every module with what is public in it."""
    parts = [f"# {package}"]
    for module in modules(package):
        parts.append(f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```")
    return "\n\n".join(parts) + "\n"


def face_page() -> str:
    """Returns the page of the public names of `softgrpo`: a table, then each with its whole description."""
    things = {name: getattr(softgrpo, name) for name in softgrpo.__all__}
    rows = [
        f"| [`{name}`](#{name.lower()}) | {_first_line(thing)} | `{softgrpo.HOMES[name]}` |"
        for name, thing in things.items()
    ]
    parts = [
        "# Public names",
        "```python\nfrom softgrpo import SoftGRPOConfig, SoftGRPOTrainer, fuse, load_policy, ndcg\n```",
        "These names stay where they are when modules move. Each is imported when it is first asked for, so `import softgrpo`\n"
        "alone loads neither torch nor transformers.",
        "\n".join(["| name | what it is | module |", "|---|---|---|", *rows]),
    ]
    for name, thing in things.items():
        kind = "autoclass" if isinstance(thing, type) else "autofunction"
        options = "   :no-index:\n" + ("   :no-members:\n" if kind == "autoclass" else "")
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {softgrpo.HOMES[name]}.{name}\n{options}```")
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Returns the page of all settings: one table for each section, in the order of the configuration."""
    sections: dict[str, list[str]] = defaultdict(list)
    for setting in settings().values():
        section = setting.path.rpartition(".")[0]
        default = shown(setting.default)
        kinds = [
            word for kind, word in KINDS.items() if kind in setting.kinds and not (kind is str and setting.choices)
        ]
        values = ", ".join([*(f"`{choice}`" for choice in setting.choices), *kinds])
        described = " ".join(setting.description.split()).replace("|", "\\|")
        sections[section].append(f"| `{setting.path}` | {f'`{default}`' if default else ''} | {values} | {described} |")
    parts = [
        "# All settings",
        "Made from `softgrpo/config/`. A default holds where no preset says otherwise; `softgrpo config DATASET SIZE` shows the\n"
        "values of a run, and [settings](../../settings.md) says how they are given.",
    ]
    for section, rows in sections.items():
        model = ExperimentConfig.model_fields[section].annotation if section else ExperimentConfig
        title = f"{section}: {_first_line(model)}" if section else _first_line(model)
        parts.append(f"## {title}")
        parts.append("\n".join(["| setting | default | values | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _first_line(model: Any) -> str:
    return str(model.__doc__).strip().partition("\n")[0].rstrip(".")


def write_pages(folder: Path) -> None:
    """Writes all pages into a folder; those that are right already are left alone, so that Sphinx does not read them again."""
    pages = {"public": face_page(), "settings": settings_page()}
    pages |= {package: package_page(package) for package in packages()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def as_restructured_text(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring with what means something else in reStructuredText escaped.

    Indented blocks, which show layouts and formulas, become literal; text in backticks stays as it is.
    """
    found: list[str] = []
    literal = False
    for line in lines:
        starts = line.startswith("    ") and not any(part.strip() for part in found[-1:]) and not _in_section(found)
        if starts and not literal:
            found += [".. code-block:: text", ""]
        literal = starts or (literal and (not line.strip() or line.startswith("    ")))
        if literal:
            found.append(line)
        else:
            found.append(_escaped(line if _in_section(found) or _in_list(found) else line.lstrip()))
    return found


def _in_list(lines: list[str]) -> bool:
    """Tells whether the line above is in an item of a list; elsewhere an indented line goes on with the sentence."""
    return bool(lines) and re.match(r"- |  ", lines[-1]) is not None


def _in_section(lines: list[str]) -> bool:
    """Tells whether the latest text that is not indented is the heading of a section, such as `Args:`."""
    heads = [line for line in lines if line and not line.startswith(" ")]
    return bool(heads) and re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", heads[-1]) is not None


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    plain = [re.sub(r"([|*])|(?<=\w)(_)(?!\w)", lambda match: "\\" + match[0], part) for part in parts[::2]]
    names = [f"`{part.strip('` ')}`" for part in parts[1::2]]  # no space may stand beside a backtick
    joined = "".join(part for pair in zip(plain, [*names, ""], strict=True) for part in pair)
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", joined)  # `name`s
