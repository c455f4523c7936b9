"""What the rows and columns of a comparison are, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softgrpo.evaluation.rows import UNBOUNDED, Method

ROWS: Mapping[str, str] = {
    "uniform_score": "The lists merged with equal weights, item by item, by the sum of normalised scores.",
    "uniform_quota": "The lists merged with equal weights, each recaller filling its share of the places.",
    "uniform_rrf": "The lists merged with equal weights by reciprocal rank fusion: 1 / (a constant + the rank) from each list.",
    "global_grid": "One set of weights for all users, the best on a grid, chosen on policy windows.",
    "global_cem": "One set of weights for all users, found by the cross-entropy method on policy windows.",
    "global_bayes": "One set of weights for all users, found by Bayesian optimisation on policy windows.",
    "static": "The best merge with the best weights for everybody, both chosen on validation windows; policies start from it.",
    UNBOUNDED: "The best weights for everybody if the shares had no bounds; beside the best static mixture it tells what the "
    "bounds cost.",
    "gate_thirds": "One set of weights for users with short, one for middle and one for long histories.",
    "gate_neighbours": "The weights that served the most similar policy windows best, by the numbers of a window.",
    "gate_dirichlet": "A small network on the numbers of a window, trained with a Dirichlet policy instead of a language model.",
    "gate_stacking": "Weights that are linear in the numbers of a window (feature-weighted linear stacking).",
    "gate_boosting": "Gradient-boosted trees on the numbers of a window that predict each recaller's NDCG, or the best recaller.",
    "gate_network": "SofT-GRPO with a small network on the numbers of a window instead of a language model.",
    "gate_discrete": "The same network with ordinary GRPO, which samples one recaller at a time.",
    "ranker": "Gradient-boosted trees order the items of all lists one by one: by ranks, scores, popularity and the number of "
    "lists, and by content where the run has embeddings. It weighs no recallers, so it shows what weights cannot reach.",
    "zero_shot_single": "The untrained language model is asked for one recaller.",
    "zero_shot_multi": "The untrained language model's weights for all recallers.",
    "sft_single": "The language model after supervised fine-tuning; only the recaller with its largest weight is shown.",
    "sft_multi": "The language model after supervised fine-tuning; lists are merged with its weights for each user.",
    "grpo_single": "The language model after SofT-GRPO; only the recaller with its largest weight is shown.",
    "grpo_multi": "The language model after SofT-GRPO; lists are merged with its weights for each user. The method itself.",
    "oracle_recaller": "A bound, not a method: for each user and metric the single recaller that turns out best.",
    "oracle_weights": "A bound, not a method: for each user and metric the best weights of a grid, or a better row.",
}
"""Key of a row -> what it is; single recallers and what has no entry are described by their kind."""
KINDS: Mapping[str, str] = {
    "single": "The list of this recaller by itself.",
    "gate": "Weights learned without the language model from the numbers that describe each window.",
    "ranker": "An order of the items of all lists, without weights for the recallers.",
    "static": "One set of weights for all users.",
    "learned": "Weights of a language model.",
    "oracle": "A bound that looks at the answers, not a method.",
}
CHOSEN_SINGLE = "The best of the single recallers on validation windows is the reference 'best single'."


def row_meanings(methods: Sequence[Method], best_single: str) -> dict[str, str]:
    """Returns what each row is: label -> one sentence, two for the best single recaller."""
    meanings = {method.label: ROWS.get(method.key, KINDS[method.kind]) for method in methods}
    label = next(method.label for method in methods if method.key == best_single)
    return meanings | {label: f"{meanings[label]} {CHOSEN_SINGLE}"}


def column_meanings(k: int, confidence: float, draws: int) -> dict[str, str]:
    """Returns what each metric and each column of differences is.

    Args:
        k: Cut-off of the differences.
        confidence: Level of the intervals.
        draws: Of the bootstrap.
    """
    return {
        "NDCG@k": "How high the right items stand in the first k places, from 0 to 1: an item at rank r counts 1 / log2(r + 1), "
        "and the best possible list has 1.",
        "Recall@k": "Share of a user's right items that are among the first k, from 0 to 1.",
        "Hit@k": "Share of users with at least one right item among the first k, from 0 to 1.",
        "MRR": "Mean of 1 / rank of the first right item, from 0 to 1.",
        "Δ": f"Difference in NDCG@{k}; in brackets as a share of the reference.",
        "interval": f"{confidence:.0%} interval of the difference, from a paired bootstrap over users ({draws:,} draws).",
        "p": "Probability of a difference at least as large if there were none, corrected for all comparisons (Holm); "
        f"below 0.05 the difference is called real. With ≤ it is a bound, the smallest p that {draws:,} draws can show.",
        "test window": "The items that a user chose last, which no training and no choice has seen.",
    }


def beyond_meanings(k: int) -> dict[str, str]:
    """Returns what each column of the table beyond accuracy is; they look at the first k items and at no target."""
    return {
        f"Coverage@{k}": f"Share of all items that at least one user sees among the first {k}, from 0 to 1.",
        "Novelty": "How little known the shown items are: the mean of -log2(share of the training interactions), in bits. One bit "
        "more is half as popular.",
        "Gini": "How unevenly items are shown, from 0 (all equally often) to 1 (one item has all places).",
        "Share of places": "How much of the shown lists comes from each recaller, in proportion to what it gives to each item.",
    }
