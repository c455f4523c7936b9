"""Learned weights as request bodies of search engines that take a weight for each part of a query.

Schemas as their documentation has them (read in November 2026, no server was asked):

- Elasticsearch: https://www.elastic.co/docs/reference/elasticsearch/rest-apis/retrievers/linear-retriever and
  https://www.elastic.co/docs/reference/elasticsearch/rest-apis/retrievers/rrf-retriever (weights since 9.2)
- OpenSearch: https://docs.opensearch.org/latest/search-plugins/search-pipelines/normalization-processor/ and
  https://docs.opensearch.org/latest/search-plugins/search-pipelines/score-ranker-processor/, as a temporary pipeline,
  https://docs.opensearch.org/latest/search-plugins/search-pipelines/using-search-pipeline/
- Qdrant: https://qdrant.tech/documentation/search/hybrid-queries/ (rrf with k since 1.16) and
  https://qdrant.tech/documentation/search/search-relevance/ (formula)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_never, get_args

from softgrpo.config import FusionConfig
from softgrpo.errors import ConfigError

Engine = Literal["elasticsearch", "opensearch", "qdrant"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
MOST_QUERIES = 5
"""Clauses of a hybrid query of OpenSearch."""
USUAL_K = 60
"""Constant of reciprocal rank fusion where the run's merge has none."""
DIGITS = 6


def request_body(
    engine: Engine, weights: Mapping[str, float], queries: Mapping[str, Any], fusion: FusionConfig, depth: int, k: int
) -> dict[str, Any]:
    """Returns the body of one search request.

    Args:
        engine: Which engine.
        weights: Recaller -> weight, sum 1.
        queries: Recaller -> its query in the engine's own language: a retriever, a query clause, or a prefetch of Qdrant.
        fusion: The run's merge; see `difference` for what the engine cannot do.
        depth: Items that each query retrieves.
        k: Items wanted.

    Raises:
        ConfigError: OpenSearch takes fewer queries than there are recallers.
    """
    match engine:
        case "elasticsearch":
            return _elasticsearch(weights, queries, fusion, depth, k)
        case "opensearch":
            return _opensearch(weights, queries, fusion, depth)
        case "qdrant":
            return _qdrant(weights, queries, fusion, depth, k)
        case _:
            assert_never(engine)


def difference(engine: Engine, fusion: FusionConfig) -> str:
    """Says in which way an engine merges other than the run did; "" where its documented formula is the same."""
    if _by_rank(engine, fusion):
        if fusion.method == "rrf" and float(fusion.rrf_k).is_integer():
            return ""
        return f"the run merges by '{fusion.name}', {engine} by reciprocal rank fusion with the constant {_constant(fusion)}"
    technique = _normaliser(engine, fusion)
    if technique == fusion.normalisation or (engine, fusion.normalisation) == ("opensearch", "minmax"):
        return ""
    return f"the run merges by '{fusion.name}', {engine} normalises scores by {technique}"


def placeholders(recallers: Sequence[str]) -> dict[str, str]:
    """Returns what stands for the query of each recaller until it is filled in."""
    return {name: f"<query of {name}>" for name in recallers}


def filled(query: Any, user: str) -> Any:
    """Returns a query with the name of the user for each `{user}` in its strings."""
    if isinstance(query, str):
        return query.replace("{user}", user)
    if isinstance(query, Mapping):
        return {key: filled(value, user) for key, value in query.items()}
    return [filled(value, user) for value in query] if isinstance(query, list) else query


def _by_rank(engine: Engine, fusion: FusionConfig) -> bool:
    """Tells whether the engine is asked to merge by ranks: as the run does, or because the run's values follow from ranks."""
    if fusion.method != "score" or fusion.normalisation in ("percentile", "rank_reciprocal", "rank_exp"):
        return True
    return engine == "qdrant" and fusion.normalisation != "none"  # it normalises no scores of one query alone


