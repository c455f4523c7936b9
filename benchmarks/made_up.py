"""Made-up data with the statistics of ml-1m, for any number of users: what the stage `split` stores, and files of lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from softgrpo.common.records import Corpus
    from softgrpo.config import ExperimentConfig

ITEMS, MEAN, FEWEST, SPREAD = 3416, 165, 20, 1.0
"""Items, and items of a user: on average, at least, and the deviation of their logarithm. As in ml-1m."""
DEPTH = 100
LISTED, FOUND = 601, 0.3
"""Items that lists are made of, a prime, and the share of lists that hold the first target of their window."""
CHUNK = 2048
"""Windows whose lists are made at a time."""
DATASET = "shop"
FEW_GB = 0.1


@dataclass(frozen=True)
class Place:
    """Where the files of one size are.

    Attributes:
        folder: Of all of them.
        users: How many.
        lists: How many recallers.
        sample: Windows that are learnt from and chosen by, at most; 0 takes the usual number.
    """

    folder: Path
    users: int
    lists: int
    sample: int = 0

    @property
    def recallers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"R{number}" for number in range(self.lists))

    def file(self, recaller: str) -> Path:
        """Returns the file of a recaller's lists for the windows."""
        return self.folder / f"{recaller}.parquet"

    def current(self, recaller: str) -> Path:
        """Returns the file of a recaller's lists of now, for `score`."""
        return self.folder / f"{recaller}.now.parquet"

    @property
    def history(self) -> Path:
        """The file of histories for `score`."""
        return self.folder / "history.parquet"

    def stage(self, name: str) -> Path:
        """Returns the folder of a stage."""
        return self.folder / "stages" / name

    def settings(self) -> ExperimentConfig:
        """Returns the settings of a run that reads these files; with a sample, lists are not kept in memory either."""
        from softgrpo.presets import resolve

        few = {"train.sample_windows": self.sample, "limits.memory_gb": FEW_GB} if self.sample else {}
        pool: dict[str, Any] = {
            "recall.recallers": list(self.recallers),
            "recall.files": {name: str(self.file(name)) for name in self.recallers},
            "evaluation.baselines": ["thirds"],
            "features.content": False,
        }
        return resolve(DATASET, "tiny", overrides=pool | few)


def make(place: Place) -> None:
    """Writes the stage `split`, the lists of all recallers and what `score` reads."""
    from softgrpo.config import SplitConfig
    from softgrpo.data.corpus import write_corpus
    from softgrpo.data.windows import make_windows, write_windows

    rng = np.random.default_rng(0)
    corpus = made_up_corpus(place.users, rng)
    windows = make_windows(corpus, SplitConfig())
    place.stage("split").mkdir(parents=True)
    write_corpus(place.stage("split"), corpus)
    write_windows(place.stage("split"), windows)
    lengths = np.diff(corpus.offsets)
    everybody = np.arange(place.users)
    for name in place.recallers:
        _write_lists(place.file(name), corpus, windows.user, windows.start, rng)
        _write_lists(place.current(name), corpus, everybody, lengths, rng, window=False)
    _write_history(place.history, corpus)


def made_up_corpus(users: int, rng: np.random.Generator) -> Corpus:
    """Returns interactions of users whose numbers of items are spread as those of ml-1m."""
    import pandas as pd

    from softgrpo.common.records import Corpus

    shares = rng.lognormal(0.0, SPREAD, users)
    counts = np.minimum(FEWEST + ((MEAN - FEWEST) * shares / shares.mean()).astype(np.int64), ITEMS // 3)
    user = np.repeat(np.arange(users), counts)
    item = np.minimum((ITEMS * rng.random(len(user)) ** 1.5).astype(np.int64), ITEMS - 1)
    pairs = np.unique(user * ITEMS + item)  # each once
    user, item = np.divmod(pairs, ITEMS)
    order = np.lexsort((rng.random(len(user)), user))
    user, item = user[order], item[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users))]).astype(np.int64)
    time = 9.6e8 + 600.0 * (np.arange(len(user)) - offsets[user])
    names = {"users": np.arange(users).astype(str), "items": np.arange(ITEMS).astype(str)}
    items = pd.DataFrame({"token": names["items"], "title": [f"Film {name}" for name in names["items"]], "genres": ""})
    return Corpus(
        users=pd.DataFrame({"token": names["users"]}),
        items=items,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        time=np.asarray(time, dtype=np.float64),
        offsets=offsets,
    )


def _write_lists(
    path: Path,
    corpus: Corpus,
    users: NDArray[np.integer],
    starts: NDArray[np.integer],
    rng: np.random.Generator,
    *,
    window: bool = True,
) -> None:
    """Writes lists for histories, some at a time; 30 % of those with a next item hold it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    popular = rng.permutation(ITEMS)[:LISTED]
    columns = [("user", pa.string()), *([("window", pa.int32())] if window else [])]
    schema = pa.schema([*columns, ("item", pa.string()), ("score", pa.float32())])
    tokens = np.arange(max(ITEMS, corpus.num_users)).astype(str).astype(object)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(users), CHUNK):
            own, start = users[first : first + CHUNK], starts[first : first + CHUNK]
            items = _lists(corpus, own, start, popular, rng)
            row, place = np.nonzero(items >= 0)
            scores = -np.sort(-rng.normal(size=items.shape).astype(np.float32), axis=1)
            table = {"user": tokens[own[row]], "item": tokens[items[row, place]], "score": scores[row, place]}
            table |= {"window": start[row].astype(np.int32)} if window else {}
            writer.write_table(pa.table({name: table[name] for name in schema.names}, schema=schema))


def _lists(
    corpus: Corpus,
    users: NDArray[np.integer],
    starts: NDArray[np.integer],
    popular: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Returns lists (w, D) without items of the histories, -1 behind the end of a shorter one."""
    count = len(users)
    first, step = rng.integers(0, LISTED, (count, 1)), rng.integers(1, LISTED, (count, 1))
    items = popular[(first + step * np.arange(3 * DEPTH)) % LISTED]  # distinct: their number is a prime
    begin = corpus.offsets[users]
    following = np.minimum(begin + starts, corpus.offsets[users + 1] - 1)
    target = np.where(rng.random(count) < FOUND, corpus.item[following], -1)
    place = rng.integers(0, DEPTH // 2, count)
    items[items == target[:, None]] = -1
    items[np.arange(count), place] = np.where(target >= 0, target, items[np.arange(count), place])
    seen = np.zeros((count, ITEMS + 1), dtype=np.bool_)
    seen[:, -1] = True  # of what was left out above
    row = np.repeat(np.arange(count), starts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(starts) - starts, starts)
    seen[row, corpus.item[np.repeat(begin, starts) + within]] = True
    kept = ~np.take_along_axis(seen, np.where(items < 0, ITEMS, items), 1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :DEPTH]
    return np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(items, order, 1), -1)


def _write_history(path: Path, corpus: Corpus) -> None:
    """Writes the histories of all users, oldest first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def names(numbers: NDArray[np.int32], count: int) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(np.arange(count).astype(str))).cast(
            pa.string()
        )

    table = {
        "user": names(corpus.user, corpus.num_users),
        "item": names(corpus.item, corpus.num_items),
        "time": pa.array(corpus.time),
    }
    pq.write_table(pa.table(table), path, compression="zstd")
