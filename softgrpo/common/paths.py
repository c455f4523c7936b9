"""Where this copy of the code is, and the folders of an output folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds the packages `softgrpo`, `tasks` and `flows`; in a checkout, the repository."""


STAGES = "stages"
"""Folder of the finished stages, below an output folder."""


def stages_folder(output: Path) -> Path:
    """Returns the folder of the finished stages in an output folder."""
    return output.resolve() / STAGES