def _constant(fusion: FusionConfig) -> int:
    return max(round(fusion.rrf_k), 1) if fusion.method == "rrf" else USUAL_K


def _normaliser(engine: Engine, fusion: FusionConfig) -> str:
    """Returns the engine's name of the normalisation that is nearest to the run's."""
    if engine == "opensearch":
        return "z_score" if fusion.normalisation == "zscore" else "min_max"
    return "none" if fusion.normalisation == "none" else "minmax"


def _elasticsearch(
    weights: Mapping[str, float], queries: Mapping[str, Any], fusion: FusionConfig, depth: int, k: int
) -> dict[str, Any]:
    ranked = _by_rank("elasticsearch", fusion)
    own = {} if ranked else {"normalizer": _normaliser("elasticsearch", fusion)}
    parts = [{"retriever": queries[name], "weight": weight, **own} for name, weight in _rounded(weights).items()]
    options: dict[str, Any] = {"rank_constant": _constant(fusion)} if ranked else {}
    retriever = {"retrievers": parts, **options, "rank_window_size": max(depth, k)}
    return {"retriever": {"rrf" if ranked else "linear": retriever}, "size": k}


def _opensearch(
    weights: Mapping[str, float], queries: Mapping[str, Any], fusion: FusionConfig, depth: int
) -> dict[str, Any]:
    if len(weights) > MOST_QUERIES:
        raise ConfigError(
            f"{len(weights)} recallers for opensearch",
            f"A hybrid query of OpenSearch has at most {MOST_QUERIES} clauses",
            "Leave opensearch out",
            code="CONFIG-096",
        )
    rounded = _rounded(weights)
    parameters = {"weights": list(rounded.values())}
    if _by_rank("opensearch", fusion):
        combination: dict[str, Any] = {"technique": "rrf", "rank_constant": _constant(fusion), "parameters": parameters}
        processor: dict[str, Any] = {"score-ranker-processor": {"combination": combination}}
    else:
        combination = {"technique": "arithmetic_mean", "parameters": parameters}
        normalization = {"technique": _normaliser("opensearch", fusion)}
        processor = {"normalization-processor": {"normalization": normalization, "combination": combination}}
    return {
        "size": depth,  # what each clause retrieves, too
        "query": {"hybrid": {"queries": [queries[name] for name in rounded]}},
        "search_pipeline": {"phase_results_processors": [processor]},
    }


def _qdrant(
    weights: Mapping[str, float], queries: Mapping[str, Any], fusion: FusionConfig, depth: int, k: int
) -> dict[str, Any]:
    """Returns a formula over the scores of the prefetches: Qdrant's own weighted rrf is not linear in the weights."""
    rounded = _rounded(weights)
    prefetch: list[Any] = [_with_limit(queries[name], depth) for name in rounded]
    if _by_rank("qdrant", fusion):
        # Qdrant counts ranks from 0: 1 / (k + 1 + rank) there is 1 / (k + rank) with ranks from 1
        rrf = {"rrf": {"k": _constant(fusion) + 1}}
        prefetch = [{"prefetch": [query], "query": rrf, "limit": depth} for query in prefetch]
    scores = [f"$score[{place}]" for place in range(len(rounded))]
    terms = [{"mult": [weight, score]} for weight, score in zip(rounded.values(), scores, strict=True)]
    formula = {"formula": {"sum": terms}, "defaults": dict.fromkeys(scores, 0.0)}
    return {"prefetch": prefetch, "query": formula, "limit": k}


def _with_limit(query: Any, depth: int) -> Any:
    return {**query, "limit": depth} if isinstance(query, Mapping) else query


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    """Returns weights with six decimals that sum to exactly 1 in decimals: the largest takes the rest."""
    units = 10**DIGITS
    whole = {name: round(weight * units) for name, weight in weights.items()}
    largest = max(whole, key=lambda name: whole[name])
    whole[largest] += units - sum(whole.values())
    return {name: value / units for name, value in whole.items()}
