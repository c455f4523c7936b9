"""Which numbers describe a window, beside those that always do."""

from __future__ import annotations

from typing import Literal

from softgrpo.config.section import Count, Section

BlockName = Literal["content", "shape", "agreement", "popularity", "pace", "user_vector"]
"""Blocks of numbers; each name is a module in `softgrpo.policy.blocks`."""
ToldBlockName = Literal["content", "shape", "agreement", "popularity", "pace"]
"""Those that have numbers for which there are words."""


class FeaturesConfig(Section):
    """Blocks of numbers that describe a window, beside strength, peak and overlap of its lists.

    Gates read the numbers of all blocks that are on; prompts tell those of the blocks in prompt.blocks. On are those that made
    boosted trees better on validation windows.
    """

    record: Literal["auto", "on", "off"] = "auto"
    """Track record of the recallers, its counts and the length of the history: in the numbers, and in the prompt where its
    switches track_record and history_length are on too. auto: off with split.method leave_last, where few of the windows to learn
    from have a record and all of those to choose and test on do, and with split.cross_fit, for the same reason; on otherwise."""
    content: bool = True
    """How well the texts of each list match the history; without embeddings of the items there is no such block."""
    shape: bool = False
    """How the scores of each list are spread: first, gaps, mean, spread, entropy."""
    agreement: bool = False
    """How high the other lists rank the first items of each list."""
    popularity: bool = True
    """How popular the first items of each list are, and those of the history; counted in the recallers' training part."""
    pace: bool = False
    """How long the history lasts and how long its pauses are, where times exist."""

    user_vector: bool = False
    """What each recaller itself holds about the user: the factor of BPR, the state of SASRec and the like, as principal components.
    Recallers without such a vector, such as ItemKNN, have no such numbers."""
    user_vector_size: Count = 8
    """Principal components of each recaller's user vector, fitted on policy windows (user_vector only)."""

    @property
    def names(self) -> tuple[BlockName, ...]:
        """The blocks that are on, in the order of their settings."""
        switches: dict[BlockName, bool] = {
            "content": self.content,
            "shape": self.shape,
            "agreement": self.agreement,
            "popularity": self.popularity,
            "pace": self.pace,
            "user_vector": self.user_vector,
        }
        return tuple(name for name, on in switches.items() if on)
