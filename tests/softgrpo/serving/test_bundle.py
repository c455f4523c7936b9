"""Bundles: what they answer is what the run answers, and a wrong table gets a clear answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softgrpo.baselines.item_ranker import Ranking, load_ranker
from softgrpo.common.records import Part
from softgrpo.data.windows import history_of
from softgrpo.errors import CandidateError, ConfigError, PolicyError
from softgrpo.serving.answers import NOTHING_KNOWN, open_answerer
from softgrpo.serving.bundle import Bundle, load_bundle, save_bundle
from softgrpo.serving.recommend import recommend, stored_weights
from softgrpo.stages.ranker import rank_rows
from tests.softgrpo.baselines.cases import ITEMS
from tests.softgrpo.stages.tiny_run import (
    DEPTH,
    RECALLERS,
    TinyRun,
    coloured_corpus,
    four_windows,
    run_stages,
    toy_model,
)

PROMPT = {
    "history_items": 4,
    "top_items": 1,
    "history_length": True,
    "track_record": True,
    "overlap": True,
    "max_length": 64,
}
LANGUAGE_MODELS = ["sft_multi", "grpo_single", "grpo_multi"]
"""Their weights are equal to 1e-6, those of all others to the last digit: a prompt may get another one in another batch."""
NUMBERS = {"shape": True, "agreement": True, "popularity": True}


def new_items() -> np.ndarray:
    """Returns seeded lists (W, 2, DEPTH) without items of the histories; some are short, some are empty."""
    corpus, windows, rng = coloured_corpus(), four_windows(), np.random.default_rng(3)
    lists = np.full((len(windows), 2, DEPTH), -1, dtype=np.int32)
    for row in range(len(windows)):
        left = np.setdiff1d(np.arange(ITEMS), history_of(corpus, windows, row))
        for recaller in range(2):
            width = min(DEPTH, len(left))
            lists[row, recaller, :width] = rng.permutation(left)[:width]
    lists[::7, 0, 5:] = -1
    lists[3::11, 1] = -1
    return lists


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("bundle")
    policy = {"model_name": toy_model(folder / "base"), "numbers": "head"}
    corpus, model = coloured_corpus(), str(policy["model_name"])
    return run_stages(folder / "run", model, corpus, new_items(), prompt=PROMPT, features=NUMBERS, policy=policy)


@pytest.fixture(scope="module")
def bundle(run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    save_bundle(folder, run.prepared, run.folders, "grpo_multi")
    return load_bundle(folder)


def table(run: TinyRun, rows: np.ndarray) -> pd.DataFrame:
    """Returns windows of the run as a table of candidates with all that is known of the users."""
    prepared = run.prepared
    corpus, windows, lists, features = (
        prepared.corpus,
        prepared.windows,
        prepared.stored_lists.rows(np.arange(len(prepared.windows))),
        prepared.features,
    )
    tokens = corpus.items["token"].to_numpy(object)
    records: list[dict[str, Any]] = []
    for row in rows:
        user, history = int(windows.user[row]), history_of(corpus, windows, row)
        known = {
            "request": str(corpus.users["token"][user]),
            "history": tokens[history].tolist(),
            "history_times": corpus.time[corpus.offsets[user] :][: len(history)].tolist(),
            "user_colour": corpus.users["colour"][user],
            "record_windows": float(features.track_count[row]),
        }
        for place, name in enumerate(lists.recallers):
            of = {
                "recaller": name,
                "record_ndcg": features.track_ndcg[row, place],
                "record_rank": features.track_rank[row, place],
            }
            pairs = zip(lists.items[row, place], lists.scores[row, place], strict=True)
            listed = [{"item": tokens[item], "score": float(score)} for item, score in pairs if item >= 0]
            records += [known | of | each for each in listed or [{"item": None, "score": None}]]
    return pd.DataFrame(records)


def _stored(run: TinyRun, key: str) -> np.ndarray | Ranking:
    """Returns what the run itself says of its test windows."""
    if key == "ranker":
        return rank_rows(run.prepared, load_ranker(run.folders["gates"]), run.prepared.windows.of(Part.TEST))
    return stored_weights(run.folders["test"], RECALLERS, key)


@pytest.mark.parametrize("key", ["Left", "static", "gate_thirds", "gate_stacking", "ranker", *LANGUAGE_MODELS])
def test_a_bundle_answers_as_the_run_does(run: TinyRun, key: str, tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", run.prepared, run.folders, key)
    answered = load_bundle(tmp_path / "bundle")(table(run, run.prepared.windows.of(Part.TEST)))
    expected = recommend(run.prepared, _stored(run, key), None, 5, key)
    merged = expected.items.merge(expected.users, on="user", sort=False)
    own = (
        answered["reason"].eq("").to_numpy()
    )  # the run gives the weights of a method even where they fall on an empty list
    assert own.mean() > 0.8
    assert set(answered.loc[own, "method"]) == {key}
    told = ["item", "score", *(f"from_{name}" for name in RECALLERS), *(f"weight_{name}" for name in RECALLERS)]
    merged = merged[merged["user"].isin(answered.loc[own, "request"])]
    pd.testing.assert_frame_equal(
        answered.loc[own, ["request", "rank", *told]].reset_index(drop=True),
        merged[["user", "rank", *told]].rename(columns={"user": "request"}).reset_index(drop=True),
        check_exact=key not in LANGUAGE_MODELS,
        rtol=0,
        atol=1e-6,
        check_dtype=False,
    )


def test_the_language_model_may_lie_elsewhere(run: TinyRun, bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", run.prepared, run.folders, "grpo_multi", copy=False)
    assert not (tmp_path / "bundle/policy").exists()
    asked = table(run, run.prepared.windows.of(Part.TEST)[:4])
    elsewhere = load_bundle(tmp_path / "bundle", run.folders["grpo"])
    pd.testing.assert_frame_equal(elsewhere(asked), bundle(asked), check_exact=True)


def test_what_is_not_known_may_be_left_out(run: TinyRun, bundle: Bundle) -> None:
    rows = run.prepared.windows.of(Part.TEST)[1:4]
    bare = table(run, rows)[["request", "recaller", "item", "score"]]
    answered = bundle(bare)
    assert answered["request"].nunique() == 3 and (answered["reason"] == "").all()
    weights = answered[[f"weight_{name}" for name in RECALLERS]].to_numpy()
    np.testing.assert_allclose(weights.sum(1), 1)
    assert not np.allclose(weights, bundle(table(run, rows))[[f"weight_{name}" for name in RECALLERS]].to_numpy())
    shuffled = bundle(
        bare.sample(frac=1, random_state=0)
    )  # lists are ordered by score, requests by where they first occur
    first = shuffled[shuffled["request"] == "u1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, answered[answered["request"] == "u1"].reset_index(drop=True))


def test_items_that_the_run_never_saw_are_merged_and_named(run: TinyRun, bundle: Bundle) -> None:
    asked = pd.DataFrame(
        {
            "request": "new",
            "recaller": ["Left", "Left", "Right"],
            "item": ["fresh", "0", "fresh"],
            "score": [2.0, 1.0, 3.0],
        }
    )
    asked["item"] = ["fresh", str(run.prepared.corpus.items["token"][0]), "fresh"]
    asked["history"] = [["older", "oldest"]] * 3
    asked["history_titles"] = [["An old thing", "Older"]] * 3
    answered = bundle(asked)
    assert answered["item"].tolist() == asked["item"][:2].tolist()
    requests = bundle.read(asked).requests
    assert requests.corpus.items["title"].iloc[-3:].tolist() == ["", "An old thing", "Older"]
    prompts = bundle._knowing(requests).describe(requests).prompts(run.config.told_prompt)
    assert "An old thing; Older" in prompts[0].text()


def test_no_candidate_at_all_gets_the_common_lists(bundle: Bundle) -> None:
    asked = pd.DataFrame({"request": "nobody", "recaller": RECALLERS, "item": None, "score": None})
    answered = bundle(asked)
    assert set(answered["method"]) == {"static"} and set(answered["reason"]) == {NOTHING_KNOWN} and len(answered) == 5


def changed(**values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Returns what puts values into the second row of a table."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            frame.loc[frame.index[1], name] = value
        return frame

    return change


def timed(*times: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Returns what gives a table a history of two items with such times."""
    return lambda frame: frame.assign(history=[["a", "b"]] * len(frame), history_times=[list(times)] * len(frame))


