"""A run from training to the users of tomorrow: refitted, killed in between, served over HTTP, and scored by Prefect at night."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.serving import served
from softgrpo.flows.results.finished import open_stored
from softgrpo.flows.services.control import Services
from softgrpo.serving.router import Router
from tests.reliability.runs import Api, Problem, Tracked, digests, stages_run
from tests.tasks.tracking.test_bundles import post

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HISTORY = ["i0", "i4", "i8", "fresh"]


def grow(problem: Problem) -> None:
    """Adds an item that users of one group take, and a user."""
    path = problem.data / problem.dataset / f"{problem.dataset}.inter"
    rows = [f"u{user}\tfresh\t4\t1900000000" for user in range(0, 60, 4)]
    rows += [f"guest\ti{item}\t4\t{1900000000 + item}" for item in range(0, 40, 4)]
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(rows) + "\n", encoding="utf-8")


def as_table(router: Router, history: list[str]) -> pd.DataFrame:
    """Returns the lists of a new user as a request to the served model."""
    run = router.run
    numbers = run.item_index.get_indexer(pd.Index(history)).astype(np.int32)
    lists = run.lister(np.array([-1]), [numbers])
    tokens = run.corpus.items["token"].to_numpy(object)
    rows: list[dict[str, Any]] = []
    for name, items, scores in zip(lists.recallers, lists.items[0], lists.scores[0], strict=True):
        listed = items >= 0
        rows += [
            {"recaller": name, "item": tokens[item], "score": float(score)}
            for item, score in zip(items[listed], scores[listed], strict=True)
        ] or [{"recaller": name}]
    frame = pd.DataFrame(rows)
    frame.insert(0, "request", "guest of tomorrow")
    frame["history"] = [history] + [None] * (len(rows) - 1)
    return frame


def test_a_new_user_gets_over_http_what_the_offline_merge_gives(
    make_problem: Callable[..., Problem], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, refit on data that grew, with kill -9 in the middle, serve `@fresh`, ask: equal to the last digit."""
    problem = make_problem("tomorrow", services)
    problem.run()
    tracked = Tracked(problem)
    (evaluated,) = tracked.runs("tags.stage = 'pipeline'")
    words = ("refit", evaluated.info.run_id, "--parallel", "1", "--output", str(problem.output))
    grow(problem)
    killed = problem.order(*words)
    killed.freeze_at("stages/.staging/refit-BPR-*")
    killed.kill()
    before = digests(problem.output)
    assert "snapshot" in before and "refit-BPR" not in before
    said = problem.order(*words, "--json").end()
    assert stages_run(said) == ["refit-BPR", "refit-ItemKNN"]
    refit = json.loads(said[said.index("{\n") :])
    assert refit["reused"] == ["snapshot"] and refit["alias"] == "fresh" and refit["evaluated"] is False

    name = refit["model"].partition(",")[0]
    version = tracked.client.get_model_version_by_alias(name, "fresh")
    assert version.tags["refit_of"] == evaluated.info.run_id and version.tags["refit_run"] == refit["run_id"]
    data = {when: version.tags[f"data_digest_{when}"] for when in ("then", "now")}
    assert data == refit["data"] == {"then": before["split"], "now": before["snapshot"]}
    assert tracked.client.get_model_version_by_alias(name, "best").run_id != refit["run_id"]
    problem.order(*words).end()  # the same again is the same version
    assert tracked.client.get_model_version_by_alias(name, "fresh").version == version.version

    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.addresses["MLFLOW_TRACKING_URI"])
    router = Router.load(open_stored(refit["run_id"], problem.output), "grpo_multi")
    offline = router.recommend(HISTORY, k=10)
    assert offline["unknown_items"] == 0 and len(offline["items"]) == 10
    with served(f"models:/{name}@fresh") as address:
        status, answer = post(address, as_table(router, HISTORY), k=10)
    assert status == 200, answer
    rows: list[dict[str, Any]] = answer["predictions"]  # type: ignore[assignment]
    assert [row["item"] for row in rows] == [item["item"] for item in offline["items"]]
    for row, item in zip(rows, offline["items"], strict=True):
        assert row["score"] == item["score"] and row["reason"] == offline["reason"]
        for recaller in router.run.answerer.recallers:
            assert row[f"from_{recaller}"] == item["from"][recaller]
            assert row[f"weight_{recaller}"] == offline["weights"][recaller]


def test_prefect_refits_and_scores_with_the_freshest(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("nightly", services), Api(services)
    problem.run()
    grow(problem)

    def night(deployment: str, **parameters: Any) -> str:
        given = {"dataset": problem.dataset, "output": str(problem.output), **parameters}
        path = f"deployments/{api.deployment(deployment)}/create_flow_run"
        flow_run = str(api.ask("POST", path, {"parameters": given})["id"])
        assert api.end(flow_run) == "COMPLETED", api.message(flow_run)
        return api.lines(flow_run)

    assert stages_run(night("refit")) == ["snapshot", "refit-BPR", "refit-ItemKNN"]
    assert stages_run(night("refit")) == []
    (first, _) = Tracked(problem).runs("tags.stage = 'refit'")
    night("score", fresh=True, method="static", k=3)
    table = pd.read_parquet(Path(problem.output) / "scores" / f"{first.info.run_id}.parquet")
    assert len(table[table["user"] == "guest"]) == 3 and len(table) == 61 * 3
    refused = api.ask(
        "POST",
        f"deployments/{api.deployment('score')}/create_flow_run",
        {"parameters": {"dataset": "elsewhere", "fresh": True, "output": str(problem.output)}},
    )
    assert api.end(refused["id"]) == "FAILED" and "softgrpo refit RUN" in api.message(refused["id"])
