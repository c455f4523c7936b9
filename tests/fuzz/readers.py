"""Every reader of what comes from outside, with what may never happen: another error than one for people, or a wrong result.

Each check takes an input and a folder of its own, in which it may write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.common.text import visible
from softgrpo.config import DataConfig, ExperimentConfig, SplitConfig
from softgrpo.data.atomic import read_atomic
from softgrpo.data.corpus import read_corpus
from softgrpo.data.streams import Shard
from softgrpo.data.usual import find_columns
from softgrpo.data.windows import check_no_leak, make_windows
from softgrpo.errors import SoftGRPOError
from softgrpo.flows.cli import build_parser
from softgrpo.flows.command.flags import complete_switches, overrides, refuse_unknown
from softgrpo.flows.command.parser import sub_parsers
from softgrpo.pipeline.store import FORMAT, LocalStore
from softgrpo.policy.card import CARD, load_card
from softgrpo.presets import resolve
from softgrpo.presets.bounds import read_yaml
from softgrpo.presets.settings import as_flags
from softgrpo.presets.settings_file import read_settings
from softgrpo.recallers.candidates import check_candidates
from softgrpo.recallers.from_file import read_lists
from softgrpo.serving.histories import open_history, read_histories
from tests.softgrpo.recallers.cases import corpus_of, windows_of

Check = Callable[[Any, Path], object]
KEY = "split-0123456789abcdef0123"
DEPTH = 3
LONGEST_MESSAGE = 40_000


def refused(act: Callable[[], Any]) -> Any:
    """Returns what a reader returns, or None where it refuses in words; every other error goes on."""
    try:
        return act()
    except SoftGRPOError as error:
        text = str(error)
        assert len(text) < LONGEST_MESSAGE and visible(text, kept="\n") == text
        return None


def check_atomic(data: bytes, folder: Path) -> None:
    """An atomic file: the table has the fields of its lines, and the corpus its pairs, in the order of time."""
    (folder / "shop").mkdir(exist_ok=True)
    path = folder / "shop" / "shop.inter"
    path.write_bytes(data)
    table = refused(lambda: read_atomic(path))
    if table is not None:
        lines = data.removeprefix(b"\xef\xbb\xbf").decode().removesuffix("\n").split("\n")[1:]
        fields = [line.removesuffix("\r").split("\t") for line in lines]
        assert table.to_numpy().tolist() == fields
    settings = {"dataset": "shop", "data_path": folder, "k_core": 0, "min_user_items": 4, "download": False}
    config = DataConfig.model_validate(settings)
    corpus = refused(lambda: read_corpus(config, 0))
    if corpus is not None:
        assert table is not None
        names = find_columns(path, table.columns, config)
        _check_corpus(corpus, table[names["user"].name], table[names["item"].name])
        windows = refused(lambda: make_windows(corpus, SplitConfig()))
        if windows is not None:
            check_no_leak(corpus, windows)


def check_table(name: str, data: bytes, folder: Path) -> None:
    """Interactions in a file of this name: refused in words, or a corpus in which each pair is once and times ascend."""
    path = folder / name
    path.write_bytes(data)
    config = DataConfig(dataset="shop", source=path, k_core=0, min_user_items=1)
    corpus = refused(lambda: read_corpus(config, 0))
    if corpus is not None:
        pairs = set(zip(corpus.user.tolist(), corpus.item.tolist(), strict=True))
        assert len(pairs) == len(corpus.item) and np.isfinite(corpus.time).all()
        assert all((np.diff(corpus.time[begin:end]) >= 0).all() for begin, end in pairwise(corpus.offsets))
        assert all(name.strip() for name in (*corpus.users["token"], *corpus.items["token"]))


def check_settings_file(data: bytes, folder: Path) -> None:
    """A file of settings: refused in words, or settings that there are."""
    path = folder / "settings.yaml"
    path.write_bytes(data)
    values = refused(lambda: read_settings(path, None, None))
    assert all("." in key or key == "seed" for key in values or ())


def _check_corpus(corpus: Corpus, user: pd.Series, item: pd.Series) -> None:
    users, items = corpus.users["token"].to_numpy(), corpus.items["token"].to_numpy()
    pairs = set(zip(users[corpus.user], items[corpus.item], strict=True))
    assert len(pairs) == len(corpus.user)
    kept = user.isin(users)
    assert pairs == set(zip(user[kept], item[kept], strict=True))
    for user in range(len(users)):
        times = corpus.time[corpus.offsets[user] : corpus.offsets[user + 1]]
        assert (np.diff(times) >= 0).all()


@cache
def world() -> tuple[Corpus, Windows]:
    """Two users, five items, three windows."""
    return corpus_of([[0, 1, 2], [3, 2, 4]], 5), windows_of([(0, 1, 2), (0, 2, 3), (1, 2, 3)], [1, 1])


def _lists(path: Path) -> CandidateLists | None:
    found: CandidateLists | None = refused(lambda: read_lists(path, "Mine", *world(), DEPTH))
    if found is not None:
        check_candidates(found, *world())
    return found


def check_parquet_bytes(data: bytes, folder: Path) -> None:
    """A file of any bytes: refused, or lists that can be right."""
    path = folder / "mine.parquet"
    path.write_bytes(data)
    _lists(path)


def check_parquet_rows(columns: Mapping[str, Any], folder: Path) -> None:
    """A table of any values: refused, or the lists that its rows make."""
    path = folder / "mine.parquet"
    table = pd.DataFrame(columns)
    table.to_parquet(path, index=False)
    found = _lists(path)
    if found is None:
        return
    corpus, windows = world()
    for number in range(len(windows)):
        user, start = f"u{windows.user[number]}", windows.start[number]
        rows = table[(table["user"] == user) & (table["window"] == start) & table["item"].notna()]
        best = sorted(zip(-rows["score"].astype(float), rows["item"], strict=True))[:DEPTH]
        expected = [int(item.removeprefix("i")) for _, item in best]
        assert [int(item) for item in found.items[number, 0] if item >= 0] == expected
    assert set(table["user"]) <= set(corpus.users["token"])


def check_history(data: bytes, folder: Path) -> None:
    """A file of histories of any bytes, under each name: refused, or items that the run knows, each once and in order of time."""
    items, config = pd.Index(["i0", "i1", "i2"], dtype=object), DataConfig()
    for kind in ("csv", "inter", "parquet"):
        path = folder / f"history.{kind}"
        path.write_bytes(data)
        found = refused(lambda path=path: read_histories(open_history(path, config), Shard(), items, config, 0))
        for user in range(0 if found is None else len(found.users)):
            taken = found.items[user].tolist()
            assert len(set(taken)) == len(taken) and set(taken) <= {0, 1, 2} and found.users[user]
            assert found.times is None or (np.diff(found.times[user]) >= 0).all()


def check_card(data: bytes, folder: Path) -> None:
    """A policy's card: refused, or all that the file says and nothing else."""
    (folder / CARD).write_bytes(data)
    card = refused(lambda: load_card(folder))
    if card is not None:
        defaults = {"reading_tau": 1.0, "prior_per_window": False, "reads_numbers": "none", "numbers": []} | {
            "frozen_layers": 0
        }
        said = defaults | json.loads(data)
        assert json.loads(json.dumps(asdict(card))) == said
        assert np.isfinite(card.reading_tau) and card.reading_tau > 0


