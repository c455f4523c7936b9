"""All users of a file of histories scored in batches: what is held at a time does not grow with the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from softgrpo.common.columns import Columns
from softgrpo.common.text import counted
from softgrpo.data.streams import Shard, Stream
from softgrpo.serving.histories import Histories, read_histories, read_lists
from softgrpo.serving.recommended import Recommended
from softgrpo.serving.served_run import ServedRun
from softgrpo.serving.user_fields import read_user_fields

BATCH = 1024
"""Users that are scored at a time."""
ROWS = 4_000_000
"""Rows of a file that are held at a time; a larger file is read several times, each time for other users."""
SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """Who is scored, and from what.

    Attributes:
        history: What users took.
        lists: Lists from elsewhere, by recaller.
        shard: Whose users are scored.
        users: Of these, or None for all of the file.
        k: Length of the lists.
        fields: What is known of users now; None takes what the run knows.
    """

    history: Stream
    lists: Mapping[str, Stream]
    shard: Shard
    users: Collection[str] | None
    k: int
    fields: Stream | None = None

    @property
    def parts(self) -> int:
        """How many times the files are read."""
        largest = max(stream.rows for stream in (self.history, *self.lists.values()))
        return max(1, math.ceil(largest / self.shard.count / ROWS))


@dataclass
class Summary:
    """What is to be said once all users are scored.

    Attributes:
        users: How many there were.
        items: How many items they got.
        unordered: Users whose rows were out of the order of their times.
        unknown: Users with items that are not in the run's data.
        new_items: How many of the items they got the run was not trained on.
        counts: Of each reason and each recaller without a list: users.
        examples: The first few of them.
    """

    users: int = 0
    items: int = 0
    unordered: int = 0
    unknown: int = 0
    new_items: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, recommended: Recommended) -> None:
        """Counts a batch."""
        table = recommended.users
        self.users += len(table)
        self.items += len(recommended.items)
        self.unknown += int((table["unknown_items"] > 0).sum())
        for reason, users in recommended.fallbacks.items():
            self._count(f"get other weights: {reason}", users)
        for without, group in table[table["without"] != ""].groupby("without", sort=False):
            for each in str(without).split("; "):
                self._count(f"have no list of a recaller: {each}", group["user"].tolist())

    def _count(self, what: str, users: list[str]) -> None:
        self.counts[what] += len(users)
        known = self.examples.setdefault(what, [])
        known += users[: SHOWN - len(known)]

    def notes(self, *, told_order: bool = True) -> list[str]:
        """Returns one line for each thing that a reader must know.

        Args:
            told_order: Tell of histories that were sorted; a data set is in nobody's order.
        """
        lines = [
            f"{count:,} of {counted(self.users, 'user')} {what}: {', '.join(self.examples[what])}"
            + (", ..." if count > len(self.examples[what]) else "")
            for what, count in self.counts.items()
        ]
        if self.unknown:
            lines.append(
                f"{self.unknown:,} of {self.users:,} histories hold items that are not in the run's data; these are left out "
                "(column unknown_items)"
            )
        if self.unordered and told_order:
            lines.append(
                f"{self.unordered:,} of {self.users:,} histories were out of the order of their times and were sorted"
            )
        return lines


def score(run: ServedRun, asked: Asked, summary: Summary) -> Iterator[Recommended]:
    """Gives what users get, a batch at a time.

    Args:
        run: Who answers.
        asked: Who asks.
        summary: Counts what there is to say.

    Raises:
        SoftGRPOError: A file is damaged, or a list is missing.
    """
    for part in range(asked.parts):
        shard = asked.shard.part(part, asked.parts)
        histories = read_histories(
            asked.history, shard, run.item_index, run.config.data, run.config.seed, asked.users
        )  # fmt: skip
        summary.unordered += histories.unordered
        for batch in _batches(run, asked, shard, histories):
            summary.add(batch)
            if run.new_items is not None:
                summary.new_items += int(batch.items[Columns.Item].isin(run.new_items.items[Columns.Token]).sum())
            yield batch


def _batches(run: ServedRun, asked: Asked, shard: Shard, histories: Histories) -> Iterator[Recommended]:
    """Gives what the users of one part get."""
    depth = run.config.recall.depth
    given = {
        name: read_lists(stream, shard, histories.users, histories.items, run.item_index, depth)
        for name, stream in asked.lists.items()
    }
    fields = None if asked.fields is None else read_user_fields(asked.fields, shard, histories.users)
    for first in range(0, len(histories.users), BATCH):
        rows = slice(first, first + BATCH)
        yield run.recommend(
            histories.users[rows],
            histories.items[rows],
            None if histories.times is None else histories.times[rows],
            asked.k,
            {name: (items[rows], scores[rows]) for name, (items, scores) in given.items()},
            histories.strange[rows],
            None if fields is None else fields.iloc[rows],
        )
