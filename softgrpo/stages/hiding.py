"""Checks by hiding: in a world whose items and times behind a window's history are others, what is told of the window is the same.

Legend: W windows, U users, F numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import FeaturesConfig, PromptConfig
from softgrpo.data.windows import targets_of
from softgrpo.errors import LeakageError
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.features import outcomes_of, with_outcomes
from softgrpo.policy.numbers import WindowNumbers, name_and_compute, quintiles
from softgrpo.policy.prompt_files import NO_PROMPT
from softgrpo.policy.prompts import PromptFormatter, PromptParts
from softgrpo.stages.leakage import DEFECT, TOLERANCE, named


@dataclass(frozen=True)
class World:
    """Data that end otherwise, for one window of each user that has so many.

    Attributes:
        rows: Numbers of those windows, ascending.
        known: What is known of all windows in this world. Only that of `rows` must be what it was.
    """

    rows: NDArray[np.int64]
    known: Known


def hidden_worlds(known: Known, k: int, seed: int) -> Iterator[World]:
    """Gives worlds in which everything from a window's start on is replaced, until each window has been in one.

    Items and times are others; labels and track records are made again from them. The lists stay, and what follows from them
    alone: their own check says that recallers were trained on nothing that comes later.

    Args:
        known: What is known of all windows.
        k: Cut-off of the labels.
        seed: Of the items that stand in.
    """
    windows = known.windows
    first = np.searchsorted(windows.user, windows.user)
    ordinal = np.arange(len(windows)) - first  # (W,) which of its user's windows each is
    for turn in range(int(ordinal.max(initial=-1)) + 1):
        rows = np.flatnonzero(ordinal == turn)
        corpus = _hide(known.corpus, windows, rows, np.random.default_rng([seed, turn]))
        outcomes = outcomes_of(known.lists, targets_of(corpus, windows), k)
        features = with_outcomes(known.features, windows, *outcomes)
        yield World(rows, replace(known, corpus=corpus, features=features))


def check_one_per_window(counts: Mapping[str, int], windows: Windows) -> None:
    """Checks that every window has one of each thing that is stored.

    Args:
        counts: How many are stored, by what they are.
        windows: All windows.

    Raises:
        LeakageError: Some are missing or too many.
    """
    for what, count in counts.items():
        if count != len(windows):
            raise LeakageError(
                f"{count} {what} for {len(windows)} windows",
                "Every window has one, whatever came of it",
                DEFECT,
                code="LEAKAGE-010",
            )


def check_levels(numbers: WindowNumbers, windows: Windows) -> None:
    """Checks that levels in words follow from policy windows.

    Args:
        numbers: Of all windows.
        windows: All windows.

    Raises:
        LeakageError: The levels are others.
    """
    expected = quintiles(numbers.values, windows.of(Part.POLICY))
    if not np.allclose(numbers.cuts, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise LeakageError(
            "The levels that words stand for are not those of the policy windows",
            "Words tell which fifth of the policy windows a number is in",
            DEFECT,
            code="LEAKAGE-012",
        )


def check_prompted(prompts: Sequence[PromptParts], prompted: NDArray[np.bool_], before: int = 0) -> None:
    """Checks that every window has a prompt that needs one.

    Args:
        prompts: Of w windows, `NO_PROMPT` where there is none.
        prompted: (w,) windows that need a prompt.
        before: How many windows come before these, whose numbers messages tell.

    Raises:
        LeakageError: Some are missing.
    """
    without = np.flatnonzero(prompted & np.array([prompt == NO_PROMPT for prompt in prompts], dtype=np.bool_))
    if len(without):
        raise LeakageError(
            f"{len(without)} windows without a prompt, window {before + without[0]} the first",
            "Every window that is learnt from, chosen by or tested has one, whatever came of it",
            DEFECT,
            code="LEAKAGE-018",
        )


def check_numbers(world: World, numbers: WindowNumbers, config: FeaturesConfig) -> int:
    """Checks that no number of the world's windows tells anything from behind their history.

    Args:
        world: Data that end otherwise.
        numbers: The stored numbers of all windows.
        config: Which blocks are on, see `ExperimentConfig.told_features`.

    Returns:
        How many numbers were compared.

    Raises:
        LeakageError: There are other numbers than the settings ask for, or one is another in the hidden world.
    """
    names, values = name_and_compute(world.known.of(world.rows), config)
    if names != numbers.names:
        raise LeakageError(
            f"{len(numbers.names)} stored numbers, where the settings ask for {len(names)} or for others",
            "Gates read the numbers of the blocks that are on, and nothing else",
            DEFECT,
            code="LEAKAGE-014",
        )
    other = ~np.isclose(values, numbers.values[world.rows], rtol=TOLERANCE, atol=TOLERANCE)
    if other.any():
        row, column = np.argwhere(other)[0]
        window = named(int(world.rows[row]), world.known.corpus, world.known.windows)
        raise LeakageError(
            f"The number '{names[column]}' of {window} changes with what lies behind the window's history",
            "Nothing that gates read comes from behind the window's history",
            DEFECT,
            code="LEAKAGE-013",
        )
    return values.size


def check_prompts(
    world: World, prompts: Sequence[PromptParts], numbers: WindowNumbers, config: PromptConfig, catalogue: Catalogue
) -> int:
    """Checks that no prompt of the world's windows tells anything from behind their history.

    A prompt that knew a target, or the outcome of its own or of a later window, would differ.

    Args:
        world: Data that end otherwise.
        prompts: The stored prompts of all windows.
        numbers: The numbers of all windows, which `check_numbers` has seen.
        config: What prompts contain.
        catalogue: What prompts say of items.

    Returns:
        How many prompts were compared.

    Raises:
        LeakageError: A prompt is another in the hidden world.
    """
    known = world.known
    formatter = PromptFormatter(config, known.corpus, known.windows, known.lists, known.features, numbers, catalogue)
    compared = [window for window in world.rows.tolist() if prompts[window] != NO_PROMPT]
    for window in compared:
        if formatter.parts(window) != prompts[window]:
            raise LeakageError(
                f"The prompt of {named(window, known.corpus, known.windows)} changes with what lies behind the window's history",
                "Nothing in a prompt comes from behind the window's history",
                DEFECT,
                code="LEAKAGE-011",
            )
    return len(compared)


def _hide(corpus: Corpus, windows: Windows, rows: NDArray[np.int64], rng: np.random.Generator) -> Corpus:
    """Returns a corpus with other items and times from the start of some windows on, one window of each user."""
    known = np.diff(corpus.offsets)  # (U,) positions that stay; all of a user's where none of the rows is theirs
    known[windows.user[rows]] = windows.start[rows]
    position = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]
    behind = position >= known[corpus.user]
    shift = rng.integers(1, max(corpus.num_items, 2), len(corpus.item))
    other = ((corpus.item + shift) % corpus.num_items).astype(np.int32)
    start = corpus.time[corpus.offsets[corpus.user]]  # a time that the data know
    return replace(corpus, item=np.where(behind, other, corpus.item), time=np.where(behind, start, corpus.time))
