"""Request bodies of search engines: interpreted by the documented formulas they give the run's own merged lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import FusionConfig
from softgrpo.errors import ConfigError
from softgrpo.serving.engine_files import check_engines, read_queries, write_engine_files
from softgrpo.serving.merging import merge_lists
from softgrpo.serving.search_engines import ENGINES, Engine, difference, placeholders, request_body

RECALLERS = ("BPR", "SASRec", "Pop")
WEIGHTS = {"BPR": 0.61, "SASRec": 0.3, "Pop": 0.09}
Lists = dict[str, list[tuple[int, float]]]
"""Of each recaller (item, score), best first."""
RRF, MINMAX = FusionConfig(method="rrf"), FusionConfig(method="score", normalisation="minmax")


def random_lists(seed: int) -> Lists:
    generator = np.random.default_rng(seed)
    return {
        name: list(
            zip(generator.permutation(30)[:12].tolist(), np.sort(generator.normal(size=12))[::-1].tolist(), strict=True)
        )
        for name in RECALLERS
    }


def minmax(hits: list[tuple[int, float]]) -> dict[int, float]:
    low, high = min(score for _, score in hits), max(score for _, score in hits)
    return {item: (score - low) / (high - low) for item, score in hits}


def interpret(engine: Engine, body: dict[str, Any], lists: Lists) -> list[int]:
    """Answers a body by the documented formula of the engine; a query is the name of a recaller, in a form of its own."""
    totals: dict[int, float] = {}

    def add(weight: float, scores: dict[int, float]) -> None:
        for item, score in scores.items():
            totals[item] = totals.get(item, 0.0) + weight * score

    if engine == "elasticsearch":
        ((kind, options),) = body["retriever"].items()
        for part in options["retrievers"]:
            hits = lists[part["retriever"]["name"]][: options["rank_window_size"]]
            ranked = {item: 1 / (options.get("rank_constant", 0) + rank) for rank, (item, _) in enumerate(hits, 1)}
            scored = dict(hits) if part.get("normalizer") == "none" else minmax(hits)
            add(part["weight"], ranked if kind == "rrf" else scored)
        size = body["size"]
    elif engine == "opensearch":
        (processor,) = body["search_pipeline"]["phase_results_processors"]
        combination = next(iter(processor.values()))["combination"]
        weights = combination["parameters"]["weights"]
        assert sum(weights) == pytest.approx(1.0, abs=1e-12) and all(0 <= weight <= 1 for weight in weights)
        for weight, query in zip(weights, body["query"]["hybrid"]["queries"], strict=True):
            hits = lists[query["name"]][: body["size"]]
            ranked = {item: 1 / (combination.get("rank_constant", 0) + rank) for rank, (item, _) in enumerate(hits, 1)}
            add(weight, ranked if "score-ranker-processor" in processor else minmax(hits))
        size = 6
    else:
        terms = body["query"]["formula"]["sum"]
        assert body["query"]["defaults"] == {f"$score[{place}]": 0.0 for place in range(3)}
        for place, (term, fetched) in enumerate(zip(terms, body["prefetch"], strict=True)):
            weight, variable = term["mult"]
            assert variable == f"$score[{place}]"
            nested = "prefetch" in fetched
            query = fetched["prefetch"][0] if nested else fetched
            hits = lists[query["name"]][: query["limit"]]
            if nested:  # ranks from 0
                add(weight, {item: 1 / (fetched["query"]["rrf"]["k"] + rank) for rank, (item, _) in enumerate(hits)})
            else:
                add(weight, dict(hits))
        size = body["limit"]
    return sorted(totals, key=lambda item: -totals[item])[:size]


def own_merge(lists: Lists, fusion: FusionConfig) -> list[int]:
    items = np.array([[[item for item, _ in lists[name]] for name in RECALLERS]], dtype=np.int32)
    scores = np.array([[[score for _, score in lists[name]] for name in RECALLERS]], dtype=np.float32)
    merged, _ = merge_lists(items, scores, np.array([list(WEIGHTS.values())]), fusion, None, 6)
    found: list[int] = merged[0].tolist()
    return found


@pytest.mark.parametrize(
    ("engine", "fusion"),
    [
        *((engine, RRF) for engine in ENGINES),
        *((engine, FusionConfig(method="rrf", rrf_k=10)) for engine in ENGINES),
        ("elasticsearch", MINMAX),
        ("opensearch", MINMAX),
        ("elasticsearch", FusionConfig(method="score", normalisation="none")),
        ("qdrant", FusionConfig(method="score", normalisation="none")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_body_merges_as_the_run_does(engine: Engine, fusion: FusionConfig) -> None:
    assert difference(engine, fusion) == ""
    queries = {name: {"name": name} for name in RECALLERS}
    for seed in range(20):
        lists = random_lists(seed)
        body = request_body(engine, WEIGHTS, queries, fusion, 12, 6)
        assert interpret(engine, json.loads(json.dumps(body)), lists) == own_merge(lists, fusion)


@pytest.mark.parametrize(
    ("engine", "fusion", "named"),
    [
        ("elasticsearch", FusionConfig(method="quota"), "constant 60"),
        ("opensearch", FusionConfig(method="score", normalisation="zscore"), "z_score"),
        ("elasticsearch", FusionConfig(method="score", normalisation="softmax"), "minmax"),
        ("qdrant", MINMAX, "constant 60"),
        ("qdrant", FusionConfig(method="rrf", rrf_k=0.4), "constant 1"),
    ],
)
def test_what_an_engine_cannot_do_is_said(engine: Engine, fusion: FusionConfig, named: str) -> None:
    assert named in difference(engine, fusion) and fusion.name in difference(engine, fusion)


def test_bodies_as_the_documentation_has_them() -> None:
    weights = {"A": 2 / 3, "B": 1 / 3}
    queries = {"A": {"match": {"title": "x"}}, "B": {"knn": {"v": {"vector": [1], "k": 9}}}}
    assert request_body("opensearch", weights, queries, MINMAX, 9, 3) == {
        "size": 9,
        "query": {"hybrid": {"queries": [queries["A"], queries["B"]]}},
        "search_pipeline": {
            "phase_results_processors": [
                {
                    "normalization-processor": {
                        "normalization": {"technique": "min_max"},
                        "combination": {
                            "technique": "arithmetic_mean",
                            "parameters": {"weights": [0.666667, 0.333333]},
                        },
                    }
                }
            ]
        },
    }
    assert request_body("elasticsearch", weights, placeholders(("A", "B")), RRF, 9, 3) == {
        "retriever": {
            "rrf": {
                "retrievers": [
                    {"retriever": "<query of A>", "weight": 0.666667},
                    {"retriever": "<query of B>", "weight": 0.333333},
                ],
                "rank_constant": 60,
                "rank_window_size": 9,
            }
        },
        "size": 3,
    }


def test_the_files_have_a_line_for_each_user(tmp_path: Path) -> None:
    users = pd.DataFrame(
        {"user": ["7", "é"], "weights": "policy", "reason": "", "weight_A": [0.75, 0.0], "weight_B": [0.25, 1.0]}
    )
    (tmp_path / "q.json").write_text(
        json.dumps({"qdrant": {"A": {"query": "{user}", "using": "a"}, "B": {"query": [1]}}})
    )
    queries = read_queries(tmp_path / "q.json", ("qdrant",), ("A", "B"))
    files = write_engine_files(tmp_path / "w", users, ("opensearch", "qdrant"), queries, RRF, 9, 3)
    assert [path.name for path in files] == ["weights.parquet", "opensearch.jsonl", "qdrant.jsonl"]
    pd.testing.assert_frame_equal(pd.read_parquet(files[0]), users)
    lines = [json.loads(line) for line in files[2].read_text(encoding="utf-8").splitlines()]
    assert [line["user"] for line in lines] == ["7", "é"]
    assert lines[1]["body"]["prefetch"][0]["prefetch"] == [{"query": "é", "using": "a", "limit": 9}]
    assert [term["mult"][0] for term in lines[0]["body"]["query"]["formula"]["sum"]] == [0.75, 0.25]
    assert "<query of A>" in files[1].read_text()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "CONFIG-097"),
        ("{", "CONFIG-097"),
        ("[]", "CONFIG-098"),
        ('{"qdrant": {"A": {}}}', "CONFIG-098"),
        ('{"opensearch": {"A": {}}}', "CONFIG-099"),
        ('{"opensearch": {"A": {}, "B": {}, "C": {}}}', "CONFIG-099"),
        ('{"opensearch": {"A": {}, "B": "hi"}}', "CONFIG-114"),
    ],
)
def test_wrong_queries_are_refused(text: str | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=code):
        read_queries(path, ("opensearch",), ("A", "B"))


def test_wrong_engines_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG-100.*|qdrant"):
        check_engines(["quadrant"])
    six = dict.fromkeys("ABCDEF", 1 / 6)
    with pytest.raises(ConfigError, match="CONFIG-096"):
        request_body("opensearch", six, placeholders(tuple(six)), RRF, 9, 3)
