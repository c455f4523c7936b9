"""What the recaller `Text` takes, in seconds of the reference machine of `softgrpo.pipeline.costs`."""

from __future__ import annotations

from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize

TOKENS = 20
"""Of an item's text."""
SCORE_SECONDS = 8e-9
"""For one window and one item."""
EXAMPLE_SECONDS = 6e-5
"""Of the adapter, for one example of an epoch."""
MOST_EXAMPLES, MOST_WINDOWS = 200_000, 10_000
"""Of the adapter, the examples that an epoch learns from and the validation windows that it is judged on, at most."""


def tokens(config: ExperimentConfig, size: DataSize) -> int:
    """Returns about how many tokens are embedded."""
    return size.items * min(config.text.max_length, TOKENS)


def text_seconds(config: ExperimentConfig, size: DataSize) -> float:
    """Returns the seconds in which the adapter is learnt, if it does not stop early, and the lists are made."""
    epochs = config.text.adapter_epochs if config.text.adapter != "off" else 0
    windows = size.windows + epochs * min(size.valid, MOST_WINDOWS)
    return epochs * EXAMPLE_SECONDS * min(size.training, MOST_EXAMPLES) + SCORE_SECONDS * windows * size.items
