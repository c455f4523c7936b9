"""What makes two stage runs the same: settings, upstream content, the code that is reached, library versions.

No run ids, paths, host names or times enter a key. The code fingerprint covers every module of this package that the stage's
module reaches by import; comments, formatting and docstrings do not count. `softgrpo.config` is left out: what a setting says
reaches a stage only as a value, and the values are in the key.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from softgrpo.common.digests import digest_file, digest_json
from softgrpo.config import ExperimentConfig
from softgrpo.stages.contract import Node

PACKAGE = "softgrpo"
NOT_CODE = frozenset({"softgrpo.config"})
PARSES = 20
_PARSING = threading.Lock()


@cache
def _module_path(module: str) -> Path | None:
    """Returns the file of a module of this package, or None; found without importing anything below the package."""
    package, *inside = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    base = Path(spec.submodule_search_locations[0]).joinpath(*inside)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _names(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Returns what an import statement may import of this package: modules, and names that may be modules."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif node.module is not None and node.level == 0:
        names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    else:
        return set()
    return {name for name in names if name.split(".")[0] == PACKAGE and not _is_description(name)}


def _is_description(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in NOT_CODE)


def _is_docstring(node: ast.stmt) -> bool:
    """Tells whether a statement is text alone: of a module, class or function, or below a constant or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _parse(code: str) -> ast.Module:
    """Parses code, one thread at a time.

    CPython 3.11 counts the depth of all threads' trees together: where the garbage collector lets another thread parse in the
    middle, both end with a SystemError (python/cpython#106905). Others' parsing, such as that of a traceback that is shown, is
    met by parsing again.
    """
    with _PARSING:
        for _ in range(PARSES - 1):
            try:
                return ast.parse(code)
            except SystemError:
                continue
        return ast.parse(code)


@cache
def _read(path: Path) -> tuple[frozenset[str], str]:
    """Returns what a module imports, and the digest of its code; all stages share most of what they reach."""
    tree = _parse(path.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= _names(node)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_docstring(statement)]
    return frozenset(imported), hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def reached_modules(module: str) -> tuple[str, ...]:
    """Returns the names of all modules of this package that a module reaches by import, itself included, sorted."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = _module_path(name)
        if path is None:  # `from package.module import name`: the name is not a module
            continue
        seen.add(name)
        waiting |= _read(path)[0] - seen
    return tuple(sorted(seen))


@cache
def code_fingerprint(module: str) -> str:
    """Returns the digest of the code that a module reaches, and of the templates beside it."""
    parts: dict[str, str] = {}
    for name in reached_modules(module):
        path = _module_path(name)
        assert path is not None
        parts[name] = _read(path)[1]
        parts |= {f"{name}/{template.name}": digest_file(template) for template in sorted(path.parent.glob("*.j2"))}
    return digest_json(parts)


_version = cache(importlib.metadata.version)


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Returns the installed version of each distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: One of them is not installed.
    """
    return {name: _version(name) for name in sorted(names)}


def stage_key(node: Node, config: ExperimentConfig, upstream: Mapping[str, str]) -> str:
    """Returns the identity of one stage run.

    Args:
        node: The stage to run.
        config: The resolved configuration; only the settings that matter to the stage enter.
        upstream: Content digest of each upstream node, by node name.

    Returns:
        `<node name>-<20 hex digits>`.
    """
    identity = {
        "parameters": node.stage.parameters(config, node.variant),
        "upstream": [upstream[name] for name in node.upstream],
        "code": code_fingerprint(node.stage.module),
        "libraries": library_versions(node.stage.libraries),
    }
    return f"{node.name}-{digest_json(identity)[:20]}"
