"""All users of a file of histories scored in batches: what is held at a time does not grow with the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.common.text import counted
from softgrpo.config import LimitsConfig
from softgrpo.data.streams import Shard, Stream
from softgrpo.serving.histories import USER, Histories, read_histories, read_lists
from softgrpo.serving.recommended import Recommended
from softgrpo.serving.served_run import GivenLists, ServedRun
from softgrpo.serving.user_fields import read_user_fields
from softgrpo.stages.shards import HELD_SHARE, memory_bytes

BATCH = 1024
"""Users that are scored at a time."""
ROWS = 1_000_000
"""Rows of a file that are held at a time, at most; the rows of a larger file are first sorted into parts by their users."""
ROW_BYTES = 250
"""Of a row while it is read."""
SHOWN = 5


@dataclass(frozen=True)
class AskedUsers:
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

    def count(self, limits: LimitsConfig) -> int:
        """Returns how many parts the users make, one of which is held at a time.

        Args:
            limits: What the run may take.
        """
        return count_parts(self.history, self.lists, self.shard, limits)

    def part(self, number: int, count: int) -> AskedUsers:
        """Returns one of `count` parts, 0 to `count` - 1; to read it is to read the files whole."""
        return replace(self, shard=self.shard.part(number, count))

    def parts(self, count: int, folder: Path) -> Iterator[AskedUsers]:
        """Gives the users part by part; the files are read once for all of them.

        Args:
            count: How many parts.
            folder: Gets the rows of each part; it is needed until the last one was used.

        Raises:
            DataError: A file is damaged, or a row lacks its user.
        """
        if count == 1:
            yield self
            return
        streams = {"history": self.history, **{f"list {name}": stream for name, stream in self.lists.items()}}
        if self.fields is not None:
            streams["fields"] = self.fields
        sorted_rows = {}
        for number, (name, stream) in enumerate(streams.items()):
            own = folder / str(number)
            own.mkdir()
            sorted_rows[name] = stream.in_parts(self.shard, USER, count, own)
        for part in range(count):
            yield replace(
                self.part(part, count),
                history=sorted_rows["history"][part],
                lists={name: sorted_rows[f"list {name}"][part] for name in self.lists},
                fields=None if self.fields is None else sorted_rows["fields"][part],
            )


def count_parts(history: Stream, lists: Mapping[str, Stream], shard: Shard, limits: LimitsConfig) -> int:
    """Returns how many parts the users of a shard make, one of which is held at a time."""
    largest = max(stream.rows for stream in (history, *lists.values()))
    most = max(1, min(ROWS, int(HELD_SHARE * memory_bytes(limits)) // ROW_BYTES))
    return max(1, math.ceil(largest / shard.count / most))


@dataclass
class ScoringSummary:
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

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ScoringSummary:
        """Returns a summary from what `vars` gives of one."""
        return cls(**{**record, "counts": Counter(record["counts"])})

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

    def join(self, other: ScoringSummary) -> None:
        """Counts what another has counted of the users that come next."""
        for name in ("users", "items", "unordered", "unknown", "new_items"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for what, count in other.counts.items():
            self._count(what, other.examples[what], count)

    def _count(self, what: str, users: list[str], count: int | None = None) -> None:
        self.counts[what] += len(users) if count is None else count
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


@dataclass(frozen=True)
class PartOfUsers:
    """The users of one reading of the files, and what is known of them.

    Attributes:
        histories: What they took.
        given: Their lists from elsewhere.
        fields: What is known of them now, None where nobody tells.
    """

    histories: Histories
    given: GivenLists
    fields: pd.DataFrame | None

    @classmethod
    def read(cls, run: ServedRun, asked: AskedUsers) -> PartOfUsers:
        """Reads the files.

        Args:
            run: Who answers.
            asked: Who asks: the users of the part.

        Raises:
            SoftGRPOError: A file is damaged.
        """
        shard, config = asked.shard, run.config
        histories = read_histories(asked.history, shard, run.item_index, config.data, config.seed, asked.users)
        given = {
            name: read_lists(stream, shard, histories.users, histories.items, run.item_index, config.recall.depth)
            for name, stream in asked.lists.items()
        }
        fields = None if asked.fields is None else read_user_fields(asked.fields, shard, histories.users)
        return cls(histories, given, fields)

    def score(
        self, run: ServedRun, k: int, first: int = 0, step: int = 1
    ) -> Iterator[tuple[Recommended, ScoringSummary]]:
        """Gives what users get, a batch at a time, and what there is to say of each batch.

        Args:
            run: Who answers.
            k: Length of the lists.
            first: Number of the first batch that is wanted.
            step: Every how many-th batch is wanted from there on.

        Raises:
            SoftGRPOError: A list is missing.
        """
        users, items, times, strange = (
            self.histories.users,
            self.histories.items,
            self.histories.times,
            self.histories.strange,
        )
        for start in range(first * BATCH, len(users), step * BATCH):
            rows = slice(start, start + BATCH)
            batch = run.recommend(
                users[rows],
                items[rows],
                None if times is None else times[rows],
                k,
                {name: (lists[rows], scores[rows]) for name, (lists, scores) in self.given.items()},
                strange[rows],
                None if self.fields is None else self.fields.iloc[rows],
            )
            summary = ScoringSummary()
            summary.add(batch)
            if run.new_items is not None:
                summary.new_items = int(batch.items[Columns.Item].isin(run.new_items.items[Columns.Token]).sum())
            yield batch, summary


def score(run: ServedRun, asked: AskedUsers, summary: ScoringSummary) -> Iterator[Recommended]:
    """Gives what users get, a batch at a time.

    Args:
        run: Who answers.
        asked: Who asks.
        summary: Counts what there is to say.

    Raises:
        SoftGRPOError: A file is damaged, or a list is missing.
    """
    config = run.config
    with TemporaryDirectory() as folder:
        for own in asked.parts(asked.count(config.limits), Path(folder)):
            part = PartOfUsers.read(run, own)
            summary.unordered += part.histories.unordered
            for batch, said in part.score(run, asked.k):
                summary.join(said)
                yield batch
