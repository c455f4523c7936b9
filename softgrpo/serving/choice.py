"""Which methods of a finished run can be asked, and which one validation windows chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from softgrpo.common.artifacts import WEIGHTS
from softgrpo.errors import ConfigError
from softgrpo.evaluation.chosen import Chosen, UsableMethod, read_chosen
from softgrpo.evaluation.summary import FOCUS

POLICIES = {"sft_multi": "sft", "sft_single": "sft", "grpo_multi": "grpo", "grpo_single": "grpo"}
"""Rows of language models, and the stage that stores each."""
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
    """Returns the key of a method by its name; `best` is the chosen one. Other arguments as of `methods_of`.

    Raises:
        ConfigError: The run has no such method that can be used on new windows.
    """
    if POLICIES.get(method) in folders:  # of a run that has not come as far as `test` too
        return method
    return methods_of(folders, k).method(method).key


def check_k(k: int, depth: int) -> None:
    """Checks the length of merged lists.

    Args:
        k: Wanted items.
        depth: Items of each recaller's list.

    Raises:
        ConfigError: It is no whole number from 1 to the depth.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= depth:
        raise ConfigError(
            f"k = {k}", f"A list is merged from lists of {depth} items", "Ask for 1 to that", code="CONFIG-089"
        )
