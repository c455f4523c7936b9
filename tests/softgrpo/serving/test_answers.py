"""A run asked about new requests: what it says of its own test windows is what it stored, to the last digit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.baselines.item_ranker import load_ranker
from softgrpo.common.artifacts import PROMPTS, WEIGHTS
from softgrpo.common.records import CandidateLists, Part
from softgrpo.data.windows import history_of
from softgrpo.errors import ConfigError, PolicyError
from softgrpo.evaluation.chosen import read_chosen
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.reference import Reference
from softgrpo.serving.answers import NOTHING_KNOWN, OTHERS_ONLY, describer_of, open_answerer
from softgrpo.serving.choice import method_key
from softgrpo.serving.methods import GATE_ROW, fixed_weights, stored_gates
from softgrpo.serving.recommend import recommend, stored_weights
from softgrpo.serving.requests import Requests
from softgrpo.serving.track_records import TrackRecords
from softgrpo.stages.ranker import rank_rows
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun

ROOT = Path(__file__).parents[3]


def asked(run: TinyRun, rows: np.ndarray) -> Requests:
    """Returns windows of the run as requests: users, histories and lists, and nothing of the windows themselves."""
    prepared = run.prepared
    corpus, windows, lists = (
        prepared.corpus,
        prepared.windows,
        prepared.stored_lists.rows(np.arange(len(prepared.windows))),
    )
    users = windows.user[rows].astype(np.int64)
    histories = [history_of(corpus, windows, row) for row in rows]
    times = [
        corpus.time[corpus.offsets[user] :][: len(history)] for user, history in zip(users, histories, strict=True)
    ]
    record = TrackRecords.of(corpus, windows, prepared.features)(users, histories)
    some = CandidateLists(lists.recallers, lists.items[rows], lists.scores[rows])
    return Requests.of(corpus.items, corpus.users.iloc[users], histories, times, some, record)


def test_windows_of_the_run_get_their_own_numbers_and_prompts(run: TinyRun) -> None:
    prepared = run.prepared
    rows = np.arange(len(prepared.windows))
    described = describer_of(prepared, run.folders)(asked(run, rows))
    np.testing.assert_array_equal(described.numbers.values, prepared.numbers.values)
    assert described.prompts(run.config.told_prompt) == load_prompts(prepared.data / PROMPTS, rows)
    for name in ("strength", "peak", "overlap", "track_ndcg", "track_rank", "track_count"):
        np.testing.assert_array_equal(getattr(described.features, name), getattr(prepared.features, name))


@pytest.mark.parametrize("key", [*RECALLERS, "static", "sft_single", "sft_multi", "grpo_single", "grpo_multi"])
def test_test_windows_get_the_weights_that_were_tested(run: TinyRun, key: str) -> None:
    rows = run.prepared.windows.of(Part.TEST)
    answerer = open_answerer(run.prepared, run.folders, key)
    found = answerer.weigher(answerer.describe(asked(run, rows)))
    table = pd.read_parquet(run.folders["test"] / WEIGHTS)
    np.testing.assert_array_equal(found, table.loc[table["method"] == key, list(RECALLERS)].to_numpy())


def test_the_merged_lists_are_those_of_recommend(run: TinyRun) -> None:
    prepared = run.prepared
    rows = prepared.windows.of(Part.TEST)
    answers = open_answerer(prepared, run.folders, "grpo_multi")(asked(run, rows), 5)
    expected = recommend(prepared, stored_weights(run.folders["test"], RECALLERS), None, 5)
    tokens = prepared.corpus.items["token"].to_numpy(object)
    user, place = np.nonzero(answers.items >= 0)
    assert tokens[answers.items[user, place]].tolist() == expected.items["item"].tolist()
    np.testing.assert_array_equal(answers.shares[user, place], expected.items[[f"from_{name}" for name in RECALLERS]])
    assert set(answers.method) == {"grpo_multi"} and set(answers.reason) == {""}
    assert (
        answers.empty.sum()
        == (prepared.stored_lists.rows(np.arange(len(prepared.windows))).items[rows][:, :, 0] < 0).sum()
        > 0
    )


def test_a_batch_of_one_gets_what_a_large_one_gets(run: TinyRun) -> None:
    rows = run.prepared.windows.of(Part.TEST)[:5]
    answerer = open_answerer(run.prepared, run.folders, "grpo_multi")
    whole = answerer(asked(run, rows), 5)
    parts = [answerer(asked(run, rows[at : at + 1]), 5) for at in range(5)]
    assert [part.items[0].tolist() for part in parts] == whole.items.tolist()
    np.testing.assert_allclose(np.concatenate([part.weights for part in parts]), whole.weights, atol=1e-6)


@pytest.mark.parametrize("key", ["grpo_multi", "ranker", "gate_stacking"])
def test_a_request_about_which_nothing_is_known(run: TinyRun, key: str) -> None:
    """Neither a history nor a list: the common lists by the static mixture; the policy is not what answers."""
    prepared = run.prepared
    lists = CandidateLists(RECALLERS, np.full((1, 2, 20), -1, np.int32), np.full((1, 2, 20), np.nan, np.float32))
    nobody = Requests.of(
        prepared.corpus.items, pd.DataFrame({"token": ["new"], "colour": [""]}), [np.empty(0, np.int32)], None, lists
    )
    answers = open_answerer(prepared, run.folders, key)(nobody, 5)
    assert answers.method.tolist() == ["static"] and answers.reason.tolist() == [NOTHING_KNOWN]
    assert answers.empty.all() and (answers.items >= 0).all()
    np.testing.assert_allclose(answers.weights[0], fixed_weights(prepared)["static"])


def test_weight_on_recallers_without_a_list_goes_to_the_others(run: TinyRun) -> None:
    """All weight on Left, whose list is empty: Right's own order."""
    prepared = run.prepared
    items = np.stack([np.full(20, -1), np.arange(20)])[None].astype(np.int32)
    scores = np.where(items >= 0, -np.arange(20), np.nan).astype(np.float32)
    user = pd.DataFrame({"token": ["new"], "colour": [""]})
    request = Requests.of(
        prepared.corpus.items, user, [np.array([25], np.int32)], None, CandidateLists(RECALLERS, items, scores)
    )
    answers = open_answerer(prepared, run.folders, "Left")(request, 5)
    assert answers.items.tolist() == [[0, 1, 2, 3, 4]] and answers.reason.tolist() == [OTHERS_ONLY]
    assert answers.weights.tolist() == [[0.0, 1.0]] and answers.empty.tolist() == [[True, False]]


