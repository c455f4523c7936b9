"""Each kind of leak, planted in what the stages stored, and the stage `check` that sees it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from softgrpo.common.artifacts import EMBEDDINGS, NUMBERS, USER_VECTORS
from softgrpo.common.embeddings import create_embeddings, load_embeddings
from softgrpo.common.records import Part
from softgrpo.config import BlockName, ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows, targets_of, write_windows
from softgrpo.errors import CandidateError, LeakageError, SoftGRPOError
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import LogReporter, run_node
from softgrpo.pipeline.store import LocalStore
from softgrpo.policy.blocks.block import Known, Numbers
from softgrpo.policy.features import load_features, save_features
from softgrpo.policy.numbers import BLOCKS, WindowNumbers, load_numbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.prompts import PromptFormatter, PromptParts
from softgrpo.presets import resolve
from softgrpo.recallers.stored_lists import write_candidates
from softgrpo.stages.contract import Node
from softgrpo.stages.leakage import check_everyone_is_tested
from softgrpo.stages.user_vectors import load_vectors
from tests.softgrpo.data.cases import INTER, Row, write_table
from tests.support.whole import read_candidates, save_numbers, save_prompts, window_numbers

USERS, ITEMS, LENGTH = 24, 40, 15
Folders = dict[str, Path]
Plant = Callable[[Folders], None]


def shop(folder: Path) -> Path:
    """Writes a dataset: two groups of users who walk through their own items, seconds since 1970 as times, titles."""
    rows: list[Row] = []
    for user in range(USERS):
        items = [(user // 2 + 3 * step) % ITEMS for step in range(LENGTH)]
        rows += [(f"u{user:02}", f"i{item:02}", 1.6e9 + 86_400 * 3 * at) for at, item in enumerate(items)]
    write_table(folder / "shop" / "shop.inter", INTER, rows)
    titles: list[Row] = [(f"i{item:02}", f"Title {item}") for item in range(ITEMS)]
    write_table(folder / "shop" / "shop.item", "item_id:token\ttitle:token_seq", titles)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    said = {
        "data.data_path": str(shop(tmp_path_factory.mktemp("data"))),
        "data.download": False,
        "data.k_core": 0,
        "recall.recallers": ["FPMC", "ItemKNN"],
        "recall.settings.FPMC": {"epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 5},
        "features.user_vector_size": 3,
        "recall.depth": 20,
        "evaluation.ks": [5],
        "fusion.k": 5,
        "split.window": 2,
        **{f"features.{name}": True for name in BLOCKS},
    }
    return resolve("shop", "tiny", overrides=said)


def upstream(node: Node, folders: Folders) -> set[str]:
    """Returns what a stage reads: embeddings too, whether or not the plan has a stage that makes them."""
    return {*node.upstream, "embed"} & folders.keys()


@pytest.fixture(scope="module")
def stored(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Runs the stages up to `data`, once."""
    store = LocalStore(tmp_path_factory.mktemp("stages"))
    folders: Folders = {}
    for node in plan(config, "data"):
        inputs = {name: folders[name] for name in upstream(node, folders)}
        run_node(node, config, inputs, node.name, store, LogReporter(node.name))
        folders[node.name] = store.payload(node.name)
        if node.name == "split":
            folders["embed"] = tmp_path_factory.mktemp("embed")
            texts = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
            rows = create_embeddings(folders["embed"] / EMBEDDINGS, *texts.shape)
            rows[:] = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return folders


def check(config: ExperimentConfig, folders: Folders, store: LocalStore) -> dict[str, float]:
    """Runs the stage."""
    node = next(node for node in plan(config) if node.name == "check")
    run_node(
        node, config, {name: folders[name] for name in upstream(node, folders)}, "check", store, LogReporter("check")
    )
    found: dict[str, float] = json.loads((store.payload("check") / "leakage.json").read_text(encoding="utf-8"))
    return found


