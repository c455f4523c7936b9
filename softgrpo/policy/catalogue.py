"""What prompts call items: short titles and genres. Legend: I items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from softgrpo.common.columns import Columns

TITLE_CHARACTERS = 40


def short(text: str) -> str:
    """Returns a title cut to its first 40 characters."""
    return text if len(text) <= TITLE_CHARACTERS else text[: TITLE_CHARACTERS - 1].rstrip() + "…"


@dataclass(frozen=True)
class Catalogue:
    """What prompts say of items.

    Attributes:
        names: (I,) short titles.
        genres: (I,) genres, "" where unknown.
        seconds: Whether times are seconds since 1970.
    """

    names: Sequence[str]
    genres: Sequence[str]
    seconds: bool

    @classmethod
    def of(cls, items: pd.DataFrame, seconds: bool, *, titles: bool) -> Catalogue:
        """Returns the names of items, see `Corpus.items`.

        Args:
            items: One row per item.
            seconds: Whether times are seconds since 1970.
            titles: Whether items are called by their titles, see `PromptConfig.titles`.
        """
        tokens = items[Columns.Token].tolist()
        known = items[Columns.Title].tolist() if titles else [""] * len(tokens)
        names = [short(title or f"item {token}") for title, token in zip(known, tokens, strict=True)]
        return cls(names, items[Columns.Genres].tolist(), seconds)
