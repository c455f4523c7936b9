"""The saved view of the runs table, decoded as MLflow's page does: base64, zlib, JSON."""

from __future__ import annotations

import base64
import json
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from softgrpo.errors import StoreError
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.tracking.connection import Tracking
from softgrpo.tasks.tracking.saved_view import TAG_CHARACTERS, columns_of, encode_view, keep_view, view_state


def decoded(tag: str) -> dict[str, Any]:
    """Reads a tag without the code that is tested."""
    envelope = json.loads(tag)
    assert sorted(envelope) == ["createdAt", "name", "state", "updatedAt"]
    kind, _, packed = envelope["state"].partition(";")
    assert kind == "deflate"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


def test_the_state_shows_results_of_one_cut_off_the_newest_first() -> None:
    state = decoded(encode_view("a view", view_state(5, ["BPR", "ItemKNN"]), 7))
    assert state["selectedColumns"] == [
        "tags.`vs best static`",
        "tags.`vs best single`",
        "metrics.`NDCG/best single`",
        "metrics.`NDCG/best static`",
        "metrics.`NDCG/SofT-GRPO`",
        "metrics.`NDCG/SFT`",
        "metrics.`NDCG/BPR`",
        "metrics.`NDCG/ItemKNN`",
        "tags.`changed settings`",
    ]
    assert state["searchFilter"].split(" AND ") == [
        "tags.stage = 'pipeline'",
        "params.`fusion.k` = '5'",
        "metrics.`NDCG/SofT-GRPO` >= 0",
    ]
    assert (state["orderByKey"], state["orderByAsc"]) == ("attributes.start_time", False)
    assert state["columnOrder"][2:] == state["selectedColumns"]
    assert set(state["columnWidths"]) == set(state["columnOrder"])


def test_name_results_and_gains_fit_into_1280_pixels() -> None:
    widths = view_state(10, [])["columnWidths"]
    first = list(widths.values())[:7]  # name, start, two gains, three results
    beside = 73 + 254  # the box that selects a run, and what is left and right of the table
    assert sum(first) + beside <= 1280
    assert sum(first[:4]) + beside + 328 <= 1280  # up to the gains while MLflow's assistant pane is open


@dataclass
class Experiments:
    """Stands for MLflow: the tags of one experiment."""

    tags: dict[str, str] = field(default_factory=dict)
    written: int = 0
    seconds: float = 0.0
    """What an answer takes."""
    refusals: list[MlflowException] = field(default_factory=list)
    """What the next requests to set a tag fail with; the first of them finds that another run has just set it."""
    meanwhile: dict[str, str] = field(default_factory=dict)
    """Tags that another run sets at the moment of a refusal."""

    def get_experiment(self, experiment_id: str) -> Experiments:
        assert experiment_id == "3"
        tags = dict(self.tags)
        time.sleep(self.seconds)
        return Experiments(tags)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        assert experiment_id == "3" and len(value) <= TAG_CHARACTERS
        if self.refusals:
            self.tags |= self.meanwhile
            raise self.refusals.pop(0)
        self.tags[key] = value
        self.written += 1


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def keep(store: Experiments, local: LocalStore, *recallers: str) -> list[str]:
    keep_view(Tracking(store, "http://x", "3"), local, 10, recallers)  # type: ignore[arg-type]
    (tag,) = store.tags.values()
    return columns_of(tag)


def test_a_run_adds_its_recallers_to_the_view_and_takes_none_away(local: LocalStore) -> None:
    store = Experiments()
    assert keep(store, local, "BPR", "Pop") == ["BPR", "Pop"]
    assert keep(store, local, "Pop", "BPR") == ["BPR", "Pop"]
    assert store.written == 1  # an identical run writes nothing
    assert keep(store, local, "Pop", "EASE") == ["BPR", "Pop", "EASE"]
    assert list(store.tags) == ["mlflow.sharedViewState.softgrpo-single-against-multi-at-10"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"state": "deflate;x"}', '{"state": 3}', "null"])
def test_a_view_that_cannot_be_read_is_made_anew(text: str, local: LocalStore) -> None:
    store = Experiments({"mlflow.sharedViewState.softgrpo-single-against-multi-at-10": text})
    assert keep(store, local, "BPR") == ["BPR"]


def test_runs_at_the_same_time_keep_each_others_columns(local: LocalStore) -> None:
    store = Experiments(seconds=0.1)
    pools = ["BPR", "Pop", "EASE", "SASRec"]
    with ThreadPoolExecutor(len(pools)) as threads:
        list(threads.map(lambda name: keep(store, local, name), pools))
    (tag,) = store.tags.values()
    assert sorted(columns_of(tag)) == sorted(pools)


COLLISION = "(sqlite3.IntegrityError) UNIQUE constraint failed: experiment_tags.key, experiment_tags.experiment_id"


def test_two_output_folders_on_one_server_may_set_the_tag_at_the_same_moment(local: LocalStore) -> None:
    name, other = (
        "mlflow.sharedViewState.softgrpo-single-against-multi-at-10",
        encode_view("x", view_state(10, ["Pop"]), 1),
    )
    store = Experiments(refusals=[MlflowException(COLLISION, BAD_REQUEST)], meanwhile={name: other})
    assert keep(store, local, "BPR") == ["Pop", "BPR"]
    same = Experiments(refusals=[MlflowException(COLLISION, BAD_REQUEST)], meanwhile={name: other})
    assert keep(same, local, "Pop") == ["Pop"] and same.written == 0  # the other run has set all that was missing


@pytest.mark.parametrize(("code", "tries"), [(BAD_REQUEST, 2), (INTERNAL_ERROR, 1)])
def test_a_refusal_for_another_reason_is_an_error(code: int, tries: int, local: LocalStore) -> None:
    store = Experiments(refusals=[MlflowException("the experiment is deleted", code) for _ in range(3)])
    with pytest.raises(StoreError, match="the experiment is deleted"):
        keep(store, local, "BPR")
    assert len(store.refusals) == 3 - tries


def test_more_recallers_than_a_tag_holds_are_left_out(local: LocalStore) -> None:
    store = Experiments()
    assert keep(store, local, "BPR") == ["BPR"]
    many = [f"recaller {number * 7919 % 100_003} of many" for number in range(2000)]
    assert keep(store, local, *many) == []
    assert "metrics.`NDCG/SofT-GRPO`" in decoded(next(iter(store.tags.values())))["selectedColumns"]
