"""Each extra makes sense alone: what it is for is imported with all packages blocked that it does not bring."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import softgrpo

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALGORITHM = [
    "FusionConfig",
    "PromptRows",
    "RankingReward",
    "SoftGRPOConfig",
    "SoftGRPOError",
    "SoftGRPOTrainer",
    "fuse",
    "ndcg",
]
"""The public names that need no extra."""
SCIENCE = [
    module.name
    for module in pkgutil.walk_packages([str(ROOT / "softgrpo")], "softgrpo.")
    if module.name.split(".")[1] not in ("flows", "tasks")
    and not re.search(r"\.(implicit_als|recbole_\w+)$", module.name)
]
"""All modules but those that import a package which no extra of the pipeline brings."""
BLOCK = """
import importlib.machinery, sys
class Found(importlib.machinery.PathFinder):
    finders = list(sys.meta_path)
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            return None
        specs = (finder.find_spec(name, path, target) for finder in cls.finders)
        return next((spec for spec in specs if spec is not None), None)
sys.meta_path[:] = [Found]
"""
"""Lets a process find no package that is blocked, as if it were not installed."""


def normalised(name: str) -> str:
    """Returns the name of a distribution as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def brought_by(requirements: list[str]) -> set[str]:
    """Returns the names of all distributions that an installer would install, those of extras of softgrpo included."""
    waiting = [Requirement(line) for line in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = normalised(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            inner = EXTRAS[extra] if name == "softgrpo" else _requires(name)
            waiting += [
                each for each in map(Requirement, inner) if not each.marker or each.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


_installed = cache(importlib.metadata.packages_distributions)


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # of another system or Python
        return []


def imports(code: str, requirements: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs code in a process where nothing can be imported but the standard library and what requirements bring."""
    there = brought_by(requirements) | {"softgrpo", "setuptools"}
    packages = _installed()
    blocked = {name for name, owners in packages.items() if there.isdisjoint(map(normalised, owners))}
    words = [sys.executable, "-c", BLOCK.format(blocked=blocked) + code]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_algorithm_needs_no_extra() -> None:
    done = imports(f"from softgrpo import {', '.join(ALGORITHM)}", PROJECT["dependencies"])
    assert done.returncode == 0, done.stderr


def test_the_core_brings_no_more_than_torch_transformers_and_trl() -> None:
    own = {normalised(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert own <= brought_by(["torch", "transformers", "trl"])


@pytest.mark.slow
def test_policies_are_served_with_their_extra() -> None:
    code = "from softgrpo import Router, load_policy\nimport softgrpo.serving.bundle"
    done = imports(code, [*PROJECT["dependencies"], *EXTRAS["serve"]])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_science_is_imported_with_what_trains_recallers() -> None:
    done = imports(f"import {', '.join(SCIENCE)}", [*PROJECT["dependencies"], *EXTRAS["recall"]])
    assert done.returncode == 0, done.stderr


def test_an_extra_that_is_missing_is_seen() -> None:
    done = imports("import softgrpo.evaluation.plots", PROJECT["dependencies"])
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("extra", EXTRAS)
def test_all_has_every_extra_of_users(extra: str) -> None:
    (everything,) = map(Requirement, EXTRAS["all"])
    assert (extra in everything.extras) == (extra not in ("all", "dev"))
    assert softgrpo.__version__  # an installed softgrpo, whose extras these are
