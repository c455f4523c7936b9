"""What a set of samples is trained with. Legend: B prompts, G generations, M classes, F reward functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from softgrpo.algorithm.completions import completions_table
from softgrpo.algorithm.soft_grpo import SoftSamples


@dataclass(frozen=True)
class Draw:
    """Samples of one micro batch and what they earned.

    Attributes:
        rows: (B,) row numbers.
        samples: The samples.
        rewards: (B, G, F).
        scores: (B, G), what samples are compared by.
        reference: (B, M) logits of a reference that follows the policy, None where it does not.
        prompts: B texts where samples are logged, none elsewhere.
    """

    rows: Tensor
    samples: SoftSamples
    rewards: Tensor
    scores: Tensor
    reference: Tensor | None
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Experience:
    """What one micro batch is trained with, kept for `num_iterations` steps.

    Attributes:
        draw: The samples.
        advantages: (B, G).
    """

    draw: Draw
    advantages: Tensor

    def table(self, step: int, classes: Mapping[int, str], names: Sequence[str]) -> pd.DataFrame:
        """Returns the samples as a table, see `completions_table`.

        Args:
            step: Optimiser steps so far.
            classes: Names of the M classes by number.
            names: F names of the reward functions.
        """
        draw, weights = self.draw, self.draw.samples.weights
        called = [str(classes.get(place, place)) for place in range(weights.shape[-1])]
        return completions_table(step, draw.prompts, weights, called, draw.rewards, names, self.advantages)