def test_what_the_stages_make_passes(config: ExperimentConfig, stored: Folders, tmp_path: Path) -> None:
    found = check(config, stored, LocalStore(tmp_path))
    windows = load_windows(stored["split"])
    assert found["users_with_a_test_window"] == USERS
    assert found["prompts_that_hide_what_comes"] == (windows.part != Part.RECORD).sum()
    numbers = load_numbers(stored["data"] / NUMBERS)
    assert found["numbers_that_hide_what_comes"] == numbers.values.size
    assert any("text of first" in name for name in numbers.names), "the block content is there"
    own = [name for name in numbers.names if "user vector" in name]
    assert own == [f"FPMC: user vector {place}" for place in (1, 2, 3)], "ItemKNN has none"
    assert found["targets_looked_for_in_training_inputs"] == 2 * (windows.end - windows.start).sum()
    assert found["outcomes_in_track_records"] > 0 and found["candidates_not_in_histories"] > 0


def target_in_training(folders: Folders) -> None:
    """Hands FPMC the first test target as a training row."""
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    window = windows.of(Part.TEST)[0]
    path = folders["recall-FPMC"] / "trained_on.parquet"
    table = pd.read_parquet(path)
    leaked = {"user": windows.user[window], "item": targets_of(corpus, windows)[window, 0]}
    pd.concat([table, pd.DataFrame([leaked])], ignore_index=True).astype(np.int32).to_parquet(path, index=False)


def what_comes_later_in_training(folders: Folders) -> None:
    """Hands FPMC an item of a user's future that is no target: a window loses its last one first."""
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    window = np.flatnonzero(windows.end - windows.start > 1)[0]
    end = windows.end.copy()
    end[window] -= 1
    write_windows(folders["split"], replace(windows, end=end))
    user = windows.user[window]
    given = pd.DataFrame([{"user": user, "item": corpus.sequence(user)[end[window]]}])
    path = folders["recall-FPMC"] / "trained_on.parquet"
    pd.concat([pd.read_parquet(path), given], ignore_index=True).astype(np.int32).to_parquet(path, index=False)


def training_part_too_long(folders: Folders) -> None:
    """Lets one user's training part reach into the first window behind it."""
    windows = load_windows(folders["split"])
    longer = windows.train_end.copy()
    longer[3] = windows.start[np.flatnonzero(windows.user == 3)[0]] + 1
    write_windows(folders["split"], replace(windows, train_end=longer))


def two_windows_share_a_target(folders: Folders) -> None:
    """Lets a validation window run into the test window."""
    windows = load_windows(folders["split"])
    end = windows.end.copy()
    end[windows.of(Part.VALID)[0]] += 1
    write_windows(folders["split"], replace(windows, end=end))


def history_item_in_candidates(folders: Folders) -> None:
    """Puts an item that the user has into the first list of a test window."""
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    lists = read_candidates(folders["data"] / "candidates.parquet")
    window = windows.of(Part.TEST)[2]
    lists.items[window, 0, 0] = corpus.sequence(windows.user[window])[0]
    write_candidates(folders["data"] / "candidates.parquet", lists)


def padding_in_candidates(folders: Folders) -> None:
    """Lets padding stand where an item should be."""
    lists = read_candidates(folders["data"] / "candidates.parquet")
    lists.items[5, 1, 0] = -1
    write_candidates(folders["data"] / "candidates.parquet", lists)


def padding_of_recbole_in_candidates(folders: Folders) -> None:
    """Lets an item stand in a list that RecBole has and the data do not: its ids are one larger than ours."""
    lists = read_candidates(folders["data"] / "candidates.parquet")
    lists.items[5, 1, 0] = ITEMS
    write_candidates(folders["data"] / "candidates.parquet", lists)


def record_of_a_later_window(folders: Folders) -> None:
    """Lets a validation window's track record know the outcome of the test window."""
    windows = load_windows(folders["split"])
    path = folders["data"] / "features.safetensors"
    features = load_features(path)
    window = windows.of(Part.VALID)[0]
    count = features.track_count[window]
    told = (features.track_ndcg[window] * count + features.ndcg[window + 1]) / (count + 1)
    features.track_ndcg[window] = np.where(np.isnan(told), features.ndcg[window + 1] + 0.5, told + 0.5)
    save_features(path, features)


