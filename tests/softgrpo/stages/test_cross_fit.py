"""`split.cross_fit` through the stages: what it adds, what it leaves as it is, and leaks that are planted in what it adds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.common.artifacts import CANDIDATES, MERGES, NUMBERS, PLATT, PROMPTS, STATIC
from softgrpo.common.records import Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows, targets_of, write_windows
from softgrpo.errors import LeakageError
from softgrpo.pipeline.costs import Machine, estimate
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.run import LogReporter, run_node
from softgrpo.pipeline.store import LocalStore
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import load_features
from softgrpo.policy.numbers import load_numbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.presets import resolve
from softgrpo.stages import data as data_stage
from softgrpo.stages.catalogue import EVERY
from softgrpo.stages.inputs import Prepared
from tests.softgrpo.stages.test_leakage import check, shop
from tests.support.whole import make_features, read_candidates, save_numbers, window_numbers

Folders = dict[str, Path]
FOLDS = ("fold1", "fold2")
POOL = ("FPMC", "ItemKNN")


def settings(folder: Path, cross_fit: int) -> ExperimentConfig:
    """Returns the settings of a small run; the track record is off either way, so that runs have the same numbers."""
    overrides = {
        "data.data_path": str(folder),
        "data.download": False,
        "data.k_core": 0,
        "recall.recallers": list(POOL),
        "recall.settings.FPMC": {"epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 5},
        "recall.depth": 20,
        "evaluation.ks": [5],
        "fusion.k": 5,
        "split.window": 2,
        "split.cross_fit": cross_fit,
        "features.record": "off",
        "features.shape": True,
    }
    return resolve("shop", "tiny", overrides=overrides)


def run_until_data(config: ExperimentConfig, folder: Path, finished: Folders) -> Folders:
    """Runs the stages up to `data` that are not finished, and returns the folders of all."""
    store, folders = LocalStore(folder), dict(finished)
    for node in plan(config, "data"):
        if node.name not in folders:
            inputs = {name: folders[name] for name in node.upstream}
            run_node(node, config, inputs, node.name, store, LogReporter(node.name))
            folders[node.name] = store.payload(node.name)
    return folders


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(shop_folder: Path) -> ExperimentConfig:
    return settings(shop_folder, 2)


@pytest.fixture(scope="module")
def stored(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return run_until_data(config, tmp_path_factory.mktemp("stages"), {})


@pytest.fixture
def copied(stored: Folders, tmp_path: Path) -> Folders:
    """Returns the finished stages in a place where a test may change them."""
    return {name: Path(shutil.copytree(folder, tmp_path / "copied" / name)) for name, folder in stored.items()}


def test_the_plan_has_a_node_for_every_recaller_and_part(config: ExperimentConfig) -> None:
    nodes = {node.name: node for node in plan(config)}
    added = [name for name in nodes if "-fold" in name]
    assert added == [f"recall-{recaller}-{fold}" for recaller in POOL for fold in FOLDS]
    assert set(added) < set(nodes["data"].upstream) and set(added) < set(nodes["check"].upstream)
    names = list(nodes)
    for node in nodes.values():
        assert all(names.index(before) < names.index(node.name) for before in node.upstream)


def test_policy_windows_are_added_and_learnt_from(config: ExperimentConfig, stored: Folders) -> None:
    prepared = Prepared.of(config, stored)
    of_split = load_windows(stored["split"])
    windows = prepared.windows
    earlier = windows.of(Part.EARLIER)
    assert len(windows) == len(of_split) + len(earlier) and earlier[0] == len(of_split)
    # 15 items: recaller part 9, one of them for the record; half of the 8 for training is 4, two windows of two targets
    assert len(earlier) == 24 * 2
    learnt = prepared.config.grpo.model_copy(update={"drop_flat": False})
    everything = replace(prepared, config=prepared.config.model_copy(update={"grpo": learnt}))
    assert set(everything.rewarded_rows()) == set(windows.of(Part.POLICY)) | set(earlier)
    assert prepared.stored_lists.windows == len(prepared.features.ndcg) == len(prepared.numbers.values) == len(windows)


def test_what_is_searched_validated_and_tested_is_what_it_is_without(
    stored: Folders, shop_folder: Path, tmp_path: Path
) -> None:
    off = settings(shop_folder, 0)
    given = {name: folder for name, folder in stored.items() if name != "data" and "-fold" not in name}
    without = run_until_data(off, tmp_path, given)["data"]
    within, count = stored["data"], len(load_windows(stored["split"]))
    for name in (STATIC, MERGES, PLATT):
        assert (without / name).read_bytes() == (within / name).read_bytes(), name
    lists, more = read_candidates(without / CANDIDATES), read_candidates(within / CANDIDATES)
    assert np.array_equal(lists.items, more.items[:count])
    assert np.array_equal(lists.scores, more.scores[:count], equal_nan=True)
    numbers, further = load_numbers(without / NUMBERS), load_numbers(within / NUMBERS)
    assert numbers.names == further.names and np.array_equal(numbers.cuts, further.cuts)
    assert np.array_equal(numbers.values, further.values[:count])
    assert load_prompts(without / PROMPTS, np.arange(count)) == load_prompts(within / PROMPTS, np.arange(count))
    assert not (without / "windows.parquet").is_file(), "off stores what it always did"


def test_the_recallers_of_a_part_do_not_see_its_tails(stored: Folders) -> None:
    corpus, windows = load_corpus(stored["split"]), load_windows(stored["data"])
    earlier = windows.of(Part.EARLIER)
    targets = {
        (int(user), int(item))
        for user, row in zip(windows.user[earlier], targets_of(corpus, windows)[earlier], strict=True)
        for item in row[row >= 0]
    }
    seen = {}
    for recaller in POOL:
        for node in (f"recall-{recaller}", *(f"recall-{recaller}-{fold}" for fold in FOLDS)):
            pairs = pd.read_parquet(stored[node] / "trained_on.parquet")
            seen[node] = set(zip(pairs["user"].tolist(), pairs["item"].tolist(), strict=True))
        own = seen[f"recall-{recaller}"]
        left_out = [own - seen[f"recall-{recaller}-{fold}"] for fold in FOLDS]
        assert not left_out[0] & left_out[1] and left_out[0] | left_out[1] == targets
        assert all(seen[f"recall-{recaller}-{fold}"] < own for fold in FOLDS)


def test_the_stage_check_passes_and_counts_the_added_windows(
    config: ExperimentConfig, stored: Folders, tmp_path: Path
) -> None:
    found = check(config, stored, LocalStore(tmp_path))
    windows = load_windows(stored["data"])
    assert found["windows_added_by_cross_fitting"] == len(windows.of(Part.EARLIER))
    assert found["prompts_that_hide_what_comes"] == (windows.part != Part.RECORD).sum()
    assert found["targets_looked_for_in_training_inputs"] == 2 * (windows.end - windows.start).sum()


def lists_of_the_run_itself(folders: Folders) -> str:
    """Trains the recaller of a part on everything, as the run's own is."""
    path = folders["recall-ItemKNN"] / "trained_on.parquet"
    shutil.copy(path, folders["recall-ItemKNN-fold2"] / "trained_on.parquet")
    return "LEAKAGE-005"


