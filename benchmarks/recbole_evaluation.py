"""What RecBole says of its models when it trains and evaluates them by itself, on the same split, beside softgrpo's recallers.

    python -m benchmarks.recbole_evaluation steam --data-path FOLDER

RecBole reads the split from three files and does the rest: it trains with the preset's settings, stops early on the rows between
the training part and the test window, and evaluates the test windows with its own metrics. softgrpo's recallers hold each user's
last training item back instead, and see nothing behind the training part. RecBole masks what a user had for general models only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.windows import make_windows
from softgrpo.errors import ConfigError
from softgrpo.policy.features import own_ranks
from softgrpo.presets import resolve
from softgrpo.ranking.aligned import ABSENT
from softgrpo.ranking.metrics import ndcg
from softgrpo.recallers.candidates import build_candidates

K, NAME = 10, "split"
PARTS = ("train", "valid", "test")
Row = tuple[int, Sequence[int], int]
"""User, the items before, the item."""


def rows_of(corpus: Corpus, windows: Windows) -> dict[str, list[Row]]:
    """Returns the interactions of each part; those between the training part and the test window are valid."""
    found: dict[str, list[Row]] = {name: [] for name in PARTS}
    for window in windows.of(Part.TEST):
        user, start, end = (int(column[window]) for column in (windows.user, windows.start, windows.end))
        sequence = corpus.sequence(user)[:end].tolist()
        for place, item in enumerate(sequence):
            part = "train" if place < windows.train_end[user] else "valid" if place < start else "test"
            found[part].append((user, sequence[:place], item))
    return found


@contextmanager
def lengths_by_element() -> Iterator[None]:
    """Lets `Series.agg(len)` give the length of each element, which RecBole relies on and pandas 3 no longer does."""
    series: Any = pd.Series
    original = series.agg

    def agg(self: Any, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.map(len) if func is len else original(self, func, *args, **kwargs)

    series.agg = agg
    try:
        yield
    finally:
        series.agg = original


def by_recbole(name: str, config: ExperimentConfig, rows: dict[str, list[Row]], folder: Path) -> float:
    """Returns NDCG@10 as RecBole trains and evaluates a model.

    Raises:
        ConfigError: A sequential model, and a window with several targets, which RecBole takes one by one.
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import ModelType, get_model, get_trainer, init_seed

    from softgrpo.recallers.recbole_compat import import_models, restore_aliases, shielded
    from softgrpo.recallers.recbole_data import TrainingData, draws_negatives
    from softgrpo.recallers.recbole_training import fit

    restore_aliases()
    import_models()
    sequential = get_model(name).type == ModelType.SEQUENTIAL
    if sequential and len({user for user, _, _ in rows["test"]}) < len(rows["test"]):
        raise ConfigError(
            name,
            "RecBole evaluates each target of a sequential model by itself",
            "Take split.window 1",
            code="CONFIG-001",
        )
    settings = dict(config.recall.settings_of(name))
    length, own = int(settings.get("MAX_ITEM_LIST_LENGTH", 50)), folder / NAME
    own.mkdir(parents=True, exist_ok=True)
    for part, found in rows.items():
        lines = [
            "user_id:token\titem_id_list:token_seq\titem_id:token" if sequential else "user_id:token\titem_id:token"
        ]
        for user, before, item in found:
            if not sequential:
                lines.append(f"{user}\t{item}")
            elif before:
                lines.append(f"{user}\t{' '.join(map(str, before[-length:]))}\t{item}")
        (own / f"{NAME}.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chosen = {
        "eval_batch_size": 2**18,
        **settings,
        "seed": config.seed,
        "reproducibility": True,
        "show_progress": False,
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "recbole"),
        "benchmark_filename": list(PARTS),
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"] if sequential else ["user_id", "item_id"]},
        "alias_of_item_id": ["item_id_list"] if sequential else None,
        "eval_args": {"group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["NDCG"],
        "topk": [K],
        "valid_metric": f"NDCG@{K}",
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}
        if draws_negatives(name, settings)
        else None,
    }
    with shielded(), lengths_by_element():
        init_seed(config.seed, True)
        recbole = Config(model=name, dataset=NAME, config_dict=chosen)
        train, valid, test = data_preparation(recbole, create_dataset(recbole))
        model: Any = get_model(name)(recbole, train.dataset).to(recbole["device"])
        nothing = np.zeros(0, dtype=np.int64)
        fit(model, TrainingData(recbole, train.dataset, train, valid, nothing, nothing), None)
        trainer = get_trainer(recbole["MODEL_TYPE"], name)(recbole, model)
        return float(trainer.evaluate(test, load_best_model=False, show_progress=False)[f"ndcg@{K}"])


def by_softgrpo(name: str, config: ExperimentConfig, corpus: Corpus, windows: Windows, folder: Path) -> float:
    """Returns NDCG@10 of the recaller's own list on test windows."""
    from softgrpo.recallers.recbole_adapter import train_recaller

    settings, targets = config.recall.settings_of(name), config.recall.targets_per_user
    model = train_recaller(
        name, corpus, windows, settings, seed=config.seed, targets_per_user=targets, work=folder, reporter=None
    )
    items, _ = build_candidates(model, corpus, windows, config.recall.depth, config.recall.batch_size, name)
    test = windows.of(Part.TEST)
    counts = windows.end[test] - windows.start[test]
    target_items = np.full((len(test), counts.max()), -1, dtype=np.int32)
    for row, window in enumerate(test):
        target_items[row, : counts[row]] = corpus.sequence(int(windows.user[window]))[
            windows.start[window] : windows.end[window]
        ]
    ranks = own_ranks(items[test][:, None], target_items)[:, 0]
    places = torch.from_numpy(np.where(np.isfinite(ranks), ranks, ABSENT).astype(np.int64))
    return float(ndcg(places, torch.from_numpy(counts.astype(np.int64)), K).mean())


def main(words: Sequence[str] | None = None) -> None:
    """Prints both numbers of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data-path", type=Path)
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: those of the preset")
    given = parser.parse_args(words)
    said: dict[str, Any] = {"data.data_path": given.data_path} if given.data_path else {}
    said |= {"recall.recallers": given.models} if given.models else {}
    config = resolve(given.dataset, "tiny", "full", said)
    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    rows = rows_of(corpus, windows)
    print(f"{given.dataset}: {len(windows.of(Part.TEST)):,} test windows, NDCG@{K}, seed {config.seed}")
    for name in config.recall.recallers:
        with tempfile.TemporaryDirectory() as folder:
            theirs = by_recbole(name, config, rows, Path(folder))
            ours = by_softgrpo(name, config, corpus, windows, Path(folder))
        print(f"{name}: RecBole by itself {theirs:.4f}, softgrpo {ours:.4f} ({ours / theirs - 1:+.1%})", flush=True)


if __name__ == "__main__":
    main()