def test_track_records_end_where_a_history_leaves_the_runs(run: TinyRun) -> None:
    """Windows behind items 2 to 4 and 4 to 6: a history that differs at its sixth item holds the outcome of the first alone."""
    prepared = run.prepared
    records = TrackRecords.of(prepared.corpus, prepared.windows, prepared.features)
    history = prepared.corpus.sequence(3).copy()
    other = history.copy()
    other[5] = (other[5] + 1) % 30
    users = np.array([3, 3, 3, -1])
    ndcg, _, count = records(users, [history, other, history[:3], history])
    own = prepared.features.ndcg[prepared.windows.user == 3]
    assert count.tolist() == [4, 1, 0, 0]
    np.testing.assert_allclose(ndcg[:2], [own.mean(0), own[0]], atol=1e-6)
    assert np.isnan(ndcg[2:]).all()


def test_the_reference_of_a_run_is_one_file(run: TinyRun, tmp_path: Path) -> None:
    prepared = run.prepared
    describe = describer_of(prepared, run.folders)
    describe.reference.save(tmp_path / "reference.safetensors")
    again = replace(describe, reference=Reference.load(tmp_path / "reference.safetensors"))
    rows = prepared.windows.of(Part.VALID)
    one, other = (each(asked(run, rows)) for each in (describe, again))
    np.testing.assert_array_equal(one.numbers.values, other.numbers.values)
    assert one.prompts(run.config.told_prompt) == other.prompts(run.config.told_prompt)


