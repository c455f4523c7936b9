"""A real run of real recallers, refitted on data that grew: who and what is new is served, and nothing is trained twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.errors import ConfigError, DataError, StoreError
from softgrpo.flows.results.finished import open_stored
from softgrpo.flows.results.refit import Refitted, open_to_refit
from softgrpo.pipeline.store import LocalStore
from softgrpo.presets import resolve
from softgrpo.serving.router import Router
from tests.softgrpo.data.cases import INTER, Row, write_table
from tests.support.toy_policy import save_base, toy_encoder, toy_tokenizer

pytest.importorskip("recbole")
pytestmark = pytest.mark.timeout(300)

COLOURS = ("red", "green", "blue")
USERS, ITEMS, TAKEN = 24, 12, 10


def rows_of(user: int, items: list[int]) -> list[Row]:
    return [(f"u{user:02}", f"i{item:02}", at) for at, item in enumerate(items)]


def write_shop(folder: Path, *, grown: bool) -> None:
    """Users go round a ring of items from their own place on. What comes later: item 12 after item 11, and one more user."""
    histories = {user: [(user + step) % ITEMS for step in range(TAKEN)] for user in range(USERS)}
    if grown:
        for user in (2, 14):
            histories[user].append(ITEMS)  # they took 2 to 11
        histories[USERS] = [2, 3, 4, 5, ITEMS]
    rows = [row for user, items in histories.items() for row in rows_of(user, items)]
    write_table(folder / "shop" / "shop.inter", INTER, rows)
    titles: list[Row] = [(f"i{item:02}", COLOURS[item % 3]) for item in range(ITEMS + grown)]
    write_table(folder / "shop" / "shop.item", "item_id:token\ttitle:token_seq", titles)


def settings(folder: Path) -> dict[str, Any]:
    model = save_base(folder / "model", toy_encoder(classes=4), toy_tokenizer())
    return {
        **{"data.data_path": str(folder), "data.download": False, "data.k_core": 0, "split.window": 1},
        **{"recall.depth": 20, "fusion.k": 3, "evaluation.ks": [5], "evaluation.baselines": ["cem"]},
        **{"recall.recallers": ["BPR", "EASE", "Text"], "recall.settings": {"BPR": {"epochs": 4}, "EASE": {}}},
        **{"text.model_name": model, "text.max_length": 32, "text.adapter": "on", "text.adapter_epochs": 1},
    }


@dataclass(frozen=True)
class Shop:
    """A run and its refit.

    Attributes:
        folder: Data sets, `then` in the folder itself and now in `now`.
        output: Folder of all that was written.
        run_id: The run.
        refitted: Its refit on what is there now.
    """

    folder: Path
    output: Path
    run_id: str
    refitted: Refitted

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.output / 'mlflow.db'}")


def run_gates(config: ExperimentConfig, output: Path) -> str:
    from softgrpo.flows.pipeline import run_softgrpo, softgrpo_flow, with_body

    body = partial(run_softgrpo, config, "gates", (), output, None, check=False, parallel=1, dask=None)
    return with_body(softgrpo_flow, body)().run_id


def refit(run_id: str, output: Path, data: Path | None = None) -> Refitted:
    from softgrpo.flows.pipeline import with_body
    from softgrpo.flows.refit import refit_flow, run_refit

    return with_body(refit_flow, partial(run_refit, open_to_refit(run_id, output, data), output, 1))()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Shop]:
    folder, output = tmp_path_factory.mktemp("shop"), tmp_path_factory.mktemp("output")
    shutil.copy(empty_database, output / "mlflow.db")
    write_shop(folder, grown=False)
    write_shop(folder / "now", grown=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_id = run_gates(resolve("shop", "tiny", overrides=settings(folder)), output)
        yield Shop(folder, output, run_id, refit(run_id, output, folder / "now"))


def items(answer: dict[str, Any]) -> list[str]:
    return [each["item"] for each in answer["items"]]


def test_what_is_new_is_served_by_the_refit_alone(shop: Shop) -> None:
    """Item 12 is new to the run, whose lists have only the five other items; so is user 24, whom BPR of the refit knows."""
    then, now = (open_stored(run_id, shop.output) for run_id in (shop.run_id, shop.refitted.run_id))
    history = [f"i{item:02}" for item in range(5, 12)]
    for run, known in ((then, False), (now, True)):
        router = Router.load(run, "EASE")
        assert ("i12" in items(router.recommend(history, k=6))) == known
        answer = router.recommend(["i02", "i12"], user="u24")
        assert answer["unknown_items"] == int(not known) and ("BPR" in answer["without"]) != known
    whole = load_corpus(now.folders["snapshot"])
    taken = [whole.items["token"][item] for item in whole.sequence(2)]
    asked = Router.load(now, "static").recommend(taken, user="u02", k=3)
    assert taken[-1] == "i12" and not set(items(asked)) & set(taken)
    text = Router.load(now, "Text").recommend(["i00", "i03"], k=12)
    assert items(text).index("i12") < items(text).index("i01")  # its text is that of items 0 and 3


def test_a_refit_keeps_the_epochs_and_its_lineage(shop: Shop) -> None:
    refitted, client = shop.refitted, shop.client
    run = client.get_run(refitted.run_id)
    stored = open_stored(shop.run_id, shop.output).folders["recall-BPR"]
    valid = json.loads((stored / "curves.json").read_text())["recall_valid_ndcg"]["value"]
    best = len(valid) - valid[::-1].index(max(valid))
    recipe = open_stored(refitted.run_id, shop.output).folders["recall-BPR"] / "model" / "recaller.json"
    assert json.loads(recipe.read_text())["settings"]["epochs"] == best
    tags = run.data.tags
    assert tags["refit_of"] == shop.run_id and tags["stage"] == "refit" and run.info.status == "FINISHED"
    split = client.get_run(client.get_run(shop.run_id).data.tags["stage_run.split"]).data.tags["digest"]
    assert refitted.data == {"then": split, "now": tags["data_digest_now"]} and tags["data_digest_then"] == split
    assert "those of run" in tags["mlflow.note.content"]
    assert refitted.counts["new_users"] == 1 and refitted.counts["new_items"] == 1
    assert refitted.counts["new_interactions"] == 7 and refitted.model == ""  # the run has no policy
    assert refitted.recallers == ("BPR", "EASE") and refitted.reused == ()


def test_the_same_again_trains_nothing_and_new_data_trains_all(shop: Shop) -> None:
    again = refit(shop.run_id[:8], shop.output, shop.folder / "now")
    assert again.reused == ("snapshot", "refit-BPR", "refit-EASE", "embed-snapshot")
    shutil.rmtree(next((shop.output / "stages").glob("refit-BPR-*[0-9a-f]")))
    assert refit(shop.run_id, shop.output, shop.folder / "now").reused == again.reused  # it comes back from MLflow
    then = refit(shop.run_id, shop.output)
    assert then.reused == () and then.counts["new_interactions"] == 0


def test_what_is_refused(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a refit of run.*those of the run that was"):
        open_to_refit(shop.refitted.run_id, shop.output)
    stage = shop.client.get_run(shop.run_id).data.tags["stage_run.split"]
    with pytest.raises(ConfigError, match="It must be the run of a pipeline"):
        open_to_refit(stage, shop.output)
    with pytest.raises(DataError, match=r"shop\.inter"):
        open_to_refit(shop.run_id, shop.output, tmp_path)
    write_shop(tmp_path, grown=False)
    path = tmp_path / "shop" / "shop.inter"
    path.write_text("".join(line for line in path.open() if not line.startswith("u07")))
    with pytest.raises(DataError, match="1 of the run's 24 users are gone: u07"):
        refit(shop.run_id, shop.output, tmp_path)
    (failed,) = shop.client.search_runs(["1"], "tags.stage = 'refit' and attributes.status = 'FAILED'")
    with pytest.raises(ConfigError, match="a refit that is FAILED"):
        open_stored(failed.info.run_id, shop.output)


def test_a_stage_without_curves_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = open_stored(shop.run_id, shop.output).folders["recall-BPR"]
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("curves.json"))
    monkeypatch.setattr(LocalStore, "payload", lambda self, key: bare if "BPR" in key else self.root / key)
    monkeypatch.setattr(LocalStore, "find", LocalStore.marked)
    with pytest.raises(StoreError, match="recaller BPR has no curve"):
        open_to_refit(shop.run_id, shop.output)
