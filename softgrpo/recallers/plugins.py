"""Recallers of other libraries: classes that installed packages name in the entry point group `softgrpo.recallers`.

What is installed is read from the packages' metadata; a plug-in's own code is imported when it is checked, fitted or loaded. A
stage's key holds what decides its lists without importing it: the package's version, its code, and the versions of the libraries
that it requires. Legend: n interactions, B windows of a batch, I items.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.digests import digest_file, digest_json
from softgrpo.errors import RecallerError, nearest

GROUP = "softgrpo.recallers"
OWN = "softgrpo"
NAME = re.compile(r"[A-Z][A-Za-z0-9_-]{0,31}")
_DOCUMENT = "docs/own-recaller.md says what a plug-in is"
_REQUIRED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")


@dataclass(frozen=True)
class Interactions:
    """What a recaller may train on, by user and, within a user, from the oldest to the latest.

    Attributes:
        users: (n,) int32 user ids, below `num_users`.
        items: (n,) int32 item ids, below `num_items`.
        num_users: Users of the corpus; some may have no row.
        num_items: I, items of the corpus; some may have no row.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    num_users: int
    num_items: int


class Plugin(Protocol):
    """A recaller of another library; what an entry point names is a class like this."""

    SETTINGS: Mapping[str, Any]
    """Names of its settings and their defaults: numbers, words or true and false, of the type that a value must have."""

    @classmethod
    def fit(cls, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Self:
        """Returns a trained recaller; the same arguments give the same one.

        Args:
            interactions: What it may know.
            settings: Every one of `SETTINGS`.
            seed: Of everything random.
        """

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Returns scores (B, I) of all items, higher is better; -inf for items and in rows of users that it knows nothing of.

        Args:
            users: (B,) user ids.
            histories: B arrays of item ids, oldest first: everything before the window. They must not be changed.
        """

    def save(self, folder: Path) -> None:
        """Writes the recaller into an empty folder: data, no pickle."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns what `save` wrote; it gives the same scores."""


_PARTS = ("SETTINGS", "fit", "score", "save", "load")


@cache
def _installed(path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Returns the entry points by name; `path` is where packages are looked for, which tests and notebooks change."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def plugin_names() -> tuple[str, ...]:
    """Returns the names of all installed plug-ins, sorted; nothing of them is imported."""
    return tuple(sorted(_installed(tuple(sys.path))))


def plugin_point(name: str) -> EntryPoint:
    """Returns where a plug-in is.

    Raises:
        RecallerError: None has that name, several packages have it, or a recaller cannot have it.
    """
    points = _installed(tuple(sys.path)).get(name, ())
    if not points:
        raise RecallerError(
            f"Recaller '{name}'",
            f"no installed package has an entry point of that name in the group {GROUP}",
            nearest(name, plugin_names()),
            code="RECALLER-019",
        )
    if len(points) > 1:
        raise RecallerError(
            f"Recaller '{name}'",
            f"{len(points)} packages have it: {', '.join(sorted(_package(point).name for point in points))}",
            "Uninstall all but one of them",
            code="RECALLER-020",
        )
    if not NAME.fullmatch(name):
        raise RecallerError(
            f"Recaller '{name}' of the package {_package(points[0]).name}",
            "The name of a plug-in begins with a capital letter; up to 31 more of A-Z, a-z, 0-9, - and _ follow",
            "Change the name of its entry point",
            code="RECALLER-021",
        )
    return points[0]


def package_of(name: str) -> str:
    """Returns the name of the package that a plug-in is from; errors as in `plugin_point`."""
    return _package(plugin_point(name)).name


def _package(point: EntryPoint) -> Distribution:
    assert point.dist is not None, "an entry point that was not read from a package"
    return point.dist


def plugin_identity(name: str) -> dict[str, Any]:
    """Returns what decides a plug-in's lists beside its settings, JSON-able: the package's version, its code, its libraries.

    Raises:
        RecallerError: As in `plugin_point`; or its code, or a library that it requires, is not installed.
    """
    point = plugin_point(name)
    package = _package(point)
    return {
        "class": point.value,
        "package": package.name,
        "version": "" if package.name == OWN else package.version,  # of this package the code counts, as everywhere
        "code": digest_json({place: digest_file(path) for place, path in _code(name, point.module).items()}),
        "libraries": {library: _version(name, library, package) for library in _libraries(point)},
    }


def _code(name: str, module: str) -> dict[str, Path]:
    """Returns the files of a plug-in's top-level package, found without importing it; of this package only its own module."""
    top, *inside = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise RecallerError(
            f"Recaller '{name}': the module {module}",
            "It is named by an installed entry point, and is not there",
            f"Install the package {package_of(name)} again",
            code="RECALLER-022",
        )
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return {origin.name: origin}
    if top == OWN:
        return {module: origin.parent.joinpath(*inside).with_suffix(".py")}
    return {str(path.relative_to(origin.parent)): path for path in sorted(origin.parent.rglob("*.py"))}


def _libraries(point: EntryPoint) -> tuple[str, ...]:
    """Returns the distributions that a plug-in requires: those of the extras that its entry point names, else the package's."""
    found = set()
    for text in _package(point).requires or ():
        requirement, _, marker = text.partition(";")
        extra = _EXTRA.search(marker)
        if (extra is not None and extra[1] in point.extras) or (not point.extras and not marker.strip()):
            match = _REQUIRED.match(requirement)
            assert match is not None, text
            found.add(match[1])
    return tuple(sorted(found))


def _version(name: str, library: str, package: Distribution) -> str:
    try:
        return version(library)
    except PackageNotFoundError as error:
        extras = ",".join(plugin_point(name).extras)
        raise RecallerError(
            f"Recaller '{name}' without the package {library}",
            f"The plug-in of {package.name} requires it",
            f"Run: pip install {library}, or '{package.name}{f'[{extras}]' if extras else ''}'",
            code="RECALLER-023",
        ) from error


def load_class(name: str) -> type[Plugin]:
    """Imports a plug-in.

    Raises:
        RecallerError: As in `plugin_identity`; or it cannot be imported, or is no such class.
    """
    plugin_identity(name)  # says which library is missing before an import fails for it
    point = plugin_point(name)
    try:
        found = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise RecallerError(
            f"Recaller '{name}': {type(error).__name__}: {error}",
            f"The entry point {point.value} of the package {package_of(name)} must be importable",
            "Correct or update the package",
            code="RECALLER-024",
        ) from error
    missing = [part for part in _PARTS if not hasattr(found, part)]
    if not isinstance(found, type) or missing or not isinstance(getattr(found, "SETTINGS", None), Mapping):
        raise RecallerError(
            f"Recaller '{name}': {point.value} {'lacks ' + ', '.join(missing) if missing else 'is no class with SETTINGS'}",
            f"A plug-in is a class with {', '.join(_PARTS)}",
            _DOCUMENT,
            code="RECALLER-025",
        )
    return found


def complete_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all settings of a plug-in, the given ones in place of the defaults.

    Raises:
        RecallerError: As in `load_class`; or a setting is unknown, or of another type than its default.
    """
    known = load_class(name).SETTINGS
    for key, value in settings.items():
        if key not in known:
            raise RecallerError(
                f"Setting '{key}' of recaller {name}",
                f"It is not a setting of {name}",
                nearest(key, known),
                code="RECALLER-026",
            )
        if not _is_like(value, known[key]):
            raise RecallerError(
                f"Setting {key} = {value!r} of recaller {name}",
                f"It must be of the type {type(known[key]).__name__}",
                f"The default is {known[key]!r}",
                code="RECALLER-027",
            )
    return {**known, **settings}


def _is_like(value: Any, default: Any) -> bool:
    """Tells whether a value has the type of a default; a whole number is a number, true and false are not."""
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and bool(np.isfinite(value))
    return default is None or isinstance(value, type(default))
