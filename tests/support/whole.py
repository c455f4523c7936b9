"""Of all windows at once, what stages make and store a piece at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from softgrpo.common.records import CandidateLists, Part, Windows
from softgrpo.config import FeaturesConfig
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import Features, ListNumbers, features_by
from softgrpo.policy.numbers import WindowNumbers, name_and_compute, quintiles
from softgrpo.policy.prompt_files import PROMPT_SCHEMA, prompts_table
from softgrpo.policy.prompts import PromptParts
from softgrpo.recallers.stored_lists import StoredLists


def make_features(lists: CandidateLists, windows: Windows, targets: NDArray[np.int32], k: int) -> Features:
    """Computes all features.

    Args:
        lists: Candidate lists of all windows.
        windows: All windows whose lists come from the same recallers.
        targets: (W, T), -1 behind the last.
        k: Cut-off of NDCG, peak and overlap.
    """
    return features_by(ListNumbers.of(lists, targets, k), windows)


def window_numbers(known: Known, config: FeaturesConfig, earlier: Sequence[Known] = ()) -> WindowNumbers:
    """Computes the numbers of all windows.

    Args:
        known: What is known of the windows of the split.
        config: Which blocks are on.
        earlier: What is known of the windows that `split.cross_fit` adds, part by part; they come behind the others.
    """
    found = [name_and_compute(each, config) for each in (known, *earlier)]
    values = np.concatenate([each for _, each in found])
    return WindowNumbers(found[0][0], values, quintiles(values, known.windows.of(Part.POLICY)))


def save_numbers(path: Path, numbers: WindowNumbers) -> None:
    """Writes the numbers as safetensors, their names as its metadata."""
    tensors = {"values": numbers.values, "cuts": numbers.cuts}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"names": json.dumps(numbers.names)})


def save_prompts(path: Path, parts: Sequence[PromptParts]) -> None:
    """Writes one row per window."""
    with pq.ParquetWriter(path, PROMPT_SCHEMA) as file:
        file.write_table(prompts_table(parts))


def read_candidates(path: Path) -> CandidateLists:
    """Reads the lists of all windows.

    Raises:
        CandidateError: The file is missing, damaged or of another kind.
    """
    stored = StoredLists.open(path)
    return stored.rows(np.arange(stored.windows))