def titled(*titles: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Returns what gives a table a history of two items with such titles."""
    return lambda frame: frame.assign(history=[["a", "b"]] * len(frame), history_titles=[list(titles)] * len(frame))


def deeper(frame: pd.DataFrame) -> pd.DataFrame:
    items = [f"x{place}" for place in range(10_000)]
    return pd.concat([frame, pd.DataFrame({"request": "u1", "recaller": "Left", "item": items, "score": 1.0})])


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        (lambda frame: frame.drop(columns="score"), "CANDIDATE-018", "score"),
        (lambda frame: frame[:0], "CANDIDATE-018", "without rows"),
        (changed(request=None), "CANDIDATE-019", "request"),
        (changed(recaller="Pop"), "CANDIDATE-020", "Pop"),
        (changed(score=np.nan), "CANDIDATE-021", "nan"),
        (changed(score=np.inf), "CANDIDATE-021", "inf"),
        (lambda frame: frame[frame["recaller"] == "Left"], "CANDIDATE-022", "without Right"),
        (lambda frame: pd.concat([frame, frame[:1]]), "CANDIDATE-023", "twice"),
        (deeper, "CANDIDATE-024", "10,0"),
        (lambda frame: frame.assign(history=[[frame["item"].iloc[0]]] * len(frame)), "CANDIDATE-025", "in its history"),
        (timed(3.0, 2.0), "CANDIDATE-026", "the times 3, 2"),
        (timed(3.0, np.nan), "CANDIDATE-026", "the times 3, nan"),
        (timed(3.0), "CANDIDATE-027", "1 times for 2 items"),
        (titled("One"), "CANDIDATE-027", "1 titles for 2 items"),
        (lambda frame: titled("One", "Two")(frame).drop(columns="history"), "CANDIDATE-027", "2 titles for 0 items"),
    ],
)
def test_a_wrong_table_gets_a_clear_answer(
    change: Callable[[pd.DataFrame], pd.DataFrame], code: str, value: str, run: TinyRun, bundle: Bundle
) -> None:
    row = run.prepared.windows.of(Part.TEST)[1:2]
    bare = table(run, row)[["request", "recaller", "item", "score"]]
    with pytest.raises(CandidateError) as raised:
        bundle(change(bare))
    assert raised.value.code == code and value in str(raised.value)


def test_a_list_that_is_too_long_and_a_method_that_is_not_there(run: TinyRun, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CONFIG-089"):
        bundle(table(run, run.prepared.windows.of(Part.TEST)[:1]), DEPTH + 1)
    with pytest.raises(PolicyError, match="POLICY-046"):
        save_bundle(tmp_path / "bundle", run.prepared, run.folders, "gate_magic")


def test_a_bundle_of_another_format_is_refused(run: TinyRun, tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", run.prepared, run.folders, "static")
    card = tmp_path / "bundle/bundle.json"
    card.write_text(card.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(PolicyError, match="POLICY-050"):
        load_bundle(tmp_path / "bundle")


def test_the_offline_answerer_says_the_same(run: TinyRun, bundle: Bundle) -> None:
    """The reader makes the requests that the run's own answerer gets from histories."""
    from tests.softgrpo.serving.test_answers import asked

    rows = run.prepared.windows.of(Part.TEST)
    answers = open_answerer(run.prepared, run.folders, "grpo_multi")(asked(run, rows), 5)
    answered = bundle(table(run, rows))
    per_request = answered.drop_duplicates("request")
    np.testing.assert_array_equal(per_request[[f"weight_{name}" for name in RECALLERS]].to_numpy(), answers.weights)