def record_counts_its_own_window(folders: Folders) -> None:
    """Lets every track record count one outcome more than there was."""
    path = folders["data"] / "features.safetensors"
    features = load_features(path)
    save_features(path, replace(features, track_count=features.track_count + 1))


def change_prompt(folders: Folders, part: Part, change: Callable[[PromptParts, str], PromptParts]) -> None:
    """Changes the prompt of the first window of a part; the change gets the title of the window's first target."""
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    path = folders["data"] / "prompts.parquet"
    prompts = load_prompts(path, np.arange(len(windows)))
    window = int(windows.of(part)[0])
    title = str(corpus.items["title"].iloc[targets_of(corpus, windows)[window, 0]])
    prompts[window] = change(prompts[window], title)
    save_prompts(path, prompts)


def target_in_a_prompt(folders: Folders) -> None:
    """Lets the history in a test prompt go on with the target."""
    change_prompt(folders, Part.TEST, lambda parts, title: replace(parts, items=(*parts.items, title)))


def hint_in_a_prompt(folders: Folders) -> None:
    """Lets a training prompt say which recaller will be right."""
    change_prompt(
        folders, Part.POLICY, lambda parts, _: replace(parts, tail=f"Hint: FPMC will be right.\n{parts.tail}")
    )


def prompts_only_of_windows_with_a_hit(folders: Folders) -> None:
    """Leaves out prompts by what the recallers found."""
    path = folders["data"] / "prompts.parquet"
    hit = load_features(folders["data"] / "features.safetensors").ndcg.max(1) > 0
    assert not hit.all()
    save_prompts(path, load_prompts(path, np.flatnonzero(hit)))


def users_dropped_by_outcome(folders: Folders) -> None:
    """Leaves out, everywhere, the test windows in which no recaller finds a target."""
    windows = load_windows(folders["split"])
    features = load_features(folders["data"] / "features.safetensors")
    kept = (features.ndcg.max(1) > 0) | (windows.part != Part.TEST)
    assert not kept.all()
    rows = np.flatnonzero(kept)
    fewer = {name: getattr(windows, name)[rows] for name in ("user", "part", "start", "end")}
    write_windows(folders["split"], replace(windows, **fewer))
    save_features(
        folders["data"] / "features.safetensors", replace(features, **{k: v[rows] for k, v in vars(features).items()})
    )
    lists = read_candidates(folders["data"] / "candidates.parquet")
    write_candidates(
        folders["data"] / "candidates.parquet", replace(lists, items=lists.items[rows], scores=lists.scores[rows])
    )
    path = folders["data"] / "prompts.parquet"
    save_prompts(path, load_prompts(path, rows))
    change_numbers(folders, lambda numbers: replace(numbers, values=numbers.values[rows]))


def change_numbers(folders: Folders, change: Callable[[WindowNumbers], WindowNumbers]) -> None:
    """Changes the stored numbers."""
    path = folders["data"] / NUMBERS
    save_numbers(path, change(load_numbers(path)))


def numbers_of_fewer_windows(folders: Folders) -> None:
    """Leaves out the numbers of the last window."""
    change_numbers(folders, lambda numbers: replace(numbers, values=numbers.values[:-1]))


def levels_of_all_windows(folders: Folders) -> None:
    """Lets levels in words follow from all windows, those of the test included."""
    shares = np.arange(1, 5) / 5
    change_numbers(folders, lambda numbers: replace(numbers, cuts=np.quantile(numbers.values, shares, axis=0).T))


def answer_among_the_numbers(folders: Folders) -> None:
    """Lets gates read which recaller will be right."""
    answer = load_features(folders["data"] / "features.safetensors").ndcg.argmax(1)[:, None].astype(float)

    def add(numbers: WindowNumbers) -> WindowNumbers:
        values = np.concatenate([numbers.values, answer], axis=1)
        cuts = np.quantile(values[load_windows(folders["split"]).of(Part.POLICY)], np.arange(1, 5) / 5, axis=0).T
        return WindowNumbers((*numbers.names, "best"), values, cuts)

    change_numbers(folders, add)