def lists_of_the_other_part(folders: Folders) -> str:
    """Trains the recaller of a part without the tails of the other one."""
    path = folders["recall-FPMC-fold1"] / "trained_on.parquet"
    shutil.copy(path, folders["recall-FPMC-fold2"] / "trained_on.parquet")
    return "LEAKAGE-005"


def popularity_of_the_run_itself(folders: Folders) -> str:
    """Counts popularity in the whole training part, targets of the earlier windows included."""
    corpus, of_split, windows = (
        load_corpus(folders["split"]),
        load_windows(folders["split"]),
        load_windows(folders["data"]),
    )
    lists, features = (
        read_candidates(folders["data"] / CANDIDATES),
        load_features(folders["data"] / "features.safetensors"),
    )
    known = Known(corpus, windows, lists, features)
    assert np.array_equal(windows.train_end, of_split.train_end)
    stored = load_numbers(folders["data"] / NUMBERS)
    config = settings(Path("anywhere"), 2)
    leaking = window_numbers(known, config.told_features)
    place = leaking.names.index("popularity of the history")
    values = stored.values.copy()
    values[:, place] = leaking.values[:, place]
    assert (values != stored.values).any()
    save_numbers(folders["data"] / NUMBERS, replace(stored, values=values))
    return "LEAKAGE-013"


