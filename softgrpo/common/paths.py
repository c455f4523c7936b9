"""Where this copy of the code is, and the folders of an output folder."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the package `softgrpo`."""
SHELLS = ("deployments", "flows", "tasks")
"""What is around the science, in folders of the package; in a clone they are links to the folders beside it."""
DEPLOYMENTS = PACKAGE / "deployments"
"""Folder of the files that Prefect and supervisord read."""
CLONE = PACKAGE.parent if (PACKAGE.parent / "Makefile").is_file() else None
"""The repository, None where the package was installed from a wheel."""

STAGES = "stages"
"""Folder of the finished stages, below an output folder."""


def stages_folder(output: Path) -> Path:
    """Returns the folder of the finished stages in an output folder."""
    return output.resolve() / STAGES


def path_of_this_code() -> dict[str, str]:
    """Returns the variable that lets another process import the code of this one, where no installation leads to it."""
    folder = str(PACKAGE.parent)
    if folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return {}
    return {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
