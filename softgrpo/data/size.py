"""How large a dataset is: what settings without a preset, and the estimate of a run's time, follow from."""

from __future__ import annotations

from dataclasses import dataclass

from softgrpo.common.records import LEARNT_FROM, Corpus, Part, Windows
from softgrpo.config import DataConfig, ExperimentConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.cross_fit import all_windows, cross_fit
from softgrpo.data.files import data_files
from softgrpo.data.locate import download_address, known_datasets
from softgrpo.data.windows import make_windows


@dataclass(frozen=True)
class DataSize:
    """Numbers of what is left after filtering and cutting.

    Attributes:
        users: Users.
        items: Items.
        interactions: Interactions, of all parts.
        training: Interactions that recallers train on.
        policy: Policy windows, with those that `split.cross_fit` adds.
        valid: Validation windows.
        test: Test windows.
        windows: Windows of all parts.
    """

    users: int
    items: int
    interactions: int
    training: int
    policy: int
    valid: int
    test: int
    windows: int

    @classmethod
    def of(cls, corpus: Corpus, windows: Windows) -> DataSize:
        """Returns the numbers of a corpus and its windows."""
        policy, valid, test = (len(windows.of(*parts)) for parts in (LEARNT_FROM, (Part.VALID,), (Part.TEST,)))
        return cls(
            users=corpus.num_users,
            items=corpus.num_items,
            interactions=len(corpus.item),
            training=int(windows.train_end.sum()),
            policy=policy,
            valid=valid,
            test=test,
            windows=len(windows),
        )


_measured: dict[str, DataSize] = {}
"""Sizes by settings and state of the file: variants of one experiment share their data, which takes seconds to read."""


def is_here(data: DataConfig) -> bool:
    """Tells whether a dataset's files are on this machine, or RecBole knows where to fetch them."""
    if data.source is not None:
        return data.source.exists()
    if data.dataset in known_datasets(data):
        return True
    return data.download and download_address(data.dataset) is not None


def data_size(config: ExperimentConfig) -> DataSize:
    """Returns the size of a configuration's data; they are read once per process.

    Args:
        config: Of its sections only `seed`, `data` and `split` count.

    Raises:
        DataError: A file is missing or malformed, or nothing is left after filtering and cutting.
    """
    key = _key(config)
    if key not in _measured:
        corpus = read_corpus(config.data, config.seed)
        windows = make_windows(corpus, config.split)
        parts = cross_fit(windows, config.split, config.seed)
        _measured[key] = DataSize.of(corpus, all_windows(windows, parts))
    return _measured[key]


def note_size(config: ExperimentConfig, corpus: Corpus, windows: Windows) -> None:
    """Remembers the size of data that were read just now, so that `data_size` does not read them again."""
    _measured[_key(config)] = DataSize.of(corpus, windows)


def _key(config: ExperimentConfig) -> str:
    """Returns what the size depends on.

    Raises:
        DataError: The dataset's files are missing.
    """
    state = data_files(config.data).interactions.stat()
    parts = (config.data.model_dump_json(), config.split.model_dump_json(), config.seed)
    return "\n".join(map(str, (*parts, state.st_mtime_ns, state.st_size)))