def test_what_cannot_be_asked(run: TinyRun) -> None:
    prepared = run.prepared
    with pytest.raises(PolicyError, match=r"method 'gate_magic'.*Known: Left, Right, gate_"):
        open_answerer(prepared, run.folders, "gate_magic")
    answerer = open_answerer(prepared, run.folders, "static")
    request = asked(run, prepared.windows.of(Part.TEST)[:2])
    with pytest.raises(ConfigError, match=r"k = 21.*lists of 20 items"):
        answerer(request, 21)
    swapped = replace(request, lists=replace(request.lists, recallers=RECALLERS[::-1]))
    with pytest.raises(PolicyError, match=r"lists of Right, Left.*weighs Left, Right"):
        answerer(swapped, 5)
    fewer = replace(answerer.describe, config=run.config.told_features.model_copy(update={"pace": False}))
    with pytest.raises(PolicyError, match="numbers of a request"):
        replace(answerer, describe=fewer)(request, 5)


def test_gates_are_asked_as_they_were_tested(run: TinyRun) -> None:
    rows = run.prepared.windows.of(Part.TEST)
    table = pd.read_parquet(run.folders["test"] / WEIGHTS)
    gates = [key for key in table["method"].unique() if key.startswith(GATE_ROW)]
    assert gates == stored_gates(run.folders) != []
    for key in gates:
        found = open_answerer(run.prepared, run.folders, key)(asked(run, rows), 5)
        weights = table.loc[table["method"] == key, list(RECALLERS)].to_numpy()
        np.testing.assert_allclose(found.weights, weights / weights.sum(1, keepdims=True), rtol=1e-12, err_msg=key)


def test_a_ranker_orders_the_items_of_requests(run: TinyRun) -> None:
    prepared = run.prepared
    rows = prepared.windows.of(Part.TEST)
    expected = rank_rows(prepared, load_ranker(run.folders["gates"]), rows)
    answers = open_answerer(prepared, run.folders, "ranker")(asked(run, rows), 5)
    np.testing.assert_array_equal(answers.items, expected.items[:, :5])
    np.testing.assert_array_equal(answers.scores, expected.scores[:, :5])
    assert np.isnan(answers.weights).all() and np.isnan(answers.shares).all()
    assert set(answers.method) == {"ranker"}


def test_best_is_what_validation_windows_chose(run: TinyRun) -> None:
    chosen = read_chosen(run.folders["test"])
    assert chosen is not None and chosen.best != "grpo_multi"
    k = run.config.fusion.k
    assert method_key(run.folders, k, "best") == chosen.best
    assert method_key(run.folders, k, "static") == "static"
    unfinished = {name: folder for name, folder in run.folders.items() if name not in ("test", "gates")}
    assert method_key(unfinished, k, "best") == "grpo_multi"
    with pytest.raises(ConfigError, match=r"method 'magic'.*static.*ranker.*\[CONFIG-088\]"):
        method_key(run.folders, k, "magic")


def test_the_documents_ask_a_stored_gate(run: TinyRun) -> None:
    page = (ROOT / "docs/howto/trained-policy.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_gate" in text)
    told = {"outputs/stages/gates-0123456789abcdef0123": str(run.folders["gates"]), "boosting": "stacking"}
    for theirs, ours in told.items():
        assert theirs in block
        block = block.replace(theirs, ours)
    rows = run.prepared.windows.of(Part.TEST)
    names = {"values": run.prepared.numbers.values[rows], "history": run.prepared.windows.start[rows]}
    exec(block, names)
    np.testing.assert_allclose(names["weights"].sum(1), 1.0)
    assert names["best"] == read_chosen(run.folders["gates"]).best
