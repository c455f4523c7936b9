"""The table of prompts, weights, rewards and advantages of the last samples, as TRL's `log_completions` writes it.

Legend: B prompts, G generations, M classes, F reward functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor
from transformers.utils.import_utils import is_rich_available
from trl.trainer.utils import print_prompt_completions_sample

FOLDER = "completions"
WEIGHT = "weight_"
"""Beginning of the names of the weights' columns."""


def completions_table(
    step: int,
    prompts: Sequence[str],
    weights: Tensor,
    classes: Sequence[str],
    rewards: Tensor,
    names: Sequence[str],
    advantages: Tensor,
) -> pd.DataFrame:
    """Returns one row for each sample: step, prompt, `weight_<class>`, one column for each reward function, advantage.

    Args:
        step: Optimiser steps so far.
        prompts: B texts.
        weights: (B, G, M).
        classes: M names.
        rewards: (B, G, F).
        names: F names.
        advantages: (B, G).
    """
    generations = weights.shape[1]
    columns: dict[str, list[object]] = {
        "step": [step] * (len(prompts) * generations),
        "prompt": [prompt for prompt in prompts for _ in range(generations)],
    }
    columns |= {f"{WEIGHT}{name}": weights[..., place].flatten().tolist() for place, name in enumerate(classes)}
    columns |= {name: rewards[..., place].flatten().tolist() for place, name in enumerate(names)}
    return pd.DataFrame(columns | {"advantage": advantages.flatten().tolist()})


def show_completions(table: pd.DataFrame, names: Sequence[str], count: int | None) -> None:
    """Prints samples of a table on the console, weights as text; without the package rich nothing is printed, as in TRL.

    Args:
        table: See `completions_table`.
        names: F names.
        count: Rows to print, drawn at random; None prints all.
    """
    if not is_rich_available():
        return
    weights = table.filter(regex=f"^{WEIGHT}")
    classes = [str(name).removeprefix(WEIGHT) for name in weights]
    print_prompt_completions_sample(
        table["prompt"].tolist(),
        [
            ", ".join(f"{name} {value:.2f}" for name, value in zip(classes, row, strict=True))
            for row in weights.to_numpy()
        ],
        {name: table[name].tolist() for name in names},
        table["advantage"].tolist(),
        int(table["step"].iloc[0]),
        count,  # type: ignore[arg-type]  # None is its default
    )


def write_completions(table: pd.DataFrame, folder: Path) -> None:
    """Writes a table to `<folder>/completions/completions_<step>.parquet`."""
    (folder / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    table.to_parquet(folder / FOLDER / f"completions_{int(table['step'].iloc[0]):05d}.parquet")