@pytest.mark.parametrize(
    ("plant", "kind", "message"),
    [
        (target_in_training, LeakageError, "FPMC was trained on 1 of "),
        (what_comes_later_in_training, LeakageError, "FPMC was trained on 1 pairs from behind its part"),
        (training_part_too_long, LeakageError, "targets are in the recallers' training input"),
        (two_windows_share_a_target, LeakageError, "belong to two windows"),
        (history_item_in_candidates, LeakageError, "holds an item of the window's history"),
        (padding_in_candidates, CandidateError, "an empty place before its end"),
        (padding_of_recbole_in_candidates, CandidateError, "holds an item that does not exist"),
        (record_of_a_later_window, LeakageError, "The track records of 1 windows"),
        (record_counts_its_own_window, LeakageError, "tell of other outcomes than those before"),
        (target_in_a_prompt, LeakageError, "changes with what lies behind the window's history"),
        (hint_in_a_prompt, LeakageError, "changes with what lies behind the window's history"),
        (prompts_only_of_windows_with_a_hit, LeakageError, "Every window has one, whatever came of it"),
        (numbers_of_fewer_windows, LeakageError, "Every window has one, whatever came of it"),
        (levels_of_all_windows, LeakageError, "are not those of the policy windows"),
        (answer_among_the_numbers, LeakageError, "stored numbers, where the settings ask for"),
        (users_dropped_by_outcome, LeakageError, "would choose the users by outcome"),
    ],
    ids=lambda value: value.__name__ if callable(value) and not isinstance(value, type) else "",
)
def test_a_planted_leak_fails_the_run(
    config: ExperimentConfig, stored: Folders, tmp_path: Path, plant: Plant, kind: type[SoftGRPOError], message: str
) -> None:
    folders = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in stored.items()}
    plant(folders)
    store = LocalStore(tmp_path / "stages")
    with pytest.raises(kind, match=message):
        check(config, folders, store)
    assert store.find("check") is None
    assert not (tmp_path / "stages" / "check").exists()


class Leaky(PromptFormatter):
    """Tells what comes next, or how the recallers will do."""

    outcome = False

    def parts(self, window: int) -> PromptParts:
        parts = super().parts(window)
        told = self._features.ndcg[window] if self.outcome else targets_of(self._corpus, self._windows)[window]
        return replace(parts, tail=f"{told.tolist()}\n{parts.tail}")


