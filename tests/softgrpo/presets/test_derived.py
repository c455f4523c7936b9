"""What follows from the size of the data, where a dataset has no preset; and where presets and people say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softgrpo.data.size import DataSize
from softgrpo.errors import DataError, RecallerError
from softgrpo.pipeline.preflight import preflight
from softgrpo.presets import resolve
from softgrpo.presets.changes import as_overrides, find_changes
from softgrpo.presets.derived import derived, recaller_settings, targets_per_user
from softgrpo.recallers.kinds import COMPUTED, USERS, kind_of
from softgrpo.recallers.registry import check_settings, known_recallers

SMALL = DataSize(users=500, items=300, interactions=5500, training=3200, policy=500, valid=500, test=500, windows=2000)
MEDIUM = replace(SMALL, users=943, training=50_000)
LARGE = replace(SMALL, users=6000, training=500_000, policy=24_000, valid=6000)
HUGE = replace(LARGE, users=1_000_000, training=20_000_000)


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, Any]:
    """Sixty users with 20 of 80 items each, as a dataset without a preset; returns the override that names its data path."""
    rows = [f"u{user}\ti{(user * 7 + step * 3) % 80}\t{1000 + step}" for user in range(60) for step in range(20)]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/shop.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n"
    )
    return {"data.data_path": str(tmp_path)}


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # 2,000,000 / training within 20 to 100 epochs; training / 64 down to a power of two within 64 to 2048
        (SMALL, {"epochs": 100, "stopping_step": 10, "train_batch_size": 64}),
        (MEDIUM, {"epochs": 40, "stopping_step": 4, "train_batch_size": 512}),
        (LARGE, {"epochs": 20, "stopping_step": 2, "train_batch_size": 2048}),
        (HUGE, {"epochs": 20, "stopping_step": 2, "train_batch_size": 2048}),
    ],
)
def test_pairs_get_many_epochs_of_small_data_and_few_of_large(size: DataSize, expected: Mapping[str, int]) -> None:
    assert recaller_settings("BPR", size) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # 300,000 / positions within 5 to 20 epochs; positions are 60,000 at most
        (SMALL, {"epochs": 20, "stopping_step": 2, "train_batch_size": 64}),
        (MEDIUM, {"epochs": 6, "stopping_step": 2, "train_batch_size": 512}),
        (LARGE, {"epochs": 5, "stopping_step": 2, "train_batch_size": 512}),
    ],
)
def test_sequences_get_fewer_epochs(size: DataSize, expected: dict[str, int]) -> None:
    assert recaller_settings("SASRec", size) == expected | {"MAX_ITEM_LIST_LENGTH": 20}


def test_other_kinds_have_rules_of_their_own() -> None:
    assert recaller_settings("ItemKNN", LARGE) == recaller_settings("Pop", SMALL) == {}
    assert recaller_settings("MultiVAE", MEDIUM) == {"epochs": 100, "stopping_step": 10, "train_batch_size": 32}
    assert recaller_settings("LightGCN", MEDIUM) == {"epochs": 40, "stopping_step": 4, "train_batch_size": 2048}
    with pytest.raises(RecallerError, match="Did you mean 'SASRec'"):
        kind_of("SASRek")


def test_positions_and_windows_of_large_data_are_limited() -> None:
    assert targets_per_user(MEDIUM) is None
    assert (targets_per_user(LARGE), targets_per_user(HUGE)) == (10, 5)
    assert derived(SMALL, ["Pop"]) == {"recall": {"settings": {}}, "train": {}}
    large = derived(LARGE, ["Pop"])
    assert large["recall"] == {"settings": {}, "targets_per_user": 10}
    assert large["train"] == {"max_train_windows": 4000, "max_valid_windows": 2000}


@pytest.mark.parametrize("name", sorted(known_recallers()))
def test_every_recaller_takes_what_is_derived(name: str) -> None:
    for size in (SMALL, LARGE):
        check_settings(name, recaller_settings(name, size))


def test_kinds_are_those_of_recbole() -> None:
    from recbole.utils import ModelType, get_model

    from softgrpo.recallers.recbole_compat import import_models
    from softgrpo.recallers.recbole_data import learns_by_gradient

    import_models()  # leaves autograd as it is, which a bare import would not
    assert {name for name in known_recallers() if not learns_by_gradient(name)} == COMPUTED
    sequential = {name for name in known_recallers() if get_model(name).type == ModelType.SEQUENTIAL}
    assert {name for name in known_recallers() if kind_of(name) == "sequences"} == sequential
    assert set(known_recallers()) >= USERS


def test_a_dataset_without_a_preset_gets_what_follows_from_its_data(shop: dict[str, Any]) -> None:
    config = resolve("shop", "tiny", overrides=shop)
    # 60 users of 20: a share of 0.6 less 0.1 held back is 10 of each, 600 in all
    assert config.recall.settings == {
        "BPR": {"epochs": 100, "stopping_step": 10, "train_batch_size": 64},
        "SASRec": {"epochs": 20, "stopping_step": 2, "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 20},
    }
    assert config.train.max_train_windows == 8000  # the size's preset wins
    assert resolve("shop", "tiny", overrides=shop) == config


def test_what_people_say_wins_over_what_is_derived(shop: dict[str, Any]) -> None:
    def found(said: dict[str, Any]) -> dict[str, Any]:
        return resolve("shop", "tiny", overrides=shop | said).recall.settings

    usual = found({})
    assert found({"recall.settings.BPR.epochs": 3})["BPR"] == usual["BPR"] | {"epochs": 3}
    assert found({"recall.settings.BPR": {}}) == usual | {"BPR": {}}
    assert found({"recall.settings": {}}) == {}
    together = found({"recall.settings.all.epochs": 3})  # of all recallers, and settings of each would win over it
    assert together["all"] == {"epochs": 3} and "epochs" not in together["BPR"] | together["SASRec"]
    assert set(found({"recall.recallers": ["Pop", "LightGCN"]})) == {"LightGCN"}


def test_debug_and_datasets_with_a_preset_are_as_their_presets_say(shop: dict[str, Any]) -> None:
    debug = resolve("shop", "tiny", "debug", shop)
    assert debug.recall.settings == resolve("nowhere", "tiny", "debug").recall.settings
    assert resolve("ml-100k", "tiny", overrides=shop).recall == resolve("ml-100k", "tiny").recall


def test_recallers_that_a_preset_does_not_mention_get_what_follows_from_the_data() -> None:
    pool = {"recall.recallers": ["BPR", "LightGCN", "GRU4Rec", "Pop"]}
    config = resolve("ml-100k", "tiny", overrides=pool)
    preset = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["BPR", "ItemKNN"]}).recall
    # about 50,000 interactions: 2,000,000 / 50,000 epochs of a graph, 300,000 / 50,000 of sequences, 50,000 / 64 a batch
    assert config.recall.settings == {
        "BPR": preset.settings["BPR"],
        "LightGCN": {"epochs": 40, "stopping_step": 4, "train_batch_size": 2048},
        "GRU4Rec": {"epochs": 6, "stopping_step": 2, "train_batch_size": 512, "MAX_ITEM_LIST_LENGTH": 20},
    }
    assert config.recall.targets_per_user == preset.targets_per_user
    assert config.train == resolve("ml-100k", "tiny").train
    own = resolve("ml-100k", "tiny", overrides=pool | {"recall.settings.LightGCN.epochs": 3})
    assert own.recall.settings["LightGCN"]["epochs"] == 3
    assert find_changes(config).settings == {}
    assert find_changes(own).settings == {"recall.settings.LightGCN.epochs": "3"}


def test_what_follows_from_the_data_of_another_folder_is_no_change(shop: dict[str, Any]) -> None:
    config = resolve("shop", "tiny", overrides=shop | {"split.window": 2, "data.k_core": 1})
    assert find_changes(config).settings == {"split.window": "2", "data.k_core": "1"}


@pytest.mark.parametrize(
    ("stage", "pool", "setting", "default"),
    [
        ("full", ["BPR", "LightGCN"], "LightGCN.epochs", "The default for ml-100k with size tiny is 40"),
        ("debug", ["BPR", "LightGCN"], "LightGCN.epochs", "The default for ml-100k with size tiny is 1"),
        ("full", ["BPR", "SASRec"], "SASRec.n_layers", "RecBole's default is 2"),
    ],
)
def test_a_wrong_setting_of_a_recaller_quotes_the_default_that_is_used(
    stage: str, pool: list[str], setting: str, default: str
) -> None:
    wrong = {"recall.recallers": pool, f"recall.settings.{setting}": 0}
    with pytest.raises(RecallerError, match=default):
        preflight(resolve("ml-100k", "tiny", stage, wrong))


def test_data_that_are_not_there_leave_the_defaults_and_broken_ones_are_told(
    shop: dict[str, Any], tmp_path: Path
) -> None:
    assert resolve("nowhere", "tiny", overrides=shop).recall.settings == {}
    with pytest.raises(DataError, match=r"data\.user_field"):
        resolve("shop", "tiny", overrides=shop | {"data.user_field": "customer"})


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"recall.settings": {}},
        {"recall.settings.SASRec": {}, "recall.settings.SASRec.epochs": 3},
        {"recall.recallers": ["Pop", "LightGCN"]},
        {"recall.targets_per_user": 7, "train.max_valid_windows": 5},
    ],
)
@pytest.mark.parametrize("stage", ["full", "debug"])
def test_a_flow_is_told_the_configuration_that_was_checked(
    said: dict[str, Any], stage: str, shop: dict[str, Any]
) -> None:
    for dataset in ("shop", "ml-100k"):
        config = resolve(dataset, "tiny", stage, shop | said if dataset == "shop" else said)
        assert resolve(dataset, "tiny", overrides=as_overrides(config)) == config