def own_target_in_the_numbers(folders: Folders) -> str:
    """Tells the NDCG of an earlier window's own list as one of its numbers."""
    stored, windows = load_numbers(folders["data"] / NUMBERS), load_windows(folders["data"])
    features = load_features(folders["data"] / "features.safetensors")
    hit = windows.of(Part.EARLIER)[features.ndcg[windows.of(Part.EARLIER)].max(1) > 0][0]
    values = stored.values.copy()
    values[hit, 0] += features.ndcg[hit].max()
    save_numbers(folders["data"] / NUMBERS, replace(stored, values=values))
    return "LEAKAGE-013"


def windows_by_outcome(folders: Folders) -> str:
    """Leaves out an earlier window."""
    windows: Windows = load_windows(folders["data"])
    rows = np.arange(len(windows) - 1)
    fewer = replace(windows, **{name: getattr(windows, name)[rows] for name in ("user", "part", "start", "end")})
    write_windows(folders["data"], fewer)
    return "LEAKAGE-007"


@pytest.mark.parametrize(
    "plant",
    [
        lists_of_the_run_itself,
        lists_of_the_other_part,
        popularity_of_the_run_itself,
        own_target_in_the_numbers,
        windows_by_outcome,
    ],
)
def test_planted_leaks_are_found(
    plant: Callable[[Folders], str], config: ExperimentConfig, copied: Folders, tmp_path: Path
) -> None:
    code = plant(copied)
    with pytest.raises(LeakageError) as error:
        check(config, copied, LocalStore(tmp_path / "check"))
    assert error.value.code == code


def test_strength_is_told_among_the_lists_of_the_same_recallers(stored: Folders) -> None:
    corpus, windows = load_corpus(stored["split"]), load_windows(stored["data"])
    lists, features = (
        read_candidates(stored["data"] / CANDIDATES),
        load_features(stored["data"] / "features.safetensors"),
    )
    earlier = windows.of(Part.EARLIER)
    half = earlier[: len(earlier) // 2]  # the first part
    first = lists.scores[half, 0, 0]
    place = [((first < one).sum() + (first <= one).sum()) / (2 * len(first)) for one in first]
    assert np.allclose(features.strength[half, 0], place)
    assert make_features.__doc__ is not None and corpus.num_users == 24


def test_the_width_of_scores_is_reported(stored: Folders) -> None:
    windows = load_windows(stored["data"])
    lists = read_candidates(stored["data"] / CANDIDATES)
    scores = lists.scores.copy()
    scores[windows.of(Part.EARLIER), 0] *= 10
    usual = data_stage.report_earlier(LogReporter("data"), lists, windows)
    wide = data_stage.report_earlier(LogReporter("data"), replace(lists, scores=scores), windows)
    assert usual["windows_earlier"] == 48
    assert wide["score_width_FPMC"] == pytest.approx(10 * usual["score_width_FPMC"])
    assert wide["score_width_ItemKNN"] == usual["score_width_ItemKNN"]


def test_no_stage_knows_the_setting_where_it_is_off(shop_folder: Path) -> None:
    off, on = settings(shop_folder, 0), settings(shop_folder, 2)
    for stage in EVERY:
        if stage.module.endswith(
            ("recall_file", "recall_plugin", "_fold", "embed", "refit", "refit_plugin", "embed_snapshot")
        ):
            continue
        assert "cross_fit" not in json.dumps(stage.parameters(off, "ItemKNN")), stage.module
        shared = stage.module.endswith(("split", "snapshot", "recall", "recall_text"))
        assert shared == (stage.parameters(off, "ItemKNN") == stage.parameters(on, "ItemKNN")) or stage.name in (
            "gates",
            "sft",
            "grpo",
        ), stage.module


def test_the_cost_is_told_before_anything_is_trained(shop_folder: Path) -> None:
    off, on = settings(shop_folder, 0), settings(shop_folder, 2)
    (note,) = [line for line in preflight(on, "recall") if "cross-fitting" in line]
    assert "adds 48 windows" in note and "trained 3 times" in note
    assert not [line for line in preflight(off, "recall") if "cross-fitting" in line]
    machine = Machine(2, 1e11, False)
    times = [estimate(plan(config, "recall"), config, machine).seconds["recall"] for config in (off, on)]
    assert times[1] == pytest.approx(3 * times[0], rel=0.05)