@pytest.mark.parametrize("outcome", [False, True])
def test_a_leak_in_the_formatter_itself_is_seen(
    config: ExperimentConfig, stored: Folders, tmp_path: Path, outcome: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check makes prompts with the same code; it sees the leak because it makes them in a world that ends otherwise."""
    monkeypatch.setattr(Leaky, "outcome", outcome)
    monkeypatch.setattr("softgrpo.stages.hiding.PromptFormatter", Leaky)
    folders = stored | {"data": Path(shutil.copytree(stored["data"], tmp_path / "data"))}
    corpus, windows = load_corpus(stored["split"]), load_windows(stored["split"])
    lists = read_candidates(stored["data"] / "candidates.parquet")
    features = load_features(stored["data"] / "features.safetensors")
    formatter = Leaky(config.prompt, corpus, windows, lists, features, load_numbers(stored["data"] / NUMBERS))
    save_prompts(folders["data"] / "prompts.parquet", [formatter.parts(window) for window in range(len(windows))])
    with pytest.raises(LeakageError, match="changes with what lies behind"):
        check(config, folders, LocalStore(tmp_path / "stages"))


def one_item_more(known: Known) -> Known:
    """Counts the first target as history."""
    return replace(known, windows=replace(known.windows, start=known.windows.start + 1))


def everything_counts(known: Known) -> Known:
    """Counts what recallers may not train on."""
    return replace(known, windows=replace(known.windows, train_end=known.windows.train_end + LENGTH))


def the_outcome_as_score(known: Known) -> Known:
    """Adds to all scores of a list how good it will be, more to the first."""
    told = known.features.ndcg[:, :, None] / np.arange(1, known.lists.depth + 1)
    return replace(known, lists=replace(known.lists, scores=known.lists.scores + told.astype(np.float32)))


def the_target_first(known: Known) -> Known:
    """Puts a window's first target to the front of the first list."""
    items = known.lists.items.copy()
    items[:, 0, 0] = targets_of(known.corpus, known.windows)[:, 0]
    return replace(known, lists=replace(known.lists, items=items))


@pytest.mark.filterwarnings("ignore:invalid value encountered in log1p")  # the hidden world's times do not ascend
@pytest.mark.parametrize(
    ("block", "leak"),
    [
        ("content", one_item_more),
        ("content", the_target_first),
        ("shape", the_outcome_as_score),
        ("agreement", the_target_first),
        ("popularity", one_item_more),
        ("popularity", everything_counts),
        ("pace", one_item_more),
        ("user_vector", one_item_more),
    ],
)
def test_a_leak_in_a_block_itself_is_seen(
    config: ExperimentConfig,
    stored: Folders,
    tmp_path: Path,
    block: BlockName,
    leak: Callable[[Known], Known],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check computes with the same code; it sees the leak because it computes in a world that ends otherwise."""
    honest = BLOCKS[block].compute

    def leaky(known: Known) -> Numbers:
        return honest(leak(known))

    monkeypatch.setitem(BLOCKS, block, replace(BLOCKS[block], compute=leaky))  # type: ignore[arg-type]
    folders = stored | {"data": Path(shutil.copytree(stored["data"], tmp_path / "data"))}
    known = Known(
        load_corpus(stored["split"]),
        load_windows(stored["split"]),
        read_candidates(stored["data"] / "candidates.parquet"),
        load_features(stored["data"] / "features.safetensors"),
        load_embeddings(stored["embed"] / EMBEDDINGS),
        load_vectors(config, stored, load_corpus(stored["split"]), stored["data"]),
    )
    told = window_numbers(known, config.features)
    save_numbers(folders["data"] / NUMBERS, told)
    assert not np.allclose(told.values, load_numbers(stored["data"] / NUMBERS).values), "the leak tells something"
    with pytest.raises(LeakageError, match=r"The number .* changes with what lies behind the window's history"):
        check(config, folders, LocalStore(tmp_path / "stages"))


def test_user_vectors_fitted_on_other_windows_are_seen(
    config: ExperimentConfig, stored: Folders, tmp_path: Path
) -> None:
    folders = stored | {"data": Path(shutil.copytree(stored["data"], tmp_path / "data"))}
    projections = load_file(folders["data"] / USER_VECTORS)
    assert {name: tensor.shape for name, tensor in projections.items()} == {
        "mean:FPMC": (16,), "components:FPMC": (3, 16),
    }  # fmt: skip
    np.testing.assert_allclose(projections["components:FPMC"] @ projections["components:FPMC"].T, np.eye(3), atol=1e-9)
    save_file(projections | {"mean:FPMC": projections["mean:FPMC"] + 0.01}, folders["data"] / USER_VECTORS)
    with pytest.raises(LeakageError, match=r"mean of the user vectors of FPMC.*\[LEAKAGE-015\]"):
        check(config, folders, LocalStore(tmp_path / "stages"))


def test_leaving_out_users_of_the_evaluation_is_seen(stored: Folders) -> None:
    windows = load_windows(stored["split"])
    everyone = windows.of(Part.TEST)
    assert check_everyone_is_tested(everyone[::-1], windows) == USERS
    for wrong in (everyone[1:], np.append(everyone, everyone[0]), windows.of(Part.VALID)):
        with pytest.raises(LeakageError, match="Every user that has a test window is evaluated"):
            check_everyone_is_tested(wrong, windows)