def check_mark(data: bytes, folder: Path) -> None:
    """A stage's mark: none, or one of this key whose digest is that of the files."""
    store = LocalStore(folder / "stages")
    if not store.payload(KEY).exists():
        with store.staging(KEY) as payload:
            (payload / "file").write_text("content")
            store.commit(KEY, payload)
        (folder / "digest").write_text(json.loads((store.root / f"{KEY}.json").read_text())["digest"])
    (store.root / f"{KEY}.json").write_bytes(data)
    marked = refused(lambda: store.marked(KEY))
    if marked is not None:
        assert json.loads(data) == {"key": KEY, "digest": marked.digest, "format": FORMAT}
    found = refused(lambda: store.find(KEY))
    assert found is None or found.digest == (folder / "digest").read_text()


def check_yaml(text: str, folder: Path) -> None:
    """The value of a flag: refused, or what plain YAML says."""
    try:
        found = read_yaml(text)
    except (yaml.YAMLError, ValueError):
        return
    expected = yaml.safe_load(text)
    assert found == expected or str(found) == str(expected)  # nan is not itself


def check_words(words: Sequence[str], folder: Path) -> None:
    """Flags of the command line: refused, or a configuration that its own flags give again."""
    config = refused(lambda: _config(words))
    if config is not None:
        flags = as_flags(_given(words))
        assert _config(flags).model_dump_json() == config.model_dump_json()


def _given(words: Sequence[str]) -> dict[str, Any]:
    completed = complete_switches(["config", *words])
    parser = build_parser(completed, ["config"])
    arguments, unknown = parser.parse_known_args(completed)
    refuse_unknown(unknown, ["config", *words], "config", sub_parsers(parser))
    return overrides(arguments)


def _config(words: Sequence[str]) -> ExperimentConfig:
    given = _given(words)
    return resolve(given.get("data.dataset", "ml-100k"), given.get("policy.size", "tiny"), overrides=given)


def check_overrides(values: Mapping[str, Any], folder: Path) -> None:
    """What a request to Prefect's server may hold: refused, or a configuration that can be stored and read again."""
    config = refused(lambda: resolve("ml-100k", "tiny", overrides=values))
    if config is not None:
        stored = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        again = ExperimentConfig.model_validate(stored)
        assert again.model_dump_json() == config.model_dump_json()


@cache
def runs(folder: Path) -> tuple[Any, tuple[str, str]]:
    """Returns an open store with two runs, and their ids."""
    from softgrpo.tasks.tracking.connection import open_tracking
    from softgrpo.tasks.tracking.liveness import LivenessLocks
    from softgrpo.tasks.tracking.runs import Runs
    from softgrpo.tasks.tracking.store import ArtifactStore

    local = LocalStore(folder / "stages")
    tracking = open_tracking(folder, "softgrpo/x", local)
    ids = tuple(str(tracking.client.create_run(tracking.experiment_id).info.run_id) for _ in range(2))
    return ArtifactStore(Runs(tracking, LivenessLocks.of(local)), local), (ids[0], ids[1])


def check_run_id(text: str, folder: Path) -> None:
    """The argument of --from-run and the like: refused, or the one run that it names; FIRST stands for the id of a run."""
    from softgrpo.tasks.tracking.lookup import read_run

    store, ids = runs(folder)
    text = text.replace("FIRST", ids[0]).replace("SIX", ids[0][:6])
    run = refused(lambda: read_run(store, text))
    if run is not None:
        assert run.info.run_id in ids and run.info.run_id.startswith(text)
        assert text == run.info.run_id or 6 <= len(text) < 32
    else:
        assert text not in ids
