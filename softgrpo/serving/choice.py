"""Which methods of a finished run can be asked, and which one validation windows chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from softgrpo.common.artifacts import WEIGHTS
from softgrpo.evaluation.chosen import BEST, Chosen, UsableMethod, read_chosen
from softgrpo.evaluation.summary import FOCUS

CHOOSERS = ("test", "gates")
"""Stages that store a choice, the one that knows more methods first."""


def methods_of(folders: Mapping[str, Path], k: int) -> Chosen:
    """Returns the methods of a run, and the one that validation windows chose.

    Of a run that stored no choice (an earlier version made it, or it ended with a policy) SofT-GRPO stands for the best, and the
    choice has no windows.

    Args:
        folders: Of the stages that the run has.
        k: The run's `fusion.k`.
    """
    found = (read_chosen(folders[name]) for name in CHOOSERS if name in folders)
    if (chosen := next((each for each in found if each is not None), None)) is not None:
        return chosen
    keys = [FOCUS]
    if "test" in folders:
        keys = [str(key) for key in pd.read_parquet(folders["test"] / WEIGHTS, columns=["method"])["method"].unique()]
    methods = [UsableMethod(key, key, "", None) for key in keys if not key.startswith("oracle_")]
    return Chosen(k, 0, FOCUS, tuple(methods))


def method_key(folders: Mapping[str, Path], k: int, method: str) -> str:
    """Returns the key of a method: of the chosen one for `best`, else the name itself; arguments as of `methods_of`."""
    return methods_of(folders, k).best if method == BEST else method
