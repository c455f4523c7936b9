"""RecBole without what its metadata ask for: the extra `recall` has all that its recallers import."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from softgrpo.recallers.registry import known_recallers

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LEFT_OUT = {"plotly", "ray", "tabulate", "thop"}
"""Requirements of RecBole that nothing here reaches."""
OPTIONAL = ("hyperopt", "wandb", "lightgbm", "xgboost", "dgl", "torch_geometric", "torch_scatter", "faiss")
IMPORT_ALL = """
import sys
for name in {blocked!r}: sys.modules[name] = None
from softgrpo.recallers import recbole_adapter, recbole_compat
from softgrpo.recallers.recbole_data import get_model
recbole_compat.restore_aliases()
with recbole_compat.shielded():
    recbole_compat.import_models()
    print(*(get_model(name).__name__ for name in {names!r}))
"""


def distributions(requirements: list[str]) -> set[str]:
    """Returns the names of the distributions that requirements ask for, optional ones left out."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements if "extra ==" not in requirement)
    return {name[0].lower() for name in names if name}


def test_every_recaller_is_imported_without_what_is_left_out() -> None:
    names = sorted(known_recallers())
    code = IMPORT_ALL.format(blocked=[*LEFT_OUT, *OPTIONAL], names=names)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names


def test_the_extra_has_what_recbole_requires_and_its_recallers_import() -> None:
    wanted = distributions(importlib.metadata.requires("recbole") or [])
    extras = PROJECT["optional-dependencies"]
    ours = distributions([*PROJECT["dependencies"], *extras["recall"]])
    assert wanted - ours - {"psutil"} == LEFT_OUT  # accelerate brings psutil
